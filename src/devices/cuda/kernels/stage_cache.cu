// A thread block copies a part of one staged block of one KV head: it finds the request that the block belongs to by a
// sum over the requests' lengths of now, looks up where its tokens lie, and moves them, K and V.
#include "devices/cuda/kernels/fp8_vectors.cuh"
#include "devices/cuda/kernels/key_rows.cuh"
#include "devices/cuda/kernels/stage_cache.h"

namespace sextant::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kParts = 4,
              kTokens = kStagedTokens / kParts;  // a thread block's: many small ones hide each other's waits

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
  int32_t block = 0;     // of the request's own
};

// Staged block `target` of all, by the whole thread block.
__device__ __forceinline__ StagedBlock find_staged_block(const AttentionParams& p, int32_t target) {
  __shared__ int32_t warp_sums[kWarps];
  __shared__ StagedBlock found;
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) found = StagedBlock{};
  int32_t before = 0;  // blocks of the requests before `first`
  for (int first = 0; first < p.num_requests && before <= target; first += kThreads) {
    const int b = first + static_cast<int>(threadIdx.x);
    Request r;
    if (b < p.num_requests) r = load_request(p, b);
    const int32_t count = b < p.num_requests ? staged_blocks(p, r) : 0;
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
    if (target >= start && target < start + count) found = {b, r.key_lo / kStagedTokens + target - start};
    __syncthreads();
  }
  return found;
}

// Where a block's tokens lie; -1: not there, or seen by nobody.
struct StagedRows {
  int64_t k[kTokens], v[kTokens];
  float k_scale[kTokens], v_scale[kTokens];
};
__device__ __forceinline__ void find_rows(const AttentionParams& p, const Request& r, int32_t head,
                                          int32_t first_position, StagedRows& rows) {
  const bool scaled = p.origin != KeyOrigin::kCache;
  const int32_t end = staged_end(p, r);
  for (int i = static_cast<int>(threadIdx.x); i < kTokens; i += kThreads) {
    const int32_t position = first_position + i;
    rows.k[i] = rows.v[i] = -1;
    if (position < r.key_lo || position >= end) continue;
    const BlockOffset at = split_position(p, position);
    const int64_t id = clamp_block(p, __ldg(p.block_table + r.index * p.block_table_stride + at.block));
    rows.k[i] = token_offset(p.k_addr, id, head, at.offset);
    rows.v[i] = token_offset(p.v_addr, id, head, at.offset);
    if (p.has_token_scales) {
      const int64_t scale = p.scale_strides.offset(id, head, at.offset);
      rows.k_scale[i] = __ldg(p.k_token_scales + scale);
      rows.v_scale[i] = __ldg(p.v_token_scales + scale);
    } else {
      rows.k_scale[i] = scaled ? key_scale(p, head) : 1.0f;
      rows.v_scale[i] = scaled ? value_scale(p, head) : 1.0f;
    }
  }
}

// Vectors of 16 bytes as they are, `stride` elements apart.
template <class Element>
__device__ __forceinline__ void copy_vectors(const int64_t* from, const Element* base, int64_t stride, int dim,
                                             Element* to) {
  constexpr int kVector = 16 / sizeof(Element);
  const int per_row = dim / kVector;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * per_row; i += kThreads) {
    const int row = i / per_row, j = i - row * per_row;
    if (from[row] < 0) continue;
    *reinterpret_cast<uint4*>(to + row * dim + j * kVector) =
        __ldg(reinterpret_cast<const uint4*>(base + from[row] + j * stride));
  }
}

template <class T, bool kValues>
__device__ __forceinline__ void copy_rows(const AttentionParams& p, const StagedRows& rows, T* to) {
  const int dim = kValues ? p.head_dim_v : p.head_dim, vector = kValues ? p.v_vector_stride : p.k_vector_stride,
            chunk = kValues ? p.v_chunk_stride : p.k_chunk_stride;
  const int64_t* from = kValues ? rows.v : rows.k;
  const float* scales = kValues ? rows.v_scale : rows.k_scale;
  const void* base = kValues ? p.cache_v : p.cache_k;
  if (vector > 0) {
    const int per_row = dim / 16;
    with_fp8_format(p.cache_dtype, [&](auto format) {
#pragma unroll 4
      for (int i = static_cast<int>(threadIdx.x); i < kTokens * per_row; i += kThreads) {
        const int row = i / per_row, j = i - row * per_row;
        if (from[row] < 0) continue;
        const uint4 raw = __ldg(reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(base) + from[row] +
                                                               static_cast<int64_t>(j) * vector));
        uint4 low, high;
        if (scales[row] == 1.0f) {
          convert_fp8_vector<T, decltype(format)::value, false>(raw, 1.0f, low, high);
        } else {
          convert_fp8_vector<T, decltype(format)::value, true>(raw, scales[row], low, high);
        }
        auto* target = reinterpret_cast<uint4*>(to + row * dim + j * 16);
        target[0] = low;
        target[1] = high;
      }
    });
  } else if (chunk > 0 && p.cache_dtype == p.dtype) {
    copy_vectors(from, static_cast<const T*>(base), chunk, dim, to);
  } else {  // neighbouring threads take neighbouring tokens, which lie together where a token's dims do not
    for (int i = static_cast<int>(threadIdx.x); i < kTokens * (dim / 8); i += kThreads) {
      const int row = i % kTokens, j = i / kTokens;
      if (from[row] < 0) continue;
      *reinterpret_cast<uint4*>(to + row * dim + j * 8) = read_chunk<T>(p, false, kValues, from[row], j, scales[row]);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    stage_cache(const __grid_constant__ AttentionParams p, const __grid_constant__ StagedCache to) {
  __shared__ StagedRows rows;
  const auto index = static_cast<int32_t>(blockIdx.x), head = static_cast<int32_t>(blockIdx.y),
             part = static_cast<int32_t>(blockIdx.z);
  const StagedBlock found = find_staged_block(p, index);
  if (found.request < 0) return;
  if (head == 0 && part == 0 && threadIdx.x == 0)
    to.block_table[found.request * to.block_table_stride + found.block] = index;
  find_rows(p, load_request(p, found.request), head, found.block * kStagedTokens + part * kTokens, rows);
  __syncthreads();
  const int64_t token = (static_cast<int64_t>(index) * p.num_kv_heads + head) * kStagedTokens + part * kTokens;
  if (to.bytes) {
    copy_vectors(rows.k, static_cast<const uint8_t*>(p.cache_k), p.k_vector_stride, p.head_dim,
                 static_cast<uint8_t*>(to.k) + token * p.head_dim);
    copy_vectors(rows.v, static_cast<const uint8_t*>(p.cache_v), p.v_vector_stride, p.head_dim_v,
                 static_cast<uint8_t*>(to.v) + token * p.head_dim_v);
    return;
  }
  copy_rows<T, false>(p, rows, static_cast<T*>(to.k) + token * p.head_dim);
  copy_rows<T, true>(p, rows, static_cast<T*>(to.v) + token * p.head_dim_v);
}

}  // namespace

cudaError_t launch_stage_cache(const AttentionParams& p, const StagedCache& to, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(to.blocks), static_cast<unsigned>(p.num_kv_heads), kParts);
  if (p.dtype == DType::kBF16) {
    stage_cache<__nv_bfloat16><<<grid, kThreads, 0, stream>>>(p, to);
  } else {
    stage_cache<__half><<<grid, kThreads, 0, stream>>>(p, to);
  }
  return cudaGetLastError();
}

}  // namespace sextant::cuda
