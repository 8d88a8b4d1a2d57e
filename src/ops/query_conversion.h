// fp8 queries for kernels that take none: converted to spec.dtype, once, in the workspace.
#pragma once

#include "sextant/ops.h"

namespace sextant {

inline size_t converted_query_bytes(const AttentionSpec& spec, int64_t tokens) {
  return static_cast<size_t>(tokens * spec.num_heads * spec.head_dim) * size_of(spec.dtype);
}

// The first `tokens` rows of `q`, fp8 [T, Hq, D], to `memory`; `dst` of the result is what attention then reads.
inline CopyPadArgs query_conversion(const AttentionSpec& spec, int64_t tokens, const TensorView& q,
                                    const float* q_scale, int32_t num_q_scales, void* memory) {
  CopyPadArgs copy;
  copy.src = q;
  copy.src.shape[0] = tokens;
  copy.dst = make_view(memory, spec.dtype, {tokens, spec.num_heads, spec.head_dim});
  copy.src_scale = q_scale;
  copy.num_src_scales = num_q_scales;
  return copy;
}

}  // namespace sextant
