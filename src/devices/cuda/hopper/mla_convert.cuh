// fp8 latents for the MLA decode kernels: from the cache to registers, to fp16, which holds fp8 exactly, to the ring of
// tiles. Queries are scaled to fp16 row by row, so that products are as good as in bf16. The
// loads of the next tiles are on their way while one is converted and while the ring is full; any page size.
#pragma once

#include "devices/cuda/hopper/mla_ring.cuh"
#include "devices/cuda/kernels/fp8_vectors.cuh"

namespace sextant::cuda {

// One producer thread's share of a tile: vectors lane, lane + 4, .. of 16 columns, of two keys 32 apart.
struct MlaVectors {
  static constexpr int kLanes = 4, kKeysAPass = MlaTile::kProducers / kLanes, kPasses = MlaTile::kKeys / kKeysAPass,
                       kPerKey = MlaTile::DK / 16 / kLanes;
  uint4 x[kPasses][kPerKey];

  __device__ __forceinline__ void read(const AttentionParams& p, const TileCursor& c, int thread) {
    const Request& r = c.request;
    const int32_t key0 = r.key_lo + c.tile * MlaTile::kKeys + thread / kLanes;
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int32_t position = key0 + i * kKeysAPass;
      const bool valid = position < r.key_hi;
      const auto* row = static_cast<const uint8_t*>(p.cache_k) + find_key_row(p, r, 0, position, r.key_hi).k +
                        thread % kLanes * p.k_vector_stride;
#pragma unroll
      for (int j = 0; j < kPerKey; ++j) {
        x[i][j] = make_uint4(0, 0, 0, 0);
        if (valid) x[i][j] = __ldg(reinterpret_cast<const uint4*>(row + j * kLanes * p.k_vector_stride));
      }
    }
  }

  __device__ __forceinline__ void write(const AttentionParams& p, char* tile, int thread) const {
    const uint32_t first = key_chunk<MlaTile::DK>(thread / kLanes, thread % kLanes * 2);
    with_fp8_format(p.cache_dtype, [&](auto format) {
#pragma unroll
      for (int i = 0; i < kPasses; ++i)
#pragma unroll
        for (int j = 0; j < kPerKey; ++j) {
          uint4 low, high;
          convert_fp8_vector<__half, decltype(format)::value, false>(x[i][j], 1.0f, low,
                                                                     high);          // scores and output are scaled
          char* to = tile + i * (kKeysAPass / 8) * MlaTile::kGroupBytes + j * 1024;  // four vectors: a column block
          *reinterpret_cast<uint4*>(to + first) = low;
          *reinterpret_cast<uint4*>(to + (first ^ 16)) = high;
        }
    });
  }
};

// Tiles of a range, the n-th into buffer n; kDepth of them are read ahead.
template <class S, int kDepth>
__device__ __forceinline__ void mla_convert(const AttentionParams& p, const TileRange& range, TileCursor cursor,
                                            int list_rows, char* tiles, const MlaRing<S>& ring) {
  const int thread = static_cast<int>(threadIdx.x) - S::kConsumers, count = range.end - range.begin;
  MlaVectors ahead[kDepth];
  int next = 0;
  const auto read_next = [&](MlaVectors& vectors) {
    if (next >= count) return;
    if (next > 0) cursor.advance(p, list_rows, S::kKeys);
    vectors.read(p, cursor, thread);
    ++next;
  };
#pragma unroll
  for (int i = 0; i < kDepth; ++i) read_next(ahead[i]);
#pragma unroll 1
  for (int first = 0; first < count; first += kDepth)
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      const int n = first + i;
      if (n >= count) break;
      barrier_wait(ring.empty(n), ring.empty_parity(n));
      ahead[i].write(p, tiles + n % S::kStages * S::kTileBytes, thread);
      fence_async_proxy();
      barrier_arrive(ring.full(n));
      read_next(ahead[i]);
    }
}

// A row of Q by a warp, from T to M: lane i has chunks i, i + 32, .. of 8 columns; where fp16 takes the place of bf16,
// by a power of two, after which the largest is below 2^9, and whose inverse is returned.
template <class T, class M>
__device__ __forceinline__ float load_query_row(const T* from, bool valid, uint4 (&x)[3]) {
  const int lane = threadIdx.x & 31;
  float largest = 0;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    x[i] = make_uint4(0, 0, 0, 0);
    if (valid && lane + i * 32 < MlaTile::DK / 8)
      x[i] = __ldg(reinterpret_cast<const uint4*>(from + (lane + i * 32) * 8));
  }
  if constexpr (std::is_same_v<T, M>) return 1.0f;
#pragma unroll
  for (int i = 0; i < 3; ++i) largest = fmaxf(largest, largest_magnitude<T>(x[i]));
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
  const float factor = row_factor(largest);
#pragma unroll
  for (int i = 0; i < 3; ++i) x[i] = to_scaled_halves<T>(x[i], factor);
  return 1.0f / factor;
}

}  // namespace sextant::cuda
