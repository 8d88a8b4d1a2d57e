// A thread block copies a part of one staged block of one KV head, half of its threads K and half V: it finds the
// request that the block belongs to, looks up where its tokens lie, and moves them.
//
// Its code runs once in a while and then comes from memory, line by line; that is most of what the copy of a few blocks
// takes. So there is one loop for K and V, an instantiation for each format, and another one for whatever is rare.
#include "devices/cuda/kernels/fp8_vectors.cuh"
#include "devices/cuda/kernels/key_rows.cuh"
#include "devices/cuda/kernels/stage_cache.h"

namespace sextant::cuda {
namespace {

constexpr int kSide = kStagedTokens, kThreads = 2 * kSide, kWarps = kThreads / 32;  // a side: of K, or of V
constexpr int kBatch = 4;  // pieces of a thread that are under way at once; more cost registers, and so thread blocks

// One past the last key of the cache that a query of the request may see.
__device__ __forceinline__ int32_t staged_end(const AttentionParams& p, const Request& r) {
  return p.origin == KeyOrigin::kCacheThenPacked ? min(r.key_hi, r.context_len) : r.key_hi;
}
__device__ __forceinline__ int32_t staged_blocks(const AttentionParams& p, const Request& r) {
  const int32_t end = staged_end(p, r);
  return r.active && end > r.key_lo ? ceil_div(end, kStagedTokens) - r.key_lo / kStagedTokens : 0;
}

struct StagedBlock {
  int32_t request = -1;  // < 0: none
  int32_t index = 0;     // of those of its request
};

// Staged block `target` of all, one request's after the other's, by the whole thread block: a sum over the requests'
// lengths of now.
__device__ __forceinline__ StagedBlock search_staged_block(const AttentionParams& p, int32_t target) {
  __shared__ int32_t warp_sums[kWarps];
  __shared__ StagedBlock found;
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) found = StagedBlock{};
  int32_t before = 0;  // blocks of the requests before `first`
#pragma unroll 1
  for (int first = 0; first < p.num_requests && before <= target; first += kThreads) {
    const int b = first + static_cast<int>(threadIdx.x);
    const int32_t count = b < p.num_requests ? staged_blocks(p, load_request(p, b)) : 0;
    int32_t sum = count;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int32_t below = __shfl_up_sync(0xffffffffu, sum, offset);
      if (lane >= offset) sum += below;
    }
    if (lane == 31) warp_sums[warp] = sum;
    __syncthreads();
    int32_t start = before + sum - count;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) start += warp_sums[w];
      before += warp_sums[w];
    }
    if (target >= start && target < start + count) found = {b, target - start};
    __syncthreads();
  }
  return found;
}

// Where the tokens of a part lie, and what their elements are multiplied by.
struct StagedRows {
  const uint8_t* from[kStagedTokens];
  float scale[kStagedTokens];
};

// One token's.
__device__ __forceinline__ void find_row(const AttentionParams& p, const Request& r, bool values, int32_t head,
                                         int32_t position, const uint8_t** from, float* scale) {
  const BlockOffset at = split_position(p, position);
  const int64_t id = clamp_block(p, __ldg(p.block_table + r.index * p.block_table_stride + at.block));
  const int64_t row = token_offset(values ? p.v_addr : p.k_addr, id, head, at.offset);
  *from = static_cast<const uint8_t*>(values ? p.cache_v : p.cache_k) + row * (is_quantized(p.cache_dtype) ? 1 : 2);
  if (p.has_token_scales) {
    *scale = __ldg((values ? p.v_token_scales : p.k_token_scales) + p.scale_strides.offset(id, head, at.offset));
  } else {
    *scale = p.origin == KeyOrigin::kCache ? 1.0f : values ? value_scale(p, head) : key_scale(p, head);
  }
}

// Eight fp8 numbers in two words to fp16, which holds them exactly.
template <DType kFormat>
__device__ __forceinline__ uint4 fp8_to_halves(uint32_t low, uint32_t high) {
  const auto convert = [](uint32_t word) {
    uint2 halves = fp8_word_to_f16<kFormat>(word);
    if constexpr (kFormat == DType::kF8E4M3FNUZ) {  // its NaN
      const uint32_t nans = __vcmpeq4(word, 0x80808080u) & 0x7e7e7e7eu;
      halves.x |= __byte_perm(nans, 0, 0x1404);
      halves.y |= __byte_perm(nans, 0, 0x3424);
    }
    return halves;
  };
  const uint2 x = convert(low), y = convert(high);
  return make_uint4(x.x, x.y, y.x, y.y);
}

// Eight numbers in fp16 times `scale` as T.
template <class T>
__device__ __forceinline__ uint4 scale_halves(const uint4& x, float scale) {
  if (std::is_same_v<T, __half> && scale == 1.0f) return x;
  const uint32_t words[4] = {x.x, x.y, x.z, x.w};
  uint32_t out[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
    out[i] = pack_pair<T>(pair.x * scale, pair.y * scale);
  }
  return make_uint4(out[0], out[1], out[2], out[3]);
}

// What a side of the thread block copies.
struct StagedPart {
  int tokens = 0;
  int dim = 0;
  uint8_t* to = nullptr;  // its first token's row
};

// What a kernel is instantiated for beside the fp8 formats, which come by vectors of 16 dims: everything else.
constexpr DType kAny = DType::kF32;

// Neighbouring threads take neighbours, each 16 bytes of the copy: eight fp8 numbers of vectors of 16, `stride` bytes
// apart, or with kAny vectors as they are. (Were a thread to take a whole fp8 vector, its two writes would fill half
// of each sector that they go to.)
template <class T, DType kFormat>
__device__ __forceinline__ void move_vectors(const StagedRows& rows, const StagedPart& part, int row_pieces,
                                             int64_t stride, int thread) {
  constexpr bool kAsIs = kFormat == kAny;
  using Piece = std::conditional_t<kAsIs, uint4, uint2>;
  const int count = part.tokens * row_pieces;
  // i / row_pieces = i * inverse >> 20: at most 32 pieces a row, and 128 rows.
  const uint32_t inverse = ((1u << 20) + row_pieces - 1) / row_pieces;
  auto* to = reinterpret_cast<uint4*>(part.to);
#pragma unroll 1
  for (int first = thread; first < count; first += kBatch * kSide) {
    Piece raw[kBatch];
    float scale[kBatch];
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {
      const int i = first + n * kSide, row = static_cast<int>(static_cast<uint32_t>(i) * inverse >> 20);
      if (i >= count) break;
      const int j = i - row * row_pieces;
      raw[n] =
          __ldg(reinterpret_cast<const Piece*>(rows.from[row] + (kAsIs ? j : j / 2) * stride) + (kAsIs ? 0 : j % 2));
      scale[n] = rows.scale[row];
    }
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {
      const int i = first + n * kSide;
      if (i >= count) break;
      if constexpr (kAsIs) {
        to[i] = raw[n];
      } else {
        to[i] = scale_halves<T>(fp8_to_halves<kFormat>(raw[n].x, raw[n].y), scale[n]);
      }
    }
  }
}

// Eight elements of a row from dim `d` on, wherever they lie: of 8 bits in two words, of 16 in four.
__device__ __forceinline__ uint4 gather_dims(const uint8_t* row, const KvAddressing& a, int d, bool bytes) {
  int outer = d / a.dim_tile, inner = d - outer * a.dim_tile;
  uint32_t x[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int64_t at = outer * a.dim_outer_stride + inner * a.dim_inner_stride;
    x[i] = bytes ? __ldg(row + at) : __ldg(reinterpret_cast<const uint16_t*>(row) + at);
    if (++inner == a.dim_tile) {
      inner = 0;
      ++outer;
    }
  }
  const auto pair = [&](int i) { return x[i] | x[i + 1] << 16; };
  const auto quad = [&](int i) { return x[i] | x[i + 1] << 8 | x[i + 2] << 16 | x[i + 3] << 24; };
  return bytes ? make_uint4(quad(0), quad(4), 0, 0) : make_uint4(pair(0), pair(2), pair(4), pair(6));
}

// Any type and any addressing, eight elements at a time. Neighbouring threads take neighbouring tokens, which lie
// together where a token's dims do not.
template <class T>
__device__ __forceinline__ void move_elements(const AttentionParams& p, const StagedRows& rows, const StagedPart& part,
                                              bool values, bool as_is, int thread) {
  const int chunk_stride = values ? p.v_chunk_stride : p.k_chunk_stride;
  const bool bytes = is_quantized(p.cache_dtype);
#pragma unroll 1
  for (int i = thread; i < part.tokens * (part.dim / 8); i += kSide) {
    const int j = i / part.tokens, row = i - j * part.tokens;
    uint4 x;
    if (bytes && chunk_stride > 0) {
      const uint2 raw = __ldg(reinterpret_cast<const uint2*>(rows.from[row] + static_cast<int64_t>(j) * chunk_stride));
      x = make_uint4(raw.x, raw.y, 0, 0);
    } else {
      x = gather_dims(rows.from[row], values ? p.v_addr : p.k_addr, j * 8, bytes);
    }
    const int to = row * (part.dim / 8) + j;
    if (bytes && as_is) {
      reinterpret_cast<uint2*>(part.to)[to] = make_uint2(x.x, x.y);
      continue;
    }
    if (p.cache_dtype == DType::kI8) {
      const uint32_t words[2] = {x.x, x.y};
      const auto* numbers = reinterpret_cast<const int8_t*>(words);
      const auto pair = [&](int n) {
        return pack_pair<T>(numbers[n] * rows.scale[row], numbers[n + 1] * rows.scale[row]);
      };
      x = make_uint4(pair(0), pair(2), pair(4), pair(6));
    } else if (bytes) {
      with_fp8_format(p.cache_dtype, [&](auto constant) { x = fp8_to_halves<decltype(constant)::value>(x.x, x.y); });
      x = scale_halves<T>(x, rows.scale[row]);
    }
    reinterpret_cast<uint4*>(part.to)[to] = x;
  }
}

template <class T, DType kFormat>
__global__ void __launch_bounds__(kThreads)
    stage_cache(const __grid_constant__ AttentionParams p, const __grid_constant__ StagedCache to) {
  __shared__ StagedRows rows_of[2];
  const auto index = static_cast<int32_t>(blockIdx.x), head = static_cast<int32_t>(blockIdx.y);
  StagedBlock found;
  if (to.request_blocks > 0) {
    found.request = index / to.request_blocks;
    found.index = index - found.request * to.request_blocks;
  } else {
    found = search_staged_block(p, index);
    if (found.request < 0) return;
  }
  const Request r = load_request(p, found.request);
  if (found.index >= staged_blocks(p, r)) return;
  const int32_t block = r.key_lo / kStagedTokens + found.index;
  if (head == 0 && blockIdx.z == 0 && threadIdx.x == 0)
    to.block_table[found.request * to.block_table_stride + block] = index;

  const int part_tokens = kStagedTokens / static_cast<int>(gridDim.z);
  const int32_t part_begin = block * kStagedTokens + static_cast<int32_t>(blockIdx.z) * part_tokens;
  const int32_t begin = max(r.key_lo, part_begin), end = min(staged_end(p, r), part_begin + part_tokens);
  if (begin >= end) return;
  const bool values = threadIdx.x >= kSide;
  const int thread = static_cast<int>(threadIdx.x) % kSide;
  StagedRows& rows = rows_of[values ? 1 : 0];
  if (thread < end - begin) find_row(p, r, values, head, begin + thread, &rows.from[thread], &rows.scale[thread]);
  __syncthreads();

  StagedPart part;
  part.tokens = end - begin;
  part.dim = values ? p.head_dim_v : p.head_dim;
  const int64_t token =
      (static_cast<int64_t>(index) * p.num_kv_heads + head) * kStagedTokens + begin - block * kStagedTokens;
  part.to = static_cast<uint8_t*>(values ? to.v : to.k) + token * part.dim * (to.bytes ? 1 : 2);
  const int vector = values ? p.v_vector_stride : p.k_vector_stride;
  if constexpr (kFormat != kAny) {
    move_vectors<T, kFormat>(rows, part, part.dim / 8, vector, thread);
  } else {
    const int chunk = values ? p.v_chunk_stride : p.k_chunk_stride;
    const bool halves = !is_quantized(p.cache_dtype);
    if (halves ? chunk > 0 : to.bytes && vector > 0) {
      move_vectors<T, kAny>(rows, part, part.dim / (halves ? 8 : 16), halves ? 2 * chunk : vector, thread);
    } else {
      move_elements<T>(p, rows, part, values, to.bytes, thread);
    }
  }
}

using StageKernel = void (*)(AttentionParams, StagedCache);
template <class T>
StageKernel pick_kernel(const AttentionParams& p, bool bytes) {
  if (p.k_vector_stride == 0 || p.v_vector_stride == 0 || bytes) return stage_cache<T, kAny>;
  switch (p.cache_dtype) {
    case DType::kF8E4M3FN:
      return stage_cache<T, DType::kF8E4M3FN>;
    case DType::kF8E5M2:
      return stage_cache<T, DType::kF8E5M2>;
    default:
      return stage_cache<T, DType::kF8E4M3FNUZ>;
  }
}

}  // namespace

cudaError_t launch_stage_cache(const AttentionParams& p, const StagedCache& to, cudaStream_t stream) {
  // Where few blocks leave the chip empty, several thread blocks share each; more than are at once on it only wait.
  constexpr int64_t kAtOnce = 8 * 132;  // on an H100
  constexpr unsigned kMostParts = 4;
  unsigned parts = 1;
  while (parts < kMostParts && 2 * parts * to.blocks * p.num_kv_heads <= kAtOnce) parts *= 2;
  const dim3 grid(static_cast<unsigned>(to.blocks), static_cast<unsigned>(p.num_kv_heads), parts);
  const StageKernel kernel =
      p.dtype == DType::kBF16 ? pick_kernel<__nv_bfloat16>(p, to.bytes) : pick_kernel<__half>(p, to.bytes);
  kernel<<<grid, kThreads, 0, stream>>>(p, to);
  return cudaGetLastError();
}

}  // namespace sextant::cuda
