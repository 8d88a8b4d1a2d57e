// What the softmax of AMX kernels is made of.
#pragma once

#include "devices/cpu/kernels/engine_bf16.h"
#include "devices/cpu/kernels/softmax.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

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

// The maximum follows the scores only when it falls behind by more than this (in base 2): weights may then be as large
// as 2^8, which costs no precision in floating point, and most tiles need no rescaling of what was summed before.
constexpr float kMaxLag = 8.0f;

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
