// fp8 keys for the forward kernel: from the cache to registers, converted, to a tile in shared memory.
#pragma once

#include "devices/cuda/hopper/forward_shape.cuh"
#include "devices/cuda/kernels/fp8_vectors.cuh"

namespace sextant::cuda {

// One producer thread's share of a tile of K or V, in vectors of 16 dims. A tile is one batch, or two where its vectors
// would not fit in registers.
template <class S, bool kValues>
struct KeyVectors {
  static constexpr int kRowVectors = (kValues ? S::DV : S::DK) / 16;
  static constexpr int kLanes = kRowVectors % 4 == 0 ? 4 : 2;  // threads that share a row
  static constexpr int kRowsAPass = S::kHalf / kLanes, kPasses = S::kKeys / kRowsAPass, kPerRow = kRowVectors / kLanes;
  static constexpr int kMost = S::kProducerRegisters < 104 ? 8 : 18;
  static constexpr int kBatches = kPasses * kPerRow > kMost ? 2 : 1, kRows = kPasses / kBatches;
  static_assert(S::kKeys % kRowsAPass == 0 && kPasses % kBatches == 0 && kRowVectors % kLanes == 0);
  uint4 x[kRows][kPerRow];

  __device__ __forceinline__ void read(const AttentionParams& p, const ForwardWork& w, int32_t key0, int batch,
                                       int thread) {
    const int dim = kValues ? p.head_dim_v : p.head_dim, lane = thread % kLanes;
    const int stride = kValues ? p.v_vector_stride : p.k_vector_stride;
    const KvAddressing& a = kValues ? p.v_addr : p.k_addr;  // of token_tile 1
    // Places in units of 16 bytes: 32 bits hold them (forward.cpp).
    const auto* base = static_cast<const uint4*>(kValues ? p.cache_v : p.cache_k);
    const auto block_units = static_cast<uint32_t>(a.block_stride / 16),
               token_units = static_cast<uint32_t>(a.token_outer_stride / 16),
               first_unit = static_cast<uint32_t>(w.kv_head * (a.head_stride / 16) + lane * (stride / 16));
    const int32_t* table = p.block_table + w.request.index * p.block_table_stride;
    const int32_t first = key0 + batch * kRows * kRowsAPass + thread / kLanes;
    const auto is_valid = [&](int i) { return first + i * kRowsAPass >= w.begin && first + i * kRowsAPass < w.end; };
    uint32_t row[kRows];
    // All look-ups before the loads that wait for them; the branch stands outside of the loops for that.
    const auto look_up = [&](auto split) {
      int32_t block[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const BlockOffset at = split(is_valid(i) ? first + i * kRowsAPass : w.begin);
        block[i] = __ldg(table + at.block);
        row[i] = first_unit + static_cast<uint32_t>(at.offset) * token_units;
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i)
        row[i] += min(static_cast<uint32_t>(block[i]), static_cast<uint32_t>(p.num_blocks - 1)) * block_units;
    };
    if (p.block_shift >= 0) {
      look_up([&](int32_t x) { return BlockOffset{x >> p.block_shift, x & (p.block_size - 1)}; });
    } else {
      look_up([&](int32_t x) { return split_position(p, x); });
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kPerRow; ++j) {
        x[i][j] = make_uint4(0, 0, 0, 0);
        if (is_valid(i) && (lane + j * kLanes) * 16 < dim)
          x[i][j] = __ldg(base + row[i] + j * kLanes * static_cast<uint32_t>(stride / 16));
      }
  }

  template <bool kScaled>
  __device__ __forceinline__ void write(const AttentionParams& p, char* tile, int batch, int thread,
                                        float scale) const {
    constexpr int kGroup = kValues ? S::kVGroup : S::kKGroup, kColumn = kValues ? S::kVColumn : S::kKColumn;
    static_assert(kRowsAPass % 8 == 0, "the swizzle of a thread's rows is the same");
    const uint32_t first = tile_chunk<S, kValues>(thread / kLanes, thread % kLanes * 2);
    with_fp8_format(p.cache_dtype, [&](auto format) {
#pragma unroll
      for (int i = 0; i < kRows; ++i)
#pragma unroll
        for (int j = 0; j < kPerRow; ++j) {
          uint4 halves[2];
          convert_fp8_vector<typename S::M, decltype(format)::value, kScaled>(x[i][j], scale, halves[0], halves[1]);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int chunk = 2 * kLanes * j + half;  // from the first
            *reinterpret_cast<uint4*>(tile + (first ^ ((chunk & 7) << 4)) + (chunk >> 3) * kColumn +
                                      (batch * kRows + i) * (kRowsAPass / 8) * kGroup) = halves[half];
          }
        }
    });
  }
};

// Q in fp16 by half a producer, and the inverse of each row's factor.
template <class S>
__device__ __forceinline__ void load_half_queries(const AttentionParams& p, const ForwardWork& w, int thread,
                                                  char* q_tile, float* inverses, uint32_t full) {
  using T = typename S::T;
  constexpr int kChunks = (S::DK / 8 + 7) / 8;  // of a thread
  const int sub = thread % 8;
#pragma unroll 2
  for (int row = thread / 8; row < S::kRows; row += S::kHalf / 8) {
    const bool valid = w.row0 + row < w.num_rows;
    const int packed_row = valid ? w.row0 + row : 0;
    const int query = packed_row / p.group_size, head = w.kv_head * p.group_size + packed_row - query * p.group_size;
    const T* source =
        static_cast<const T*>(p.q) + (w.request.query_start + query) * p.q_token_stride + head * p.q_head_stride;
    uint4 x[kChunks];
    float largest = 0;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int chunk = sub + i * 8;
      x[i] = make_uint4(0, 0, 0, 0);
      if (valid && chunk * 8 < p.head_dim) x[i] = __ldg(reinterpret_cast<const uint4*>(source + chunk * 8));
      largest = fmaxf(largest, largest_magnitude<T>(x[i]));
    }
#pragma unroll
    for (int offset = 1; offset < 8; offset *= 2)
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
    const float factor = row_factor(largest);
#pragma unroll
    for (int i = 0; i < kChunks; ++i)
      if ((sub + i * 8) * 8 < S::kKBlocks * 64)
        *reinterpret_cast<uint4*>(q_tile + query_chunk<S::kRows>(row, sub + i * 8)) = to_scaled_halves<T>(x[i], factor);
    if (sub == 0) inverses[row] = 1.0f / factor;
  }
  fence_async_proxy();
  barrier_arrive(full);
}

}  // namespace sextant::cuda
