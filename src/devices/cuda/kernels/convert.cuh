// Element types to and from float on the device.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "sextant/types.h"

namespace sextant::cuda {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

__device__ __forceinline__ float e4m3fn_to_float(uint8_t x) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(x, __NV_E4M3)));
}
__device__ __forceinline__ float e5m2_to_float(uint8_t x) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(x, __NV_E5M2)));
}
// Bias 8 instead of 7, one NaN (0x80), and what is NaN in fn is the largest number here.
__device__ __forceinline__ float e4m3fnuz_to_float(uint8_t x) {
  if (x == 0x80) return __int_as_float(0x7fc00000);
  const uint32_t magnitude = x & 0x7f;
  const uint32_t bits = ((x & 0x80u) << 8) | (magnitude << 7);  // as fp16 with bias 15: 2^-7 of the value
  return __half2float(__ushort_as_half(static_cast<uint16_t>(bits))) * 128.0f;
}

__device__ __forceinline__ uint8_t float_to_e4m3fn(float x) {
  return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}
__device__ __forceinline__ uint8_t float_to_e5m2(float x) {
  return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E5M2);
}
__device__ __forceinline__ uint8_t float_to_e4m3fnuz(float x) {
  if (isnan(x)) return 0x80;
  const uint8_t sign = x < 0 ? 0x80 : 0;
  const float a = fabsf(x);
  if (a == 0) return 0;  // frexp gives zero an exponent of 0, which is that of 0.5
  if (a >= 240.0f) return sign | 0x7f;
  int exponent;
  frexpf(a, &exponent);                                 // a in [2^(exponent-1), 2^exponent)
  const int step = max(exponent - 1, -7) - 3;           // the smallest normal is 2^-7, three fraction bits
  const int units = __float2int_rn(scalbnf(a, -step));  // ties to even; carries into the exponent by itself
  const uint8_t magnitude = static_cast<uint8_t>(units + ((step + 3 + 7) << 3));
  return magnitude == 0 ? 0 : static_cast<uint8_t>(sign | min(magnitude, static_cast<uint8_t>(0x7f)));
}

// One element of a runtime type.
__device__ __forceinline__ float load_float(DType dtype, const void* data, int64_t index) {
  switch (dtype) {
    case DType::kF32:
      return static_cast<const float*>(data)[index];
    case DType::kF16:
      return to_float(static_cast<const __half*>(data)[index]);
    case DType::kBF16:
      return to_float(static_cast<const __nv_bfloat16*>(data)[index]);
    case DType::kF8E4M3FN:
      return e4m3fn_to_float(static_cast<const uint8_t*>(data)[index]);
    case DType::kF8E4M3FNUZ:
      return e4m3fnuz_to_float(static_cast<const uint8_t*>(data)[index]);
    case DType::kF8E5M2:
      return e5m2_to_float(static_cast<const uint8_t*>(data)[index]);
    case DType::kI8:
      return static_cast<const int8_t*>(data)[index];
    default:
      return 0;
  }
}
__device__ __forceinline__ void store_float(DType dtype, void* data, int64_t index, float x) {
  switch (dtype) {
    case DType::kF32:
      static_cast<float*>(data)[index] = x;
      break;
    case DType::kF16:
      static_cast<__half*>(data)[index] = __float2half_rn(x);
      break;
    case DType::kBF16:
      static_cast<__nv_bfloat16*>(data)[index] = __float2bfloat16_rn(x);
      break;
    case DType::kF8E4M3FN:
      static_cast<uint8_t*>(data)[index] = float_to_e4m3fn(x);
      break;
    case DType::kF8E4M3FNUZ:
      static_cast<uint8_t*>(data)[index] = float_to_e4m3fnuz(x);
      break;
    case DType::kF8E5M2:
      static_cast<uint8_t*>(data)[index] = float_to_e5m2(x);
      break;
    case DType::kI8:
      static_cast<int8_t*>(data)[index] = static_cast<int8_t>(__float2int_rn(fminf(fmaxf(x, -128.0f), 127.0f)));
      break;
    default:
      break;
  }
}

}  // namespace sextant::cuda
