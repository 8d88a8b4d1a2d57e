// A reciprocal without the cases that division must look after.
#pragma once

namespace sextant::cuda {

// 1 / x for x of ordinary size.
__device__ __forceinline__ float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace sextant::cuda
