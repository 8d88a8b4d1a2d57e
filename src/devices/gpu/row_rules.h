// From a product to a score, and the end of a row. Scores are kept in log2 units, so that the exponential is one
// instruction.
#pragma once

#include "devices/gpu/device_code.h"

namespace sextant::gpu {

struct ScoreRule {
  float scale_log2;  // softmax scale x k scale (x log2 e without a softcap)
  float cap_inverse, cap_log2;
  bool has_cap;
};
template <class Params>
SEXTANT_DEVICE ScoreRule make_score_rule(const Params& p, float k_scale) {
  ScoreRule r;
  r.has_cap = p.soft_cap > 0;
  const float scale = p.softmax_scale * k_scale;
  r.scale_log2 = r.has_cap ? scale : scale * kLog2E;
  r.cap_inverse = r.has_cap ? 1.0f / p.soft_cap : 0.0f;
  r.cap_log2 = p.soft_cap * kLog2E;
  return r;
}

// What a finished row needs.
struct RowEnd {
  float weight;  // the accumulated row times this is the result
  float lse;     // natural logarithm
};
// `row_max` in log2 units (-inf: nothing visible; else any reference), `sum` of 2^(score - row_max). The sink joins the
// denominator here and only here.
SEXTANT_DEVICE RowEnd finish_row(float row_max, float sum, float v_scale, const float* sinks, int head) {
  if (sinks == nullptr) {
    if (sum == 0) return {0.0f, kNegInf};
    return {v_scale / sum, (row_max + log2(sum)) * kLn2};
  }
  const float sink = read(sinks + head) * kLog2E;
  const float top = max(sum == 0 ? kNegInf : row_max, sink);
  if (top == kNegInf) return {0.0f, kNegInf};
  const float scaled = sum == 0 ? 0.0f : exp2(row_max - top);
  const float total = sum * scaled + exp2(sink - top);
  return {v_scale * scaled / total, (top + log2(total)) * kLn2};
}

}  // namespace sextant::gpu
