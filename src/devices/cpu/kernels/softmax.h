// The online softmax of one row over the scores of one tile, in base 2.
#pragma once

#include "devices/cpu/simd/vec.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;
constexpr float kNegInf = -__builtin_inff();

// What happens to a score before the mask.
struct ScoreShape {
  float scale = 1.0f;                  // softmax_scale times the scale of the stored keys
  float soft_cap = 0.0f;               // 0: none
  const float* alibi_slope = nullptr;  // of the row's head; null: none
  int64_t origin = 0;                  // the position where ALiBi is 0
  bool shaped() const { return soft_cap > 0.0f || alibi_slope != nullptr; }
  // What softmax_row still has to multiply by: shaped scores are logits in base 2 already.
  float remaining_scale() const { return shaped() ? 1.0f : scale * kLog2E; }
};

// Columns [from, to) of the tile that begins at `tile_begin`; both are multiples of 16. kDegree: of exp2.
template <int kDegree>
inline void shape_scores(const ScoreShape& shape, float* s, int64_t from, int64_t to, int64_t tile_begin) {
  const bool cap = shape.soft_cap > 0.0f;
  const float scale = cap ? shape.scale / shape.soft_cap : shape.scale * kLog2E;
  const float slope = shape.alibi_slope != nullptr ? *shape.alibi_slope * kLog2E : 0.0f;
  for (int64_t j = from; j < to; j += kLanes) {
    F32 x = mul(load(s + j), set1(scale));
    if (cap) x = mul(tanh<kDegree>(x), set1(shape.soft_cap * kLog2E));
    if (shape.alibi_slope != nullptr)
      x = fmadd(set1(slope), add(lane_numbers(), set1(static_cast<float>(tile_begin + j - shape.origin))), x);
    store(s + j, x);
  }
}

// Columns outside [lo, hi) become -infinity. Only the vectors at the ends of the interval are touched.
inline void mask_scores(float* s, int64_t from, int64_t to, int64_t lo, int64_t hi) {
  const auto mask = [=](int64_t j) { store(s + j, select(lanes_between(lo - j, hi - j), load(s + j), set1(kNegInf))); };
  for (int64_t j = from; j < to && j < lo; j += kLanes) mask(j);
  for (int64_t j = hi <= from ? from : hi / kLanes * kLanes; j < to; j += kLanes) mask(j);
}

// S -> P, with the row's maximum and sum brought up to date. Returns what the row's output so far must be multiplied
// by; 1 when it can stay. E says how P is stored and how exact the exponential must be. kWeighted: values have scales
// of their own, which their probabilities take over; the sum is of the probabilities alone.
template <class E, bool kWeighted = false>
inline float softmax_row(const float* s, typename E::Elem* p, int64_t from, int64_t to, float scale, float& row_max,
                         float& row_sum, const float* weights = nullptr) {
  F32 top = set1(kNegInf);
  for (int64_t j = from; j < to; j += kLanes) top = max(top, load(s + j));
  const float old_max = row_max, tile_max = reduce_max(top) * scale;
  const float new_max = tile_max > old_max ? tile_max : old_max;
  if (new_max == kNegInf) {  // nothing visible up to here
    for (int64_t j = from; j < to; j += kLanes) E::store_p(p, j, set1(0.0f));
    return 1.0f;
  }
  const F32 minus_max = set1(-new_max), factor = set1(scale);
  F32 sum = set1(0.0f);
  for (int64_t j = from; j < to; j += kLanes) {
    const F32 x = exp2<E::kExpDegree>(fmadd(load(s + j), factor, minus_max));
    sum = add(sum, x);
    E::store_p(p, j, kWeighted ? mul(x, load(weights + j)) : x);
  }
  float alpha = 1.0f;
  if (new_max > old_max) {
    row_max = new_max;
    if (old_max != kNegInf) {  // else the sum and the output so far are 0
      float lanes[kLanes];
      store(lanes, exp2<5>(set1(old_max - new_max)));
      alpha = lanes[0];
      row_sum *= alpha;
    }
  }
  row_sum += reduce_add(sum);
  return alpha;
}

inline void scale_row(float* o, int64_t n, float factor) {
  for (int64_t d = 0; d < n; d += kLanes) store(o + d, mul(load(o + d), set1(factor)));
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
