// Words for code that runs on a GPU and is read by nvcc, by clang for AMD GPUs, and by the C++ compiler that builds the
// emulated HIP device.
#pragma once

#include <cstdint>

#if !defined(__CUDACC__) && !defined(__AMDGCN__)
#include <cmath>
#endif

#if defined(__CUDACC__)
#define SEXTANT_DEVICE __device__ __forceinline__
#elif defined(__AMDGCN__)
#define SEXTANT_DEVICE __attribute__((device, always_inline)) inline
#else
#define SEXTANT_DEVICE inline
#endif

namespace sextant::gpu {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr float kNegInf = -__builtin_huge_valf();

#if defined(__CUDACC__)
SEXTANT_DEVICE float exp2(float x) { return exp2f(x); }
SEXTANT_DEVICE float log2(float x) { return log2f(x); }
#elif defined(__AMDGCN__)
SEXTANT_DEVICE float exp2(float x) { return __builtin_amdgcn_exp2f(x); }
SEXTANT_DEVICE float log2(float x) { return __builtin_amdgcn_logf(x); }
#else
inline float exp2(float x) { return std::exp2(x); }
inline float log2(float x) { return std::log2(x); }
#endif

// From memory that nothing writes while the kernel runs.
template <class T>
SEXTANT_DEVICE T read(const T* at) {
#if defined(__CUDACC__)
  return __ldg(at);
#else
  return *at;
#endif
}

template <class T>
SEXTANT_DEVICE T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
SEXTANT_DEVICE T max(T a, T b) {
  return a < b ? b : a;
}
#if defined(__CUDACC__)
SEXTANT_DEVICE float max(float a, float b) { return fmaxf(a, b); }
#endif

}  // namespace sextant::gpu
