// The online softmax of a row with tile products in between: see amx_products.h.
//
// A row of 256 columns lives in sixteen registers from its maximum to its exponentials; shorter rows and those that a
// mask cuts go through the same operations in the same order, so that a row's bits do not depend on which way it took.
#pragma once

#include "devices/cpu/kernels/amx_products.h"
#include "devices/cpu/kernels/softmax.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

constexpr int64_t kRegisterColumns = 256;

// 2^x for x <= 127: the integer below x goes to the exponent, the rest through a polynomial of degree 4 with a relative
// error of 2.9e-6 (minimax on [0, 1], 1 at 0). Exactly 0 for -infinity; relies on results below the normal range being
// flushed (FlushSubnormals), which costs 200 cycles each otherwise.
inline __m512 exp2_of(__m512 x) {
  const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(1.342668429e-2f), f, _mm512_set1_ps(5.224247419e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.412802048e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.930448449e-1f));
  return _mm512_scalef_ps(_mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f)), x);
}

// Sums of the even and of the odd vectors of a row.
struct RowSum {
  __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
};

// Columns j .. j + 31 of P, one row of a tile.
inline __attribute__((always_inline)) void weights_of(__m512 low, __m512 high, __m512 scale, __m512 minus_max,
                                                      uint16_t* p, RowSum& sum) {
  const __m512 x = exp2_of(_mm512_fmadd_ps(low, scale, minus_max)),
               y = exp2_of(_mm512_fmadd_ps(high, scale, minus_max));
  sum.even = _mm512_add_ps(sum.even, x);
  sum.odd = _mm512_add_ps(sum.odd, y);
  _mm512_storeu_si512(p, as_int(_mm512_cvtne2ps_pbh(y, x)));
}

struct RowState {
  float* max;
  float* sum;
  float* alpha;  // what the row's output so far must be multiplied by
};

// The maximum follows the scores only when it falls behind by more than this (in base 2): weights may then be as large
// as 2^8, which costs no precision in floating point, and most tiles need no rescaling of what was summed before.
constexpr float kMaxLag = 8.0f;

// Raises the maximum where it must be raised. Returns what to subtract.
inline float raise_max(const RowState& row, float tile_max) {
  const float old_max = *row.max;
  *row.alpha = 1.0f;
  if (!(tile_max > old_max + kMaxLag)) return old_max == kNegInf ? 0.0f : old_max;  // -infinity: nothing visible yet
  if (old_max != kNegInf) {  // before the first visible key there is nothing to rescale
    *row.alpha = _mm512_cvtss_f32(exp2_of(_mm512_set1_ps(old_max - tile_max)));
    *row.sum *= *row.alpha;
  }
  *row.max = tile_max;
  return tile_max;
}

// 256 columns, with two steps of `products` in between when there are as many.
template <bool kProducts>
inline void softmax_256(const float* s, uint16_t* p, float scale, const RowState& row, TileProducts& products) {
  __m512 x[16];
#pragma GCC unroll 16
  for (int j = 0; j < 16; ++j) x[j] = _mm512_loadu_ps(s + j * 16);
  __m512 even = x[0], odd = x[1];
#pragma GCC unroll 16
  for (int j = 2; j < 16; j += 2) {
    even = _mm512_max_ps(even, x[j]);
    odd = _mm512_max_ps(odd, x[j + 1]);
  }
  const float max = raise_max(row, reduce_max({_mm512_max_ps(even, odd)}) * scale);
  const __m512 factor = _mm512_set1_ps(scale), minus_max = _mm512_set1_ps(-max);
  RowSum sum;
  const auto pair = [&]<int kPair>() __attribute__((always_inline)) {
    weights_of(x[2 * kPair], x[2 * kPair + 1], factor, minus_max, p + kPair * kTileElements, sum);
    if constexpr (kProducts) products.template quarter<kPair % TileProducts::kQuarters>();
  };
  pair.template operator()<0>();
  pair.template operator()<1>();
  pair.template operator()<2>();
  pair.template operator()<3>();
  pair.template operator()<4>();
  pair.template operator()<5>();
  pair.template operator()<6>();
  pair.template operator()<7>();
  *row.sum += reduce_add({_mm512_add_ps(sum.even, sum.odd)});
}

// Columns [from, to), multiples of 32, with a step every four pairs of vectors while there are any.
inline void softmax_columns(const float* s, uint16_t* p, int64_t from, int64_t to, float scale, const RowState& row,
                            TileProducts& products) {
  __m512 even = _mm512_set1_ps(kNegInf), odd = even;
  for (int64_t j = from; j < to; j += 32) {
    even = _mm512_max_ps(even, _mm512_loadu_ps(s + j));
    odd = _mm512_max_ps(odd, _mm512_loadu_ps(s + j + 16));
  }
  const float max = raise_max(row, reduce_max({_mm512_max_ps(even, odd)}) * scale);
  const __m512 factor = _mm512_set1_ps(scale), minus_max = _mm512_set1_ps(-max);
  RowSum sum;
  int64_t j = from;
  const auto pair = [&]<int kQuarter>() __attribute__((always_inline)) {
    if (j < to)
      weights_of(_mm512_loadu_ps(s + j), _mm512_loadu_ps(s + j + 16), factor, minus_max, p + j / 32 * kTileElements,
                 sum);
    products.template quarter<kQuarter>();
    j += 32;
  };
  while (j < to && products.steps_left() > 0) {
    pair.template operator()<0>();
    pair.template operator()<1>();
    pair.template operator()<2>();
    pair.template operator()<3>();
  }
  for (; j < to; j += 32)
    weights_of(_mm512_loadu_ps(s + j), _mm512_loadu_ps(s + j + 16), factor, minus_max, p + j / 32 * kTileElements, sum);
  *row.sum += reduce_add({_mm512_add_ps(sum.even, sum.odd)});
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
