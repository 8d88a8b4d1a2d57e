// The softcap where scores are well below it. cap tanh(x) takes an exponential and a reciprocal a score; as long as no
// |x| exceeds 1/2 an odd polynomial of degree 5 is as good: it is off by 5.3e-6 of the cap at most, which for the caps
// of models (20 to 50) is less than what rounding a probability to fp16 does. Its last step also subtracts the row's
// maximum, so that a tile pays two packed instructions a pair of scores.
//
// Larger caps, and tiles with larger scores, take the exact way (softmax.h).
#pragma once

#include "devices/hip/kernels/softmax.h"

namespace sextant::hip {

// A raw score s is s (a[0] + a[1] s^2 + a[2] s^4) in log2 units.
struct SoftcapCurve {
  float a[3];
};
struct SmallScores {
  SoftcapCurve curve;
  float most;  // where the tangent at 0 is for the largest |score| for which the curve holds; negative: for none
};
// Of a raw score of 1, `x` is what tanh is taken of.
SEXTANT_DEVICE SmallScores small_scores(float x, float cap_log2) {
  constexpr float kMostCap = 64.0f * kLog2E, kMostX = 0.5f;
  // The polynomial of least error on [0, 1/2] (Remez). It lies below its tangent at 0.
  constexpr float kC[3] = {0.99992483f, -0.33085505f, 0.11254138f};
  // Powers of what lies far outside of all that is used would not fit.
  const bool holds = cap_log2 <= kMostCap && x > 1e-6f && x < 1e6f;
  // One after the other: two at once would take a pair of constants from memory.
  const float slope = uniform(kC[0] * x * cap_log2), cubic = uniform(kC[1] / kC[0] * slope * x * x);
  return {{{slope, cubic, uniform(kC[2] / kC[1] * cubic * x * x)}}, uniform(holds ? kMostX * kC[0] * cap_log2 : -1.0f)};
}
SEXTANT_DEVICE float on_curve(const SoftcapCurve& curve, float s) {
  const float square = s * s;
  return s * (curve.a[0] + square * (curve.a[1] + square * curve.a[2]));
}
// Of several scores, less `base`; step by step for all, because a result is not there for the next instruction.
template <int kCount>
SEXTANT_DEVICE void on_curve(const SoftcapCurve& curve, float base, f32x2 (&s)[kCount]) {
  f32x2 square[kCount], y[kCount];
  SEXTANT_UNROLL
  for (int i = 0; i < kCount; ++i) square[i] = s[i] * s[i];
  SEXTANT_UNROLL
  for (int i = 0; i < kCount; ++i) y[i] = square[i] * curve.a[2] + curve.a[1];
  SEXTANT_UNROLL
  for (int i = 0; i < kCount; ++i) y[i] = square[i] * y[i] + curve.a[0];
  SEXTANT_UNROLL
  for (int i = 0; i < kCount; ++i) s[i] = s[i] * y[i] - base;
}

}  // namespace sextant::hip
