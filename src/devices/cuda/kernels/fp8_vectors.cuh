// Sixteen fp8 numbers at a time, to 16-bit types.
#pragma once

#include <type_traits>

#include "devices/cuda/kernels/convert.cuh"
#include "devices/cuda/kernels/ptx.cuh"

namespace sextant::cuda {

// Calls `use` with the format as a constant: what depends on it is decided once, not for every number.
template <class Use>
__device__ __forceinline__ void with_fp8_format(DType dtype, Use use) {
  if (dtype == DType::kF8E4M3FN) {
    use(std::integral_constant<DType, DType::kF8E4M3FN>{});
  } else if (dtype == DType::kF8E5M2) {
    use(std::integral_constant<DType, DType::kF8E5M2>{});
  } else {
    use(std::integral_constant<DType, DType::kF8E4M3FNUZ>{});
  }
}

// Four fp8 bytes to four fp16, exactly.
template <DType kFormat>
__device__ __forceinline__ uint2 fp8_word_to_f16(uint32_t word) {
  if constexpr (kFormat == DType::kF8E4M3FN) return e4m3_quad_to_f16(word);
  const uint32_t low = __byte_perm(word, 0, 0x1404), high = __byte_perm(word, 0, 0x3424);  // bytes on top of the halves
  if constexpr (kFormat == DType::kF8E5M2) return make_uint2(low, high);  // e5m2 is the upper half of fp16
  // e4m3fnuz: 2^-7 of the value, then the factor. 0x80, its NaN, is looked for by the caller.
  const auto scaled = [](uint32_t spread) {
    const uint32_t bits = (spread & 0x80008000u) | ((spread & 0x7f007f00u) >> 1);
    const __half2 value = __hmul2(*reinterpret_cast<const __half2*>(&bits), __half2half2(__ushort_as_half(0x5800)));
    return *reinterpret_cast<const uint32_t*>(&value);
  };
  return make_uint2(scaled(low), scaled(high));
}
__device__ __forceinline__ bool has_fnuz_nan(uint32_t word) {  // a byte that is 0x80
  const uint32_t x = word ^ 0x80808080u;
  return ((x - 0x01010101u) & ~x & 0x80808080u) != 0;
}
__device__ __forceinline__ void set_fnuz_nans(uint32_t word, uint2& halves) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if ((word >> (8 * i) & 0xff) == 0x80) halves.x |= 0x7e00u << (16 * i);
    if ((word >> (8 * i + 16) & 0xff) == 0x80) halves.y |= 0x7e00u << (16 * i);
  }
}

// 16 numbers, times `scale` where kScaled.
template <class T, DType kFormat, bool kScaled>
__device__ __forceinline__ void convert_fp8_vector(const uint4& raw, float scale, uint4& low, uint4& high) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
  uint2 halves[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) halves[i] = fp8_word_to_f16<kFormat>(words[i]);
  if constexpr (kFormat == DType::kF8E4M3FNUZ) {
    if (has_fnuz_nan(raw.x) || has_fnuz_nan(raw.y) || has_fnuz_nan(raw.z) || has_fnuz_nan(raw.w)) {
#pragma unroll
      for (int i = 0; i < 4; ++i) set_fnuz_nans(words[i], halves[i]);
    }
  }
  if constexpr (kScaled || !std::is_same_v<T, __half>) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      for (uint32_t* pair : {&halves[i].x, &halves[i].y}) {
        const float2 x = __half22float2(*reinterpret_cast<const __half2*>(pair));
        *pair = kScaled ? pack_pair<T>(x.x * scale, x.y * scale) : pack_pair<T>(x.x, x.y);
      }
  }
  low = make_uint4(halves[0].x, halves[0].y, halves[1].x, halves[1].y);
  high = make_uint4(halves[2].x, halves[2].y, halves[3].x, halves[3].y);
}

// Queries of T for products in fp16: eight elements times `factor`, a power of two.
template <class T>
__device__ __forceinline__ uint4 to_scaled_halves(const uint4& x, float factor) {
  const uint32_t words[4] = {x.x, x.y, x.z, x.w};
  uint32_t out[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const T* pair = reinterpret_cast<const T*>(&words[i]);
    out[i] = pack_pair<__half>(to_float(pair[0]) * factor, to_float(pair[1]) * factor);
  }
  return make_uint4(out[0], out[1], out[2], out[3]);
}
template <class T>
__device__ __forceinline__ float largest_magnitude(const uint4& x) {
  const uint32_t words[4] = {x.x, x.y, x.z, x.w};
  float largest = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const T* pair = reinterpret_cast<const T*>(&words[i]);
    largest = fmaxf(largest, fmaxf(fabsf(to_float(pair[0])), fabsf(to_float(pair[1]))));
  }
  return largest;
}
// The power of two that brings a row's largest magnitude to [2^8, 2^9): fp16 then loses nothing that a sum of products
// in fp32 would keep. Its inverse is a power of two as well.
__device__ __forceinline__ float row_factor(float largest) {
  const int exponent = max(static_cast<int>(__float_as_uint(largest) >> 23), 20);  // biased; tiny rows stay tiny
  return __uint_as_float(static_cast<uint32_t>(127 + 8 + 127 - min(exponent, 254)) << 23);
}

}  // namespace sextant::cuda
