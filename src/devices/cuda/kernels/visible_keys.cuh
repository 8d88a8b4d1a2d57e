// The keys that one query row sees, as a range: worked out once a row, so that a tile's mask is two comparisons a
// score.
#pragma once

#include <climits>

#include "devices/cuda/kernels/batch.cuh"

namespace sextant::cuda {

struct VisibleKeys {
  int32_t begin, end;
  __device__ __forceinline__ bool has(int32_t position) const { return position >= begin && position < end; }
};

// `own`: the row's position. As is_visible() says, keys of the request only.
__device__ __forceinline__ VisibleKeys visible_keys(const AttentionParams& p, int32_t key_hi, int32_t own) {
  return {p.window > 0 ? own - p.window + 1 : INT_MIN, p.causal ? min(key_hi, own + p.right + 1) : key_hi};
}

}  // namespace sextant::cuda
