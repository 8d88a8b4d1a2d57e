// Scalar conversions of the element formats, branch-light so that compilers vectorise loops over them.
// Everything has internal linkage: each ISA's translation unit gets its own copy.
#pragma once

#include <stdint.h>

#include "sextant/types.h"

namespace sextant::cpu {
namespace {

inline uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}
inline float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

inline float bf16_to_float(uint16_t code) { return float_of(static_cast<uint32_t>(code) << 16); }
inline uint16_t float_to_bf16(float x) {
  const uint32_t bits = bits_of(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float f16_to_float(uint16_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x8000u) << 16, low = code & 0x7fffu;
  if (low >= 0x7c00u) return float_of(sign | 0x7f800000u | (low & 0x3ffu) << 13);
  if (low >= 0x0400u) return float_of(sign | ((low << 13) + (112u << 23)));
  return float_of(sign | bits_of(static_cast<float>(low) * 0x1p-24f));
}
inline uint16_t float_to_f16(float x) {
  const uint32_t bits = bits_of(x), sign = (bits >> 16) & 0x8000u, low = bits & 0x7fffffffu;
  if (low > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (low >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
  if (low < 0x38800000u)  // below 2^-14: the sum's last mantissa bit is 2^-24, the spacing of subnormals
    return static_cast<uint16_t>(sign | (bits_of(float_of(low) + 0.5f) - bits_of(0.5f)));
  return static_cast<uint16_t>(sign | ((low + 0xfffu + ((low >> 13) & 1u) - (112u << 23)) >> 13));
}

// An 8-bit format: exponent bias, mantissa bits, largest finite value, NaN code.
template <DType T>
struct Fp8Format;
template <>
struct Fp8Format<DType::kF8E4M3FN> {
  static constexpr int kBias = 7, kMantissa = 3;
  static constexpr float kMax = 448.0f;
  static constexpr uint8_t kNan = 0x7f;
};
template <>
struct Fp8Format<DType::kF8E4M3FNUZ> {
  static constexpr int kBias = 8, kMantissa = 3;
  static constexpr float kMax = 240.0f;
  static constexpr uint8_t kNan = 0x80;
};
template <>
struct Fp8Format<DType::kF8E5M2> {
  static constexpr int kBias = 15, kMantissa = 2;
  static constexpr float kMax = 57344.0f;
  static constexpr uint8_t kNan = 0x7f;
};

template <DType T>
inline float fp8_to_float(uint8_t code) {
  using F = Fp8Format<T>;
  const uint32_t low = code & 0x7fu;
  if (T == DType::kF8E4M3FN && low == 0x7f) return float_of(0x7fc00000u);
  if (T == DType::kF8E4M3FNUZ && code == 0x80) return float_of(0x7fc00000u);
  const uint32_t exponent = low >> F::kMantissa, mantissa = low & ((1u << F::kMantissa) - 1u);
  float x;
  if (T == DType::kF8E5M2 && exponent == 31)
    x = float_of(0x7f800000u | mantissa << 21);
  else if (exponent == 0)
    x = static_cast<float>(mantissa) * float_of(static_cast<uint32_t>(128 - F::kBias - F::kMantissa) << 23);
  else
    x = float_of((exponent + 127u - F::kBias) << 23 | mantissa << (23 - F::kMantissa));
  return code & 0x80u ? -x : x;
}

// Round to nearest even, saturating at the largest finite value; NaN stays NaN.
template <DType T>
inline uint8_t float_to_fp8(float x) {
  using F = Fp8Format<T>;
  constexpr int kShift = 23 - F::kMantissa;
  const uint32_t sign = (bits_of(x) >> 24) & 0x80u;
  float magnitude = __builtin_fabsf(x);
  const bool nan = magnitude != magnitude;
  magnitude = magnitude > F::kMax ? F::kMax : magnitude;
  const uint32_t low = bits_of(magnitude);
  // Normal numbers: round the mantissa, move the exponent's bias.
  const uint32_t normal =
      ((low + ((1u << (kShift - 1)) - 1u) + ((low >> kShift) & 1u)) >> kShift) - ((127u - F::kBias) << F::kMantissa);
  // Subnormals: in this sum the last mantissa bit is the format's smallest step, so the addition rounds.
  constexpr float kStep = __builtin_bit_cast(float, static_cast<uint32_t>(128 - F::kBias - F::kMantissa + 23) << 23);
  const uint32_t subnormal = bits_of(magnitude + kStep) - bits_of(kStep);
  constexpr float kMinNormal = __builtin_bit_cast(float, static_cast<uint32_t>(128 - F::kBias) << 23);
  const uint32_t code = magnitude < kMinNormal ? subnormal : normal;
  if (nan) return static_cast<uint8_t>(T == DType::kF8E4M3FNUZ ? F::kNan : F::kNan | sign);
  if (T == DType::kF8E4M3FNUZ && code == 0) return 0;  // there is no negative zero
  return static_cast<uint8_t>(code | sign);
}

// An 8-bit code as bf16, which holds every value of these formats: normal numbers move their fields by kShift and get
// kRebias; magnitudes below kFirstNormal are subnormal and come from a table.
template <DType T>
struct Fp8AsBf16 {
  static constexpr int kShift = 7 - Fp8Format<T>::kMantissa;
  static constexpr uint16_t kRebias = static_cast<uint16_t>((127 - Fp8Format<T>::kBias) << 7);
  static constexpr int kFirstNormal = 1 << Fp8Format<T>::kMantissa;
  static constexpr uint16_t kNan = 0x7fc0;
};
template <DType T>
inline constexpr uint16_t subnormal_as_bf16(int magnitude) {
  if (magnitude >= Fp8AsBf16<T>::kFirstNormal) return 0;
  const float step =
      __builtin_bit_cast(float, static_cast<uint32_t>(128 - Fp8Format<T>::kBias - Fp8Format<T>::kMantissa) << 23);
  return static_cast<uint16_t>(__builtin_bit_cast(uint32_t, static_cast<float>(magnitude) * step) >> 16);
}

template <DType T>
inline float load_element(const void* p, int64_t i) {
  if constexpr (T == DType::kF32)
    return static_cast<const float*>(p)[i];
  else if constexpr (T == DType::kF16)
    return f16_to_float(static_cast<const uint16_t*>(p)[i]);
  else if constexpr (T == DType::kBF16)
    return bf16_to_float(static_cast<const uint16_t*>(p)[i]);
  else
    return fp8_to_float<T>(static_cast<const uint8_t*>(p)[i]);
}

template <DType T>
inline void store_element(void* p, int64_t i, float x) {
  if constexpr (T == DType::kF32)
    static_cast<float*>(p)[i] = x;
  else if constexpr (T == DType::kF16)
    static_cast<uint16_t*>(p)[i] = float_to_f16(x);
  else if constexpr (T == DType::kBF16)
    static_cast<uint16_t*>(p)[i] = float_to_bf16(x);
  else
    static_cast<uint8_t*>(p)[i] = float_to_fp8<T>(x);
}

template <DType T>
inline constexpr int64_t kElementBytes = T == DType::kF32                        ? 4
                                         : T == DType::kF16 || T == DType::kBF16 ? 2
                                                                                 : 1;

// Calls f<T>() with the compile-time type of `dtype`.
template <class F>
inline void dispatch_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      f.template operator()<DType::kF32>();
      break;
    case DType::kF16:
      f.template operator()<DType::kF16>();
      break;
    case DType::kBF16:
      f.template operator()<DType::kBF16>();
      break;
    case DType::kF8E4M3FN:
      f.template operator()<DType::kF8E4M3FN>();
      break;
    case DType::kF8E4M3FNUZ:
      f.template operator()<DType::kF8E4M3FNUZ>();
      break;
    case DType::kF8E5M2:
      f.template operator()<DType::kF8E5M2>();
      break;
    default:
      break;
  }
}

}  // namespace
}  // namespace sextant::cpu
