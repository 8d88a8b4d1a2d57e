// reshape_and_cache and concat_and_cache_mla: new tokens into the paged cache, one launch for keys and values.
// A block takes a few tokens. Where the layout keeps 16 bytes of dims together and source and cache are 16-bit, or the
// cache is fp8, cache_write_rows moves them by 16 bytes of the cache; all else goes through cache_write by 8 elements
// or one at a time.
#include <algorithm>

#include "devices/cuda/kernels/cache_kernels.h"
#include "devices/cuda/kernels/row_moves.cuh"

namespace sextant::cuda {

namespace {

constexpr int kThreads = 256;

// One tensor to be written: rows of `source` [T, heads, dim] at dims [dim_begin, dim_begin + dim) of the cache.
struct WritePart {
  const void* source;
  int64_t token_stride, head_stride;
  DType dtype;
  void* cache;
  KvAddressing address;
  const float* scale;
  int32_t heads, dim, dim_begin, chunks;  // chunks a head: dim / 8 when vectors work, else dim
  bool vectors;
};
struct WriteArgs {
  WritePart parts[2];
  const int64_t* slot_mapping;
  int64_t num_tokens, num_slots;
  int32_t block_size, tokens_a_block, num_scales;
  DType cache_dtype;
};

__global__ void __launch_bounds__(kThreads) cache_write(const WriteArgs a) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * a.tokens_a_block;
  const int tokens = static_cast<int>(min(static_cast<int64_t>(a.tokens_a_block), a.num_tokens - first));
  const uint32_t items0 = a.parts[0].heads * a.parts[0].chunks, items1 = a.parts[1].heads * a.parts[1].chunks;
  const uint32_t items = items0 + items1;
  const bool converts = is_fp8(a.cache_dtype);
  for (uint32_t i = threadIdx.x; i < tokens * items; i += kThreads) {
    const uint32_t t = i / items;
    uint32_t item = i - t * items;
    const bool second = item >= items0;
    const WritePart& part = a.parts[second ? 1 : 0];
    if (second) item -= items0;
    const int64_t slot = __ldg(a.slot_mapping + first + t);
    if (slot < 0 || slot >= a.num_slots) continue;  // a bad slot must not reach other memory
    const int64_t block = static_cast<uint64_t>(slot) / static_cast<uint32_t>(a.block_size);
    const int32_t token = static_cast<int32_t>(slot - block * a.block_size);
    const uint32_t head = item / part.chunks;
    const int32_t d = static_cast<int32_t>(item - head * part.chunks) * (part.vectors ? 8 : 1);
    const int64_t from = (first + t) * part.token_stride + head * part.head_stride + d;
    const int64_t to = cache_row(part.address, block, head, token) + cache_dim(part.address, part.dim_begin + d);
    const float scale = converts && part.scale != nullptr ? __ldg(part.scale + (a.num_scales > 1 ? head : 0)) : 1.0f;
    if (!part.vectors) {
      store_float(a.cache_dtype, part.cache, to, load_float(part.dtype, part.source, from) / scale);
    } else if (!converts && part.dtype != DType::kF32) {
      move_chunk_16bit(part.cache, to, part.source, from);
    } else {
      Chunk c = load_chunk(part.dtype, part.source, from);
#pragma unroll
      for (int e = 0; e < 8; ++e) c.x[e] /= scale;
      store_chunk(a.cache_dtype, part.cache, to, c);
    }
  }
}

// One token of a cache whose scales are found here: a warp a head.
struct ScaledWriteArgs {
  WritePart parts[2];
  float* scales[2];
  KvScaleStrides strides;
  const int64_t* slot_mapping;
  int64_t num_slots;
  int32_t block_size;
  float largest_stored, smallest_scale;
  DType cache_dtype;
};
__global__ void __launch_bounds__(kThreads) cache_write_scaled(const ScaledWriteArgs a) {
  const int64_t row = blockIdx.x, slot = __ldg(a.slot_mapping + row);
  if (slot < 0 || slot >= a.num_slots) return;  // a bad slot must not reach other memory
  const int64_t block = static_cast<uint64_t>(slot) / static_cast<uint32_t>(a.block_size);
  const int32_t token = static_cast<int32_t>(slot - block * a.block_size);
  const int lane = threadIdx.x & 31;
  for (int i = threadIdx.x / 32; i < a.parts[0].heads + a.parts[1].heads; i += kThreads / 32) {
    const int second = i >= a.parts[0].heads ? 1 : 0, head = second ? i - a.parts[0].heads : i;
    const WritePart& part = a.parts[second];
    const int64_t from = row * part.token_stride + head * part.head_stride;
    float largest = 0;
    for (int d = lane; d < part.dim; d += 32)
      largest = fmaxf(largest, fabsf(load_float(part.dtype, part.source, from + d)));
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, mask));
    const float scale = fmaxf(largest / a.largest_stored, a.smallest_scale);
    if (lane == 0) a.scales[second][a.strides.offset(block, head, token)] = scale;
    const int64_t to = cache_row(part.address, block, head, token);
    for (int d = lane; d < part.dim; d += 32)
      store_float(a.cache_dtype, part.cache, to + cache_dim(part.address, d),
                  load_float(part.dtype, part.source, from + d) / scale);
  }
}

cudaError_t launch_scaled(const WriteArgs& w, const ReshapeAndCacheArgs& args, cudaStream_t stream) {
  ScaledWriteArgs a{};
  for (int i = 0; i < 2; ++i) a.parts[i] = w.parts[i];
  a.scales[0] = const_cast<float*>(args.cache.k_scale);
  a.scales[1] = const_cast<float*>(args.cache.v_scale);
  a.strides = args.cache.scale_strides;
  a.slot_mapping = args.slot_mapping;
  a.num_slots = args.cache.spec.num_blocks * args.cache.spec.block_size;
  a.block_size = args.cache.spec.block_size;
  a.largest_stored = largest_stored(args.cache.spec.dtype);
  a.smallest_scale = kSmallestTokenScale;
  a.cache_dtype = args.cache.spec.dtype;
  cache_write_scaled<<<static_cast<unsigned>(args.num_tokens), kThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

constexpr int kMaxTokens = 64;  // of a block of cache_write_rows

template <class Move>
__global__ void __launch_bounds__(kThreads) cache_write_rows(const WriteArgs a) {
  __shared__ int64_t row_of[2][kMaxTokens];  // of each token, head 0, in both caches; -1: a bad slot
  const int64_t first = static_cast<int64_t>(blockIdx.x) * a.tokens_a_block;
  const int tokens = static_cast<int>(min(static_cast<int64_t>(a.tokens_a_block), a.num_tokens - first));
  if (static_cast<int>(threadIdx.x) < tokens) {
    const int64_t slot = __ldg(a.slot_mapping + first + threadIdx.x);
    const bool valid = slot >= 0 && slot < a.num_slots;
    const int64_t block = static_cast<uint64_t>(valid ? slot : 0) / static_cast<uint32_t>(a.block_size);
    const int32_t token = static_cast<int32_t>((valid ? slot : 0) - block * a.block_size);
#pragma unroll
    for (int i = 0; i < 2; ++i) row_of[i][threadIdx.x] = valid ? cache_row(a.parts[i].address, block, 0, token) : -1;
  }
  __syncthreads();
  const int chunks0 = a.parts[0].dim / Move::kElements, chunks1 = a.parts[1].dim / Move::kElements;
  const int items0 = a.parts[0].heads * chunks0, items = items0 + a.parts[1].heads * chunks1;
  const ItemThread thread = find_item(items);
  if (thread.step == 0) return;
  for (int i = thread.item; i < items; i += static_cast<int>(blockDim.x)) {
    const int second = i >= items0 ? 1 : 0, item = second ? i - items0 : i;
    const WritePart& part = a.parts[second];
    const int head = item / (second ? chunks1 : chunks0);
    const int32_t d = (item - head * (second ? chunks1 : chunks0)) * Move::kElements;
    const int64_t from = first * part.token_stride + head * part.head_stride + d;
    const int64_t to = head * part.address.head_stride + cache_dim(part.address, part.dim_begin + d);
    const float scale = part.scale != nullptr ? __ldg(part.scale + (a.num_scales > 1 ? head : 0)) : 1.0f;
    move_item<Move>(
        part.source, part.cache, thread.row, tokens, thread.step, scale,
        [&](int row) { return from + row * part.token_stride; },
        [&](int row) { return row_of[second][row] < 0 ? int64_t{-1} : row_of[second][row] + to; });
  }
}

WritePart make_part(const TensorView& source, int32_t heads, int32_t dim, int32_t dim_begin, void* cache,
                    const KvAddressing& address, const float* scale, const KvCacheSpec& spec) {
  WritePart part{};
  part.source = source.data;
  part.token_stride = source.stride[0];
  part.head_stride = source.rank == 3 ? source.stride[1] : 0;
  part.dtype = source.dtype;
  part.cache = cache;
  part.address = address;
  part.scale = scale;
  part.heads = heads;
  part.dim = dim;
  part.dim_begin = dim_begin;
  part.vectors =
      dim_begin % 8 == 0 && is_vector_aligned(source) && chunk_stride(address, dim, cache, size_of(spec.dtype)) > 0;
  part.chunks = part.vectors ? dim / 8 : dim;
  return part;
}

// `wanted` tokens a block, but never so few blocks that SMs idle.
int64_t spread_tokens(int64_t num_tokens, int64_t wanted) {
  const int64_t spread = num_tokens / 1024;
  return std::max<int64_t>(1, std::min(wanted, spread));
}

// Elements that cache_write_rows moves at a time: 16 bytes of the cache; 0 where cache_write must serve.
int items_together(const WriteArgs& a) {
  const bool fp8 = a.cache_dtype == DType::kF8E4M3FN || a.cache_dtype == DType::kF8E5M2;
  if (!fp8 && a.cache_dtype != DType::kF16 && a.cache_dtype != DType::kBF16) return 0;
  const int n = fp8 ? 16 : 8;
  for (const WritePart& part : a.parts)
    if (!part.vectors || part.dtype == DType::kF32 || part.dtype != a.parts[0].dtype || part.dim_begin % n != 0 ||
        vector_stride(part.address, part.dim, n) == 0 || reinterpret_cast<uintptr_t>(part.cache) % 16 != 0)
      return 0;
  return n;
}

using RowsKernel = void (*)(WriteArgs);
RowsKernel pick_rows_kernel(const WriteArgs& a) {
  const bool bf16 = a.parts[0].dtype == DType::kBF16;
  switch (a.cache_dtype) {
    case DType::kF8E4M3FN:
      return bf16 ? cache_write_rows<MoveToFp8<__nv_bfloat16, __NV_E4M3>>
                  : cache_write_rows<MoveToFp8<__half, __NV_E4M3>>;
    case DType::kF8E5M2:
      return bf16 ? cache_write_rows<MoveToFp8<__nv_bfloat16, __NV_E5M2>>
                  : cache_write_rows<MoveToFp8<__half, __NV_E5M2>>;
    default:
      return cache_write_rows<MoveHalves>;
  }
}

cudaError_t launch(WriteArgs& a, const KvCacheView& cache, const int64_t* slots, int64_t num_tokens,
                   cudaStream_t stream) {
  a.slot_mapping = slots;
  a.num_tokens = num_tokens;
  a.num_slots = cache.spec.num_blocks * cache.spec.block_size;
  a.block_size = cache.spec.block_size;
  a.num_scales = cache.num_scales;
  a.cache_dtype = cache.spec.dtype;
  if (const int n = items_together(a)) {
    const int64_t items = (static_cast<int64_t>(a.parts[0].heads) * a.parts[0].dim +
                           static_cast<int64_t>(a.parts[1].heads) * a.parts[1].dim) /
                          n;
    const int threads = threads_for(items);
    const int64_t together = items < threads ? threads / items : 1;
    a.tokens_a_block = static_cast<int32_t>(spread_tokens(num_tokens, std::min<int64_t>(4 * together, kMaxTokens)));
    const int64_t blocks = (num_tokens + a.tokens_a_block - 1) / a.tokens_a_block;
    const RowsKernel kernel = pick_rows_kernel(a);
    kernel<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(a);
    return cudaGetLastError();
  }
  // About four items a thread.
  const int64_t items = static_cast<int64_t>(a.parts[0].heads) * a.parts[0].chunks +
                        static_cast<int64_t>(a.parts[1].heads) * a.parts[1].chunks;
  a.tokens_a_block = static_cast<int32_t>(spread_tokens(num_tokens, 4 * kThreads / items));
  const int64_t blocks = (num_tokens + a.tokens_a_block - 1) / a.tokens_a_block;
  cache_write<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_reshape_and_cache(const ReshapeAndCacheArgs& args, cudaStream_t stream) {
  const KvCacheSpec& spec = args.cache.spec;
  WriteArgs a{};
  a.parts[0] =
      make_part(args.k, spec.num_kv_heads, spec.head_dim, 0, args.cache.k, args.cache.k_addr, args.cache.k_scale, spec);
  a.parts[1] = make_part(args.v, spec.num_kv_heads, spec.head_dim_v, 0, args.cache.v, args.cache.v_addr,
                         args.cache.v_scale, spec);
  if (spec.has_token_scales()) return launch_scaled(a, args, stream);
  return launch(a, args.cache, args.slot_mapping, args.num_tokens, stream);
}

cudaError_t launch_concat_and_cache_mla(const ConcatAndCacheMlaArgs& args, cudaStream_t stream) {
  const KvCacheSpec& spec = args.cache.spec;
  WriteArgs a{};
  a.parts[0] = make_part(args.kv_c, 1, spec.head_dim_v, 0, args.cache.k, args.cache.k_addr, args.cache.k_scale, spec);
  a.parts[1] = make_part(args.k_pe, 1, spec.head_dim - spec.head_dim_v, spec.head_dim_v, args.cache.k,
                         args.cache.k_addr, args.cache.k_scale, spec);
  return launch(a, args.cache, args.slot_mapping, args.num_tokens, stream);
}

}  // namespace sextant::cuda
