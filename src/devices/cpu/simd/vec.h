// The vector type of the translation unit's ISA, chosen by the compiler flags of that unit.
//
// SEXTANT_ISA names the namespace. Everything lives in an unnamed namespace inside it: two translation units compiled
// with different flags must never share a function (one-definition rule).
//
// F32 holds kLanes floats. exp2_domain(x) brings x to where times_pow2 is exact; times_pow2(a, n, x) is a * 2^n, n the
// integer nearest to x, and 0 where x <= -127. Both let a NaN through. lanes_between(lo, hi) is true in lanes i with lo
// <= i < hi. reduce_lanes(a) has the sum of a[i] in lane i, each summed in the same order. load_two loads 2 * kLanes
// elements as two vectors: the even and the odd ones of bf16 (two bit operations for 2 * kLanes elements), the first
// and the second half of other types. load_part, load_two_part and store_part touch the first n elements alone, 0 < n <
// kLanes (2 * kLanes).
#pragma once

#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "devices/cpu/simd/formats.h"

#if defined(__AVX512F__)
#include "devices/cpu/simd/vec_avx512.h"
#elif defined(__AVX2__)
#include "devices/cpu/simd/vec_avx2.h"
#else
#include "devices/cpu/simd/vec_scalar.h"
#endif

namespace sextant::cpu::SEXTANT_ISA {
namespace {

#if !defined(__AVX512F__)  // vec_avx512.h has masks, and stores of whole lines
template <DType T>
inline void stream_as(void* p, F32 a) {
  store_as<T>(p, a);
}
inline void stream_fence() {}
template <DType T>
inline F32 load_part(const void* p, int64_t n) {
  alignas(64) char bytes[kLanes * 4] = {};
  __builtin_memcpy(bytes, p, static_cast<size_t>(n * kElementBytes<T>));
  return load_as<T>(bytes);
}
template <DType T>
inline void store_part(void* p, F32 a, int64_t n) {
  alignas(64) char bytes[kLanes * 4];
  store_as<T>(bytes, a);
  __builtin_memcpy(p, bytes, static_cast<size_t>(n * kElementBytes<T>));
}
template <DType T>
inline void load_two_part(const void* p, int64_t n, F32& x, F32& y) {
  alignas(64) char bytes[kLanes * 8] = {};
  __builtin_memcpy(bytes, p, static_cast<size_t>(n * kElementBytes<T>));
  load_two<T>(bytes, x, y);
}
#endif

// First n elements; the other lanes are 0. Reads nothing past them.
template <DType T>
inline F32 load_first(const void* p, int64_t n) {
  if (n >= kLanes) return load_as<T>(p);
  return n > 0 ? load_part<T>(p, n) : set1(0.0f);
}
template <DType T>
inline void store_first(void* p, F32 a, int64_t n) {
  if (n >= kLanes) return store_as<T>(p, a);
  if (n > 0) store_part<T>(p, a, n);
}
template <DType T>
inline void load_two_first(const void* p, int64_t n, F32& x, F32& y) {
  if (n >= 2 * kLanes) return load_two<T>(p, x, y);
  if (n > 0) return load_two_part<T>(p, n, x, y);
  x = y = set1(0.0f);
}

// 2^x for x <= 127; exactly 0 for x <= -127 and for -infinity, exactly 1 for 0. A polynomial on [-1/2, 1/2], minimax
// with the constant term fixed at 1. Its largest relative error: degree 3 1.0e-4, degree 4 2.8e-6, degree 5 9.2e-8.
template <int kDegree>
inline F32 exp2(F32 x) {
  x = exp2_domain(x);
  const F32 n = round_even(x);
  const F32 f = sub(x, n);
  F32 p;
  if constexpr (kDegree == 3) {
    p = fmadd(set1(5.500893116e-2f), f, set1(2.422109594e-1f));
    p = fmadd(p, f, set1(6.932829271e-1f));
  } else if constexpr (kDegree == 4) {
    p = fmadd(set1(9.582853029e-3f), f, set1(5.590642459e-2f));
    p = fmadd(p, f, set1(2.402409861e-1f));
    p = fmadd(p, f, set1(6.931241934e-1f));
  } else {
    p = fmadd(set1(1.326472714e-3f), f, set1(9.671512640e-3f));
    p = fmadd(p, f, set1(5.550733743e-2f));
    p = fmadd(p, f, set1(2.402224209e-1f));
    p = fmadd(p, f, set1(6.931469776e-1f));
  }
  return times_pow2(fmadd(p, f, set1(1.0f)), n, x);
}

// tanh as 1 - 2 / (e^2x + 1), as exact as exp2<kDegree>; for degree 5 by an odd polynomial near zero, where that
// cancels. tanh is 1 in fp32 from 9.02 on, and e^2x overflows from 44 on. A NaN is not larger than the limit and stays.
template <int kDegree>
inline F32 tanh(F32 x) {
  constexpr float kTwiceLog2E = 2.8853900817779268f;
  const auto of = [](F32 a) {
    const F32 clamped = select(less(set1(10.0f), a), set1(10.0f), a);
    const F32 e = exp2<kDegree>(mul(clamped, set1(kTwiceLog2E)));
    return fmadd(reciprocal(add(e, set1(1.0f))), set1(-2.0f), set1(1.0f));
  };
  if constexpr (kDegree < 5) return of(x);
  const F32 a = absolute(x), y = mul(x, x);
  F32 p = fmadd(set1(-5.70498872745e-3f), y, set1(2.06390887954e-2f));
  p = fmadd(p, y, set1(-5.37397155531e-2f));
  p = fmadd(p, y, set1(1.33314422036e-1f));
  p = fmadd(p, y, set1(-3.33332819422e-1f));
  const F32 small = fmadd(mul(p, y), x, x);
  return select(less(a, set1(0.625f)), small, copy_sign(of(a), x));
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
