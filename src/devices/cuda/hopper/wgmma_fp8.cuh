// Operands of 8-bit products (wgmma_forward.cuh): probabilities as bytes and, for MLA, descriptors.
#pragma once

#include "devices/cuda/hopper/wgmma.cuh"

namespace sextant::cuda {

// Four probabilities as e4m3 bytes, the first lowest.
__device__ __forceinline__ uint32_t pack_fp8(float a, float b, float c, float d) {
  uint32_t packed;
  asm("{\n.reg .b16 low, high;\n"
      "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
      "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
      "mov.b32 %0, {low, high};\n}\n"
      : "=r"(packed)
      : "f"(a), "f"(b), "f"(c), "f"(d));
  return packed;
}

// The low word of descriptors of what lies at and behind an address; by whole warps.
__device__ __forceinline__ uint32_t place_word(uint32_t shared) { return uniform((shared & 0x3ffff) >> 4 | 1u << 16); }
// Shared-memory matrix descriptors of K-major operands, `bytes` behind the place: with rows of 128 bytes and of 64,
// swizzled by as many.
__device__ __forceinline__ uint64_t wide_rows(uint32_t place, int bytes) {
  return static_cast<uint64_t>(1024u >> 4 | 1u << 30) << 32 | (place + static_cast<uint32_t>(bytes >> 4));
}
__device__ __forceinline__ uint64_t narrow_rows(uint32_t place, int bytes) {
  return static_cast<uint64_t>(512u >> 4 | 2u << 30) << 32 | (place + static_cast<uint32_t>(bytes >> 4));
}

}  // namespace sextant::cuda
