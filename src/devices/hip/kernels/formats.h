// Element types to and from float. Formats are runtime values in the memory-bound kernels and template parameters in
// the matrix kernels.
#pragma once

#include "devices/hip/kernels/lane.h"
#include "devices/hip/kernels/params.h"

namespace sextant::hip {

SEXTANT_DEVICE uint32_t bits_of(float x) { return bit_cast<uint32_t>(x); }
SEXTANT_DEVICE float float_of(uint32_t bits) { return bit_cast<float>(bits); }

SEXTANT_DEVICE float bf16_to_float(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }
// Ties to even; NaN stays NaN.
SEXTANT_DEVICE uint32_t float_to_bf16(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return x != x ? (bits >> 16 | 0x40u) : rounded;
}

// fp8 by way of fp32's own arithmetic: the byte's exponent and fraction moved to fp32's place, times the ratio of the
// biases. The product also makes subnormals right.
template <Format kFormat>
SEXTANT_DEVICE float fp8_to_float(uint32_t x) {
  const uint32_t sign = (x & 0x80u) << 24, magnitude = x & 0x7fu;
  if constexpr (kFormat == Format::kE5M2) {
    if (magnitude >= 0x7cu) return float_of(sign | 0x7f800000u | (magnitude & 3u) << 21);
    return float_of(bits_of(float_of(magnitude << 21) * float_of(0x77800000u)) | sign);  // 2^112
  } else if constexpr (kFormat == Format::kE4M3FN) {
    if (magnitude == 0x7fu) return float_of(sign | 0x7fc00000u);
    return float_of(bits_of(float_of(magnitude << 20) * float_of(0x7b800000u)) | sign);  // 2^120
  } else {
    if (x == 0x80u) return float_of(0x7fc00000u);
    return float_of(bits_of(float_of(magnitude << 20) * float_of(0x7b000000u)) | sign);  // 2^119
  }
}

// To the nearest, ties to even, saturating.
struct Fp8Shape {
  int fraction_bits, least_exponent;  // of the smallest normal number
  float largest;
  uint32_t largest_bits, nan_bits;
  bool negative_zero;
};
template <Format kFormat>
SEXTANT_DEVICE constexpr Fp8Shape fp8_shape() {
  if constexpr (kFormat == Format::kE5M2) return {2, -14, 57344.0f, 0x7bu, 0x7fu, true};
  if constexpr (kFormat == Format::kE4M3FN) return {3, -6, 448.0f, 0x7eu, 0x7fu, true};
  return {3, -7, 240.0f, 0x7fu, 0x80u, false};
}
template <Format kFormat>
SEXTANT_DEVICE uint32_t float_to_fp8(float x) {
  constexpr Fp8Shape f = fp8_shape<kFormat>();
  if (x != x) return f.nan_bits;
  const uint32_t sign = bits_of(x) >> 31 << 7;
  const float a = float_of(bits_of(x) & 0x7fffffffu);
  if (a >= f.largest) return sign | f.largest_bits;
  const int exponent = max(static_cast<int>(bits_of(a) >> 23) - 127, f.least_exponent);
  // Adding 1.5 * 2^23 units rounds to whole units of the binade's last place.
  const float unit = float_of(static_cast<uint32_t>(exponent - f.fraction_bits + 127) << 23);
  const float shift = unit * 12582912.0f;
  const auto units = static_cast<uint32_t>(bits_of(a + shift) - bits_of(shift));
  const uint32_t magnitude = units + (static_cast<uint32_t>(exponent - f.least_exponent) << f.fraction_bits);
  if (magnitude == 0) return f.negative_zero ? sign : 0u;
  return sign | min(magnitude, f.largest_bits);
}

// One element of a format known when the kernel runs: of those that are computed with,
SEXTANT_DEVICE float load_wide_element(Format format, const void* data, int64_t index) {
  if (format == Format::kF32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return format == Format::kF16 ? half_to_float(bits) : bf16_to_float(bits);
}
SEXTANT_DEVICE void store_wide_element(Format format, void* data, int64_t index, float x) {
  if (format == Format::kF32) {
    static_cast<float*>(data)[index] = x;
  } else {
    static_cast<uint16_t*>(data)[index] =
        format == Format::kF16 ? float_to_half(x) : static_cast<uint16_t>(float_to_bf16(x));
  }
}
// of 8 bits,
SEXTANT_DEVICE bool is_8_bit(Format f) { return f >= Format::kE4M3FN; }
SEXTANT_DEVICE float load_byte_element(Format format, const void* data, int64_t index) {
  const uint8_t byte = static_cast<const uint8_t*>(data)[index];
  if (format == Format::kE4M3FN) return fp8_to_float<Format::kE4M3FN>(byte);
  if (format == Format::kE4M3FNUZ) return fp8_to_float<Format::kE4M3FNUZ>(byte);
  if (format == Format::kI8) return static_cast<float>(static_cast<int8_t>(byte));
  return fp8_to_float<Format::kE5M2>(byte);
}
SEXTANT_DEVICE uint32_t float_to_fp8(Format format, float x) {
  if (format == Format::kE4M3FN) return float_to_fp8<Format::kE4M3FN>(x);
  if (format == Format::kE4M3FNUZ) return float_to_fp8<Format::kE4M3FNUZ>(x);
  return float_to_fp8<Format::kE5M2>(x);
}
// Adding and taking away 1.5 * 2^23 rounds to an integer, ties to even.
SEXTANT_DEVICE uint32_t float_to_int8(float x) {
  const float rounded = (min(max(x, -128.0f), 127.0f) + 12582912.0f) - 12582912.0f;
  return static_cast<uint8_t>(static_cast<int8_t>(rounded));
}
SEXTANT_DEVICE void store_byte_element(Format format, void* data, int64_t index, float x) {
  static_cast<uint8_t*>(data)[index] =
      static_cast<uint8_t>(format == Format::kI8 ? float_to_int8(x) : float_to_fp8(format, x));
}
// or of any.
SEXTANT_DEVICE float load_element(Format format, const void* data, int64_t index) {
  return is_8_bit(format) ? load_byte_element(format, data, index) : load_wide_element(format, data, index);
}
SEXTANT_DEVICE void store_element(Format format, void* data, int64_t index, float x) {
  if (is_8_bit(format)) {
    store_byte_element(format, data, index, x);
  } else {
    store_wide_element(format, data, index, x);
  }
}

// The chip's own format: the one that its caches hold, and that it converts by itself where it can.
#if defined(__gfx942__)
constexpr Format kNativeFp8 = Format::kE4M3FNUZ;
#elif defined(__AMDGCN__)
constexpr Format kNativeFp8 = Format::kE4M3FN;
#endif
#if defined(__gfx942__) || defined(__gfx950__)
constexpr bool kConvertsFp8 = true;
#else
constexpr bool kConvertsFp8 = false;
#endif

// Eight elements as floats.
struct Floats8 {
  float x[8];
};

// Eight fp8 values in two words.
template <Format kFormat>
SEXTANT_DEVICE Floats8 unpack_fp8(u32x2 raw) {
  Floats8 r;
#ifdef __AMDGCN__
  // The chip converts two at a time what is its own format.
  if constexpr (kConvertsFp8 && kFormat == kNativeFp8) {
    SEXTANT_UNROLL
    for (int w = 0; w < 2; ++w) {
      const auto low = __builtin_amdgcn_cvt_pk_f32_fp8(static_cast<int>(raw[w]), false);
      const auto high = __builtin_amdgcn_cvt_pk_f32_fp8(static_cast<int>(raw[w]), true);
      r.x[4 * w] = low[0];
      r.x[4 * w + 1] = low[1];
      r.x[4 * w + 2] = high[0];
      r.x[4 * w + 3] = high[1];
    }
    return r;
  }
#endif
  SEXTANT_UNROLL
  for (int i = 0; i < 8; ++i) r.x[i] = fp8_to_float<kFormat>(raw[i / 4] >> (8 * (i % 4)) & 0xffu);
  return r;
}
SEXTANT_DEVICE Floats8 unpack_native_fp8(u32x2 raw) {
#ifdef __AMDGCN__
  return unpack_fp8<kNativeFp8>(raw);
#else
  return emulator::lane().chip.ocp_fp8 ? unpack_fp8<Format::kE4M3FN>(raw) : unpack_fp8<Format::kE4M3FNUZ>(raw);
#endif
}
SEXTANT_DEVICE Floats8 unpack_fp8(Format format, u32x2 raw) {
  if (format == Format::kE4M3FN) return unpack_fp8<Format::kE4M3FN>(raw);
  if (format == Format::kE4M3FNUZ) return unpack_fp8<Format::kE4M3FNUZ>(raw);
  return unpack_fp8<Format::kE5M2>(raw);
}
SEXTANT_DEVICE Floats8 unpack_bytes8(Format format, u32x2 raw) {
  if (format == Format::kI8) {
    Floats8 r;
    SEXTANT_UNROLL
    for (int i = 0; i < 8; ++i) r.x[i] = static_cast<float>(static_cast<int8_t>(raw[i / 4] >> (8 * (i % 4)) & 0xffu));
    return r;
  }
  return unpack_fp8(format, raw);
}

// Eight elements of 8 bits, at a multiple of 8.
SEXTANT_DEVICE Floats8 load_bytes8(Format format, const void* data, int64_t index) {
  return unpack_bytes8(format, *reinterpret_cast<const u32x2*>(static_cast<const uint8_t*>(data) + index));
}
// Eight fp8 elements, at a multiple of 8.
SEXTANT_DEVICE void store_fp8x8(Format format, void* data, int64_t index, const Floats8& v) {
  u32x2 words = {0, 0};
  SEXTANT_UNROLL
  for (int i = 0; i < 8; ++i) words[i / 4] |= float_to_fp8(format, v.x[i]) << (8 * (i % 4));
  *reinterpret_cast<u32x2*>(static_cast<uint8_t*>(data) + index) = words;
}
// Eight elements that are computed with: at a place aligned for vector loads, or anywhere.
SEXTANT_DEVICE Floats8 load_wide8(Format format, const void* data, int64_t index) {
  Floats8 r;
  if (format == Format::kF32) {
    const auto* p = reinterpret_cast<const f32x4*>(static_cast<const float*>(data) + index);
    const f32x4 a = p[0], b = p[1];
    SEXTANT_UNROLL
    for (int i = 0; i < 4; ++i) {
      r.x[i] = a[i];
      r.x[4 + i] = b[i];
    }
    return r;
  }
  const u32x4 raw = *reinterpret_cast<const u32x4*>(static_cast<const uint16_t*>(data) + index);
  SEXTANT_UNROLL
  for (int i = 0; i < 8; ++i) {
    const auto bits = static_cast<uint16_t>(raw[i / 2] >> (16 * (i % 2)));
    r.x[i] = format == Format::kF16 ? half_to_float(bits) : bf16_to_float(bits);
  }
  return r;
}
SEXTANT_DEVICE void store_wide8(Format format, void* data, int64_t index, const Floats8& v) {
  if (format == Format::kF32) {
    auto* p = reinterpret_cast<f32x4*>(static_cast<float*>(data) + index);
    p[0] = f32x4{v.x[0], v.x[1], v.x[2], v.x[3]};
    p[1] = f32x4{v.x[4], v.x[5], v.x[6], v.x[7]};
    return;
  }
  u32x4 words = {0, 0, 0, 0};
  SEXTANT_UNROLL
  for (int i = 0; i < 8; ++i)
    words[i / 2] |= (format == Format::kF16 ? float_to_half(v.x[i]) : float_to_bf16(v.x[i])) << (16 * (i % 2));
  *reinterpret_cast<u32x4*>(static_cast<uint16_t*>(data) + index) = words;
}
SEXTANT_DEVICE Floats8 load_wide8_by_element(Format format, const void* data) {
  Floats8 r;
  SEXTANT_UNROLL
  for (int i = 0; i < 8; ++i) r.x[i] = load_wide_element(format, data, i);
  return r;
}

}  // namespace sextant::hip
