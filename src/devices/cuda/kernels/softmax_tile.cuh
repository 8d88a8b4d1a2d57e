// The online softmax on the accumulator registers of mma.sync, shared by the tensor-core kernels.
#pragma once

#include "devices/cuda/kernels/softmax.cuh"

namespace sextant::cuda {

// Key of column `column` of key tile n: in order, unless the shape deals keys otherwise.
template <class S>
__device__ __forceinline__ int key_of_column(int n, int column) {
  if constexpr (requires { S::key_of(0, 0); }) {
    return S::key_of(n, column);
  } else {
    return n * 8 + column;
  }
}

// What a thread knows of the rows it owns: rows lane / 4 and lane / 4 + 8 of each 16-row tile.
template <int kRowTiles>
struct RowState {
  int32_t position[kRowTiles][2];
  float slope[kRowTiles][2];  // ALiBi, log2 units
  float max[kRowTiles][2];    // log2 units
  float sum[kRowTiles][2];    // this thread's share
};

// Turns dots into probabilities and rescales O when a row's maximum grew by more than 2^8 (a smaller growth is harmless
// in fp32 sums and 16-bit probabilities).
template <class S>
__device__ __forceinline__ void softmax_tile(const AttentionParams& p, const Request& r, const ScoreRule& rule,
                                             int32_t key0, int32_t end, bool masked,
                                             float (&s)[S::kRowTiles][S::kKeys / 8][4], RowState<S::kRowTiles>& rows,
                                             float (&o)[S::kRowTiles][S::DV / 8][4]) {
  constexpr float kLazyGrowth = 8.0f;
  const int lane = threadIdx.x & 31;
  const bool biased = rule.has_cap || p.alibi_slopes != nullptr;
  const float scale = biased ? 1.0f : rule.scale_log2;
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
    if (biased || masked) {
#pragma unroll
      for (int n = 0; n < S::kKeys / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int32_t position = key0 + key_of_column<S>(n, (lane & 3) * 2 + (e & 1));
          float x = s[m][n][e];
          if (biased) x = score_log2(rule, x) + rows.slope[m][e / 2] * static_cast<float>(position - r.context_len);
          if (masked && (position >= end || !is_visible(p, rows.position[m][e / 2], position))) x = -INFINITY;
          s[m][n][e] = x;
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = -INFINITY;
#pragma unroll
      for (int n = 0; n < S::kKeys / 8; ++n) top = fmaxf(top, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2)) * scale;
      const float old = rows.max[m][half];
      const bool grows = top > old + kLazyGrowth;
      const float base = grows ? top : old;
      if (__any_sync(0xffffffffu, grows)) {
        const float factor = grows ? exp2_approx(old - base) : 1.0f;
        rows.max[m][half] = base;
        rows.sum[m][half] *= factor;
#pragma unroll
        for (int d = 0; d < S::DV / 8; ++d) {
          o[m][d][2 * half] *= factor;
          o[m][d][2 * half + 1] *= factor;
        }
      }
      const float shift = base == -INFINITY ? 0.0f : -base;
#pragma unroll
      for (int n = 0; n < S::kKeys / 8; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[m][n][e] = exp2_approx(fmaf(s[m][n][e], scale, shift));
          rows.sum[m][half] += s[m][n][e];
        }
    }
  }
}

}  // namespace sextant::cuda
