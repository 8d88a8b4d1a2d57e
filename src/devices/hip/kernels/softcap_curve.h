// The softcap where scores are well below it. cap tanh(x) takes an exponential and a reciprocal a score; as long as |x|
// is small an odd polynomial is as good:
//
//   2 terms, |x| up to 1/4    off by 7.8e-6 of the cap at most, for caps up to 50. Its last step also subtracts the
//                             row's maximum, so that a tile pays one more packed instruction a pair of scores
//   3 terms, |x| up to 1/2    off by 5.3e-6 of the cap at most, for caps up to 64: two more
//
// For these caps that is less than what rounding a probability to fp16 does. Larger caps, and tiles with larger scores,
// take the exact way (softmax.h).
#pragma once

#include "devices/hip/kernels/softmax.h"

namespace sextant::hip {

// A raw score s is s (a[0] + a[1] s^2 + ...) in log2 units.
template <int kTerms>
struct SoftcapCurve {
  float a[kTerms];
};
template <int kTerms>
struct SmallScores {
  SoftcapCurve<kTerms> curve;
  float most;  // where the tangent at 0 is for the largest |score| for which the curve holds; negative: for none
};
// Of a raw score of 1, `x` is what tanh is taken of.
template <int kTerms>
SEXTANT_DEVICE SmallScores<kTerms> small_scores(float x, float cap_log2) {
  static_assert(kTerms == 2 || kTerms == 3);
  constexpr float kMostCap = (kTerms == 2 ? 50.0f : 64.0f) * kLog2E, kMostX = kTerms == 2 ? 0.25f : 0.5f;
  // The polynomials of least error (Remez). They lie below their tangents at 0.
  constexpr float kC[3] = {kTerms == 2 ? 0.99984342f : 0.99992483f, kTerms == 2 ? -0.32319887f : -0.33085505f,
                           0.11254138f};
  // Powers of what lies far outside of all that is used would not fit.
  const bool holds = cap_log2 <= kMostCap && x > 1e-6f && x < 1e6f;
  // One after the other: two at once would take a pair of constants from memory.
  // The longer curve is seldom needed, and scalar registers are few.
  const auto kept = [](float y) { return kTerms == 2 ? uniform(y) : y; };
  SmallScores<kTerms> small;
  small.curve.a[0] = kept(kC[0] * x * cap_log2);
  SEXTANT_UNROLL
  for (int i = 1; i < kTerms; ++i) small.curve.a[i] = kept(kC[i] / kC[i - 1] * small.curve.a[i - 1] * x * x);
  small.most = kept(holds ? kMostX * kC[0] * cap_log2 : -1.0f);
  return small;
}
template <int kTerms>
SEXTANT_DEVICE float on_curve(const SoftcapCurve<kTerms>& curve, float s) {
  const float square = s * s;
  float y = curve.a[kTerms - 1];
  SEXTANT_UNROLL
  for (int i = kTerms - 2; i >= 0; --i) y = square * y + curve.a[i];
  return s * y;
}
// Of several scores, less `base`; step by step for all, because a result is not there for the next instruction.
template <int kTerms, int kCount>
SEXTANT_DEVICE void on_curve(const SoftcapCurve<kTerms>& curve, float base, f32x2 (&s)[kCount]) {
  f32x2 square[kCount], y[kCount];
  SEXTANT_UNROLL
  for (int i = 0; i < kCount; ++i) square[i] = s[i] * s[i];
  SEXTANT_UNROLL
  for (int i = 0; i < kCount; ++i) y[i] = square[i] * curve.a[kTerms - 1] + curve.a[kTerms - 2];
  if constexpr (kTerms == 3) {
    SEXTANT_UNROLL
    for (int i = 0; i < kCount; ++i) y[i] = square[i] * y[i] + curve.a[0];
  }
  SEXTANT_UNROLL
  for (int i = 0; i < kCount; ++i) s[i] = s[i] * y[i] - base;
}

}  // namespace sextant::hip
