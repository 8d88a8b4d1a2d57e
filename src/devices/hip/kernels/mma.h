// The product that attention and gemm are made of: a 16x16 tile over 32 values of k, whatever the chip has for it.
//
// A fragment is 8 elements of one row of A (or column of B): lane l holds row l % 16 and the k's of group l / 16. Which
// k's those are is the caller's choice as long as A and B agree, because a sum does not care for order: two 16x16x16
// instructions with elements 0..3 and 4..7, or one 16x16x32, or eight 16x16x4 in fp32.
#pragma once

#include "devices/hip/kernels/formats.h"

namespace sextant::hip {

template <class T>
struct Fragment {
  u32x4 words;  // 8 elements of 16 bits
};
template <>
struct Fragment<float> {
  f32x4 low, high;
};

template <class T>
struct TypeTraits;
template <>
struct TypeTraits<bf16> {
  static constexpr Format kFormat = Format::kBF16;
};
template <>
struct TypeTraits<f16> {
  static constexpr Format kFormat = Format::kF16;
};
template <>
struct TypeTraits<float> {
  static constexpr Format kFormat = Format::kF32;
};

template <class T>
SEXTANT_DEVICE f32x4 multiply(const Fragment<T>& a, const Fragment<T>& b, f32x4 c) {
#if defined(__gfx950__) || !defined(__AMDGCN__)
  if (kHasWideMfma) return mfma_16x16x32(T{}, a.words, b.words, c);
#endif
  c = mfma_16x16x16(T{}, u32x2{a.words[0], a.words[1]}, u32x2{b.words[0], b.words[1]}, c);
  return mfma_16x16x16(T{}, u32x2{a.words[2], a.words[3]}, u32x2{b.words[2], b.words[3]}, c);
}
template <>
SEXTANT_DEVICE f32x4 multiply<float>(const Fragment<float>& a, const Fragment<float>& b, f32x4 c) {
  SEXTANT_UNROLL
  for (int i = 0; i < 4; ++i) c = mfma_16x16x4(a.low[i], b.low[i], c);
  SEXTANT_UNROLL
  for (int i = 0; i < 4; ++i) c = mfma_16x16x4(a.high[i], b.high[i], c);
  return c;
}

// 32x32 over 16 values of k: the same for 8 elements a lane of row (column) l % 32 and group l / 32.
template <class T, bool kWide>
SEXTANT_DEVICE f32x16 multiply_tall(const Fragment<T>& a, const Fragment<T>& b, f32x16 c) {
#if defined(__gfx950__) || !defined(__AMDGCN__)
  if constexpr (kWide) return mfma_32x32x16(T{}, a.words, b.words, c);
#endif
  c = mfma_32x32x8(T{}, u32x2{a.words[0], a.words[1]}, u32x2{b.words[0], b.words[1]}, c);
  return mfma_32x32x8(T{}, u32x2{a.words[2], a.words[3]}, u32x2{b.words[2], b.words[3]}, c);
}

template <class T>
SEXTANT_DEVICE uint32_t pack_pair(float a, float b);
template <>
SEXTANT_DEVICE uint32_t pack_pair<bf16>(float a, float b) {
#if defined(__gfx950__)  // one instruction there
  using Pair = __bf16 __attribute__((vector_size(4)));
  return bit_cast<uint32_t>(Pair{static_cast<__bf16>(a), static_cast<__bf16>(b)});
#else
  return float_to_bf16(a) | float_to_bf16(b) << 16;
#endif
}
template <>
SEXTANT_DEVICE uint32_t pack_pair<f16>(float a, float b) {
  return static_cast<uint32_t>(float_to_half(a)) | static_cast<uint32_t>(float_to_half(b)) << 16;
}
template <class T>
SEXTANT_DEVICE Fragment<T> make_fragment(const Floats8& v) {
  Fragment<T> f;
  SEXTANT_UNROLL
  for (int i = 0; i < 4; ++i) f.words[i] = pack_pair<T>(v.x[2 * i], v.x[2 * i + 1]);
  return f;
}
template <>
SEXTANT_DEVICE Fragment<float> make_fragment<float>(const Floats8& v) {
  return {f32x4{v.x[0], v.x[1], v.x[2], v.x[3]}, f32x4{v.x[4], v.x[5], v.x[6], v.x[7]}};
}

// Probabilities as operand: finite, which saves the care for NaN in the rounding to bf16.
template <class T>
SEXTANT_DEVICE Fragment<T> make_weights(const Floats8& v) {
  return make_fragment<T>(v);
}
#if !defined(__gfx950__)
template <>
SEXTANT_DEVICE Fragment<bf16> make_weights<bf16>(const Floats8& v) {
  Fragment<bf16> f;
  SEXTANT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const uint32_t a = bits_of(v.x[2 * i]), b = bits_of(v.x[2 * i + 1]);
    f.words[i] = high_halves(a + 0x7fffu + (a >> 16 & 1u), b + 0x7fffu + (b >> 16 & 1u));
  }
  return f;
}
#endif

// Eight consecutive elements of type T at an aligned place.
template <class T>
SEXTANT_DEVICE Fragment<T> load_fragment(const void* at) {
  if constexpr (sizeof(T) == 4) {
    const auto* p = static_cast<const f32x4*>(at);
    return {p[0], p[1]};
  } else {
    return {*static_cast<const u32x4*>(at)};
  }
}
template <class T>
SEXTANT_DEVICE void store_fragment(void* at, const Fragment<T>& f) {
  if constexpr (sizeof(T) == 4) {
    auto* p = static_cast<f32x4*>(at);
    p[0] = f.low;
    p[1] = f.high;
  } else {
    *static_cast<u32x4*>(at) = f.words;
  }
}
template <class T>
SEXTANT_DEVICE Fragment<T> zero_fragment() {
  if constexpr (sizeof(T) == 4) {
    return {f32x4{0, 0, 0, 0}, f32x4{0, 0, 0, 0}};
  } else {
    return {u32x4{0, 0, 0, 0}};
  }
}

// Four consecutive elements of one row of V; four rows make the transposed operands of four dims.
template <class T>
struct Quad {
  u32x2 words;
};
template <>
struct Quad<float> {
  f32x4 words;
};
template <class T>
SEXTANT_DEVICE Quad<T> load_quad(const void* at) {
  if constexpr (sizeof(T) == 4) {
    return {*static_cast<const f32x4*>(at)};
  } else {
    return {*static_cast<const u32x2*>(at)};
  }
}
// Fragment of dim `n` of rows[0..7]: what the matrix instruction wants of V^T.
template <class T>
SEXTANT_DEVICE Fragment<T> transpose(const Quad<T> (&rows)[8], int n) {
  if constexpr (sizeof(T) == 4) {
    return {f32x4{rows[0].words[n], rows[1].words[n], rows[2].words[n], rows[3].words[n]},
            f32x4{rows[4].words[n], rows[5].words[n], rows[6].words[n], rows[7].words[n]}};
  } else {
    Fragment<T> f;
    SEXTANT_UNROLL
    for (int i = 0; i < 4; ++i) {
      const uint32_t a = rows[2 * i].words[n / 2], b = rows[2 * i + 1].words[n / 2];
      f.words[i] = n % 2 == 0 ? low_halves(a, b) : high_halves(a, b);
    }
    return f;
  }
}

}  // namespace sextant::hip
