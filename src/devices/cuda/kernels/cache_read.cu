// gather_cache, context_chunk_offsets and copy_blocks.
#include "devices/cuda/kernels/cache_kernels.h"
#include "devices/cuda/kernels/launch.cuh"
#include "devices/cuda/kernels/row_moves.cuh"

namespace sextant::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

struct GatherPart {
  const void* cache;
  KvAddressing address;
  const float* scale;
  void* out;
  int64_t token_stride, head_stride;
  int32_t heads, dim, chunks;
  bool vectors;
};
struct GatherKernelArgs {
  GatherPart parts[2];
  const int32_t* block_table;
  int64_t block_table_stride;
  const int32_t* key_start_loc;
  const int32_t* seq_lens;  // null: chunk_begin counts
  int64_t chunk_begin, max_rows;
  int32_t num_requests, num_blocks, block_size, num_scales;
  DType cache_dtype, out_dtype;
  KvScaleStrides scale_strides;  // of scales of tokens and heads
  bool has_token_scales;
};

struct GatheredRows {
  int64_t first;  // of the block's rows
  int rows;
  int64_t row_of[2][kWarps];  // of each row, head 0, in both caches
  int64_t scale_of[kWarps];   // and of its scale
};
// A warp finds the request of one row and the row's place; then the block copies its rows together. False: no rows.
__device__ __forceinline__ bool find_rows(const GatherKernelArgs& a, GatheredRows& shared) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kWarps,
                total = min(a.max_rows, static_cast<int64_t>(a.key_start_loc[a.num_requests]));
  if (first >= total) return false;
  const int rows = static_cast<int>(min(static_cast<int64_t>(kWarps), total - first));
  for (int row = threadIdx.x / 32; row < rows; row += blockDim.x / 32) {
    const int b = find_start_index(a.key_start_loc, a.num_requests, static_cast<int32_t>(first + row));
    const int64_t begin =
        a.seq_lens != nullptr ? a.seq_lens[b] - (a.key_start_loc[b + 1] - a.key_start_loc[b]) : a.chunk_begin;
    const int64_t position = max(int64_t{0}, begin + first + row - a.key_start_loc[b]);
    const int64_t logical = static_cast<uint64_t>(position) / static_cast<uint32_t>(a.block_size);
    const uint32_t block = min(static_cast<uint32_t>(a.block_table[b * a.block_table_stride + logical]),
                               static_cast<uint32_t>(a.num_blocks - 1));
    const int32_t token = static_cast<int32_t>(position - logical * a.block_size);
    shared.scale_of[row] = a.scale_strides.offset(block, 0, token);
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (a.parts[i].heads > 0) shared.row_of[i][row] = cache_row(a.parts[i].address, block, 0, token);
  }
  if (threadIdx.x == 0) {
    shared.first = first;
    shared.rows = rows;
  }
  __syncthreads();
  return true;
}

// Rows of 16-byte chunks on both sides, by 16 bytes of the cache.
template <class Move>
__device__ __forceinline__ void gather_vector_rows(const GatherKernelArgs& a, GatheredRows& shared) {
  if (!find_rows(a, shared)) return;
  const int chunks0 = a.parts[0].dim / Move::kElements, chunks1 = a.parts[1].dim / Move::kElements;
  const int items0 = a.parts[0].heads * chunks0, items = items0 + a.parts[1].heads * chunks1;
  const ItemThread thread = find_item(items);
  if (thread.step == 0) return;
  for (int i = thread.item; i < items; i += static_cast<int>(blockDim.x)) {
    const bool second = i >= items0;
    const GatherPart& part = a.parts[second ? 1 : 0];
    const int item = second ? i - items0 : i, chunks = second ? chunks1 : chunks0;
    const int head = item / chunks;
    const int32_t d = (item - head * chunks) * Move::kElements;
    const int64_t from = head * part.address.head_stride + cache_dim(part.address, d);
    const int64_t to = shared.first * part.token_stride + head * part.head_stride + d;
    const float scale = part.scale != nullptr ? __ldg(part.scale + (a.num_scales > 1 ? head : 0)) : 1.0f;
    move_item<Move>(
        part.cache, part.out, thread.row, shared.rows, thread.step, scale,
        [&](int row) { return from + shared.row_of[second ? 1 : 0][row]; },
        [&](int row) { return to + row * part.token_stride; });
  }
}

// Any types, layouts and alignments.
__device__ __forceinline__ void gather_any_rows(const GatherKernelArgs& a, GatheredRows& shared) {
  if (!find_rows(a, shared)) return;
  const int64_t first = shared.first;
  const int rows = shared.rows;
  const uint32_t items0 = a.parts[0].heads * a.parts[0].chunks, items = items0 + a.parts[1].heads * a.parts[1].chunks;
#pragma unroll 4
  for (uint32_t i = threadIdx.x; i < rows * items; i += kThreads) {
    const uint32_t row = i / items;
    uint32_t item = i - row * items;
    const bool second = item >= items0;
    const GatherPart& part = a.parts[second ? 1 : 0];
    if (second) item -= items0;
    const uint32_t head = item / part.chunks;
    const int32_t d = static_cast<int32_t>(item - head * part.chunks) * (part.vectors ? 8 : 1);
    const int64_t from =
        shared.row_of[second ? 1 : 0][row] + head * part.address.head_stride + cache_dim(part.address, d);
    const int64_t to = (first + row) * part.token_stride + head * part.head_stride + d;
    const bool scaled = is_quantized(a.cache_dtype) && part.scale != nullptr;
    const int64_t scale_at = a.has_token_scales ? shared.scale_of[row] + head * a.scale_strides.head
                             : a.num_scales > 1 ? head
                                                : 0;
    const float scale = scaled ? __ldg(part.scale + scale_at) : 1.0f;
    if (!part.vectors) {
      store_float(a.out_dtype, part.out, to, load_float(a.cache_dtype, part.cache, from) * scale);
    } else if (a.cache_dtype == a.out_dtype && a.out_dtype != DType::kF32) {
      move_chunk_16bit(part.out, to, part.cache, from);
    } else {
      Chunk c = load_chunk(a.cache_dtype, part.cache, from);
#pragma unroll
      for (int e = 0; e < 8; ++e) c.x[e] *= scale;
      store_chunk(a.out_dtype, part.out, to, c);
    }
  }
}

// They may run beside the kernel before them, whose end comes before that of every block here.
template <class Move>
__global__ void __launch_bounds__(kThreads) gather_vectors(const GatherKernelArgs a) {
  __shared__ GatheredRows shared;
  gather_vector_rows<Move>(a, shared);
  wait_for_previous_kernel();
}
__global__ void __launch_bounds__(kThreads) gather_rows(const GatherKernelArgs a) {
  __shared__ GatheredRows shared;
  gather_any_rows(a, shared);
  wait_for_previous_kernel();
}

GatherPart make_part(const TensorView& out, const void* cache, const KvAddressing& address, const float* scale,
                     int32_t dim, const KvCacheSpec& spec) {
  GatherPart part{};
  part.cache = cache;
  part.address = address;
  part.scale = scale;
  part.out = out.data;
  part.token_stride = out.stride[0];
  part.head_stride = out.stride[1];
  part.heads = spec.num_kv_heads;
  part.dim = dim;
  part.vectors = is_vector_aligned(out) && chunk_stride(address, dim, cache, size_of(spec.dtype)) > 0;
  part.chunks = part.vectors ? dim / 8 : dim;
  return part;
}

using GatherKernel = void (*)(GatherKernelArgs);
template <class T>
GatherKernel pick_gather(DType cache_dtype) {
  switch (cache_dtype) {
    case DType::kF8E4M3FN:
      return gather_vectors<MoveFromFp8<T, __NV_E4M3>>;
    case DType::kF8E5M2:
      return gather_vectors<MoveFromFp8<T, __NV_E5M2>>;
    default:
      return gather_vectors<MoveHalves>;
  }
}
// The kernel that moves 16 bytes of the cache at a time, where it serves; and its items a row.
GatherKernel vector_kernel(const GatherKernelArgs& a, int64_t* items) {
  const bool fp8 = a.cache_dtype == DType::kF8E4M3FN || a.cache_dtype == DType::kF8E5M2;
  if (a.has_token_scales || a.out_dtype == DType::kF32 || (!fp8 && a.cache_dtype != a.out_dtype)) return nullptr;
  const int n = fp8 ? 16 : 8;
  *items = 0;
  for (const GatherPart& part : a.parts) {
    if (part.heads == 0) continue;
    if (!part.vectors || vector_stride(part.address, part.dim, n) == 0 ||
        reinterpret_cast<uintptr_t>(part.cache) % 16 != 0)
      return nullptr;
    *items += static_cast<int64_t>(part.heads) * (part.dim / n);
  }
  return a.out_dtype == DType::kBF16 ? pick_gather<__nv_bfloat16>(a.cache_dtype) : pick_gather<__half>(a.cache_dtype);
}

// One block: an exclusive prefix sum over the requests, 1024 at a time.
__global__ void __launch_bounds__(1024) chunk_offsets(const ContextChunkOffsetsArgs a) {
  __shared__ int32_t warp_sums[32];
  __shared__ int32_t carry;
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) carry = 0;
  __syncthreads();
  for (int first = 0; first < a.num_requests; first += 1024) {
    const int b = first + static_cast<int>(threadIdx.x);
    int32_t keys = 0;
    if (b < a.num_requests) {
      const int32_t query_len = a.query_start_loc[b + 1] - a.query_start_loc[b], seq_len = a.seq_lens[b];
      const int64_t left = static_cast<int64_t>(seq_len) - query_len - a.chunk_begin;
      if (a.filter.matches(query_len, seq_len)) keys = static_cast<int32_t>(max(int64_t{0}, min(left, a.chunk_len)));
    }
    int32_t sum = keys;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int32_t below = __shfl_up_sync(0xffffffffu, sum, offset);
      if (lane >= offset) sum += below;
    }
    if (lane == 31) warp_sums[warp] = sum;
    __syncthreads();
    int32_t before = carry;
    for (int w = 0; w < warp; ++w) before += warp_sums[w];
    if (b < a.num_requests) a.key_start_loc[b] = before + sum - keys;
    __syncthreads();
    if (threadIdx.x == 1023) carry = before + sum;
    __syncthreads();
  }
  if (threadIdx.x == 0) a.key_start_loc[a.num_requests] = carry;
}

// Whole blocks as bytes where a block is one dense span.
__global__ void __launch_bounds__(kThreads)
    copy_block_bytes(char* k, char* v, int64_t k_bytes, int64_t v_bytes, const int64_t* mapping, int64_t num_blocks) {
  const int64_t from = mapping[2 * blockIdx.y], to = mapping[2 * blockIdx.y + 1];
  if (from < 0 || to < 0 || from >= num_blocks || to >= num_blocks) return;
  for (int part = 0; part < 2; ++part) {
    char* data = part == 0 ? k : v;
    const int64_t bytes = part == 0 ? k_bytes : v_bytes;
    if (data == nullptr) continue;
    const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads,
                  first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (bytes % 16 == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0) {
      const uint4* source = reinterpret_cast<const uint4*>(data + from * bytes);
      uint4* target = reinterpret_cast<uint4*>(data + to * bytes);
      for (int64_t i = first; i < bytes / 16; i += step) target[i] = source[i];
    } else {
      for (int64_t i = first; i < bytes; i += step) data[to * bytes + i] = data[from * bytes + i];
    }
  }
}

// Element by element through the addressing rule: a caller's own strides may interleave blocks with other memory.
__global__ void __launch_bounds__(kThreads) copy_block_elements(const CopyBlocksArgs a) {
  const int64_t from = a.mapping[2 * blockIdx.y], to = a.mapping[2 * blockIdx.y + 1];
  const KvCacheSpec& s = a.cache.spec;
  if (from < 0 || to < 0 || from >= s.num_blocks || to >= s.num_blocks) return;
  const int parts = a.cache.v == nullptr || s.layout == KvLayout::kLatent ? 1 : 2;
  for (int part = 0; part < parts; ++part) {
    const KvAddressing& rule = part == 0 ? a.cache.k_addr : a.cache.v_addr;
    void* data = part == 0 ? a.cache.k : a.cache.v;
    const int32_t dim = part == 0 ? s.head_dim : s.head_dim_v;
    const int64_t elements = static_cast<int64_t>(s.block_size) * s.num_kv_heads * dim;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < elements;
         i += static_cast<int64_t>(gridDim.x) * kThreads) {
      const int32_t d = static_cast<int32_t>(i % dim), head = static_cast<int32_t>(i / dim % s.num_kv_heads);
      const int32_t token = static_cast<int32_t>(i / dim / s.num_kv_heads);
      const int64_t source = cache_row(rule, from, head, token) + cache_dim(rule, d);
      const int64_t target = cache_row(rule, to, head, token) + cache_dim(rule, d);
      switch (s.dtype) {
        case DType::kF32:
          static_cast<uint32_t*>(data)[target] = static_cast<const uint32_t*>(data)[source];
          break;
        case DType::kF16:
        case DType::kBF16:
          static_cast<uint16_t*>(data)[target] = static_cast<const uint16_t*>(data)[source];
          break;
        default:
          static_cast<uint8_t*>(data)[target] = static_cast<const uint8_t*>(data)[source];
          break;
      }
    }
  }
}

}  // namespace

cudaError_t launch_gather_cache(const GatherCacheArgs& args, cudaStream_t stream) {
  const KvCacheSpec& spec = args.cache.spec;
  GatherKernelArgs a{};
  a.parts[0] = make_part(args.k, args.cache.k, args.cache.k_addr, args.cache.k_scale, spec.head_dim, spec);
  if (!spec.is_latent())
    a.parts[1] = make_part(args.v, args.cache.v, args.cache.v_addr, args.cache.v_scale, spec.head_dim_v, spec);
  if (spec.is_latent()) a.parts[1].chunks = 1;  // no heads: no items
  a.block_table = args.block_table;
  a.block_table_stride = args.block_table_stride;
  a.key_start_loc = args.key_start_loc;
  a.seq_lens = args.seq_lens;
  a.chunk_begin = args.chunk_begin;
  a.max_rows = args.max_rows;
  a.num_requests = args.num_requests;
  a.num_blocks = static_cast<int32_t>(spec.num_blocks);
  a.block_size = spec.block_size;
  a.num_scales = args.cache.num_scales;
  a.scale_strides = args.cache.scale_strides;
  a.has_token_scales = spec.has_token_scales();
  a.cache_dtype = spec.dtype;
  a.out_dtype = args.k.dtype;
  const auto blocks = static_cast<unsigned>((args.max_rows + kWarps - 1) / kWarps);
  int64_t items = 0;
  const GatherKernel kernel = vector_kernel(a, &items);
  return launch_after(kernel != nullptr ? kernel : gather_rows, dim3(blocks),
                      kernel != nullptr ? threads_for(items) : kThreads, args.beside_previous, stream, a);
}

cudaError_t launch_context_chunk_offsets(const ContextChunkOffsetsArgs& args, cudaStream_t stream) {
  chunk_offsets<<<1, 1024, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t launch_copy_blocks(const CopyBlocksArgs& args, cudaStream_t stream) {
  const KvCacheSpec& spec = args.cache.spec;
  constexpr int64_t kMaxPairs = 65535;  // of a grid's second extent
  for (int64_t first = 0; first < args.num_pairs; first += kMaxPairs) {
    const auto pairs = static_cast<unsigned>(args.num_pairs - first < kMaxPairs ? args.num_pairs - first : kMaxPairs);
    if (spec.layout == KvLayout::kStrided) {
      CopyBlocksArgs part = args;
      part.mapping += 2 * first;
      copy_block_elements<<<dim3(4, pairs), kThreads, 0, stream>>>(part);
    } else {
      const auto element = static_cast<int64_t>(size_of(spec.dtype));
      copy_block_bytes<<<dim3(4, pairs), kThreads, 0, stream>>>(
          static_cast<char*>(args.cache.k), spec.is_latent() ? nullptr : static_cast<char*>(args.cache.v),
          args.cache.k_addr.block_stride * element, args.cache.v_addr.block_stride * element, args.mapping + 2 * first,
          spec.num_blocks);
    }
  }
  if (!spec.has_token_scales()) return cudaGetLastError();
  // Scales are a cache of one dim a token and head.
  CopyBlocksArgs scales = args;
  KvCacheView& view = scales.cache;
  view.spec.dtype = DType::kF32;
  view.spec.layout = KvLayout::kStrided;
  view.spec.scales = KvScales::kShared;
  view.spec.head_dim = view.spec.head_dim_v = 1;
  view.k = const_cast<float*>(args.cache.k_scale);
  view.v = const_cast<float*>(args.cache.v_scale);
  const KvScaleStrides& s = args.cache.scale_strides;
  view.k_addr = view.v_addr = {
      .block_stride = s.block, .head_stride = s.head, .token_outer_stride = s.token, .dim_outer_stride = 1};
  return launch_copy_blocks(scales, stream);
}

}  // namespace sextant::cuda
