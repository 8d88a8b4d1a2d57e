// Descriptors of the operands of 8-bit products (wgmma_forward.cuh) for MLA.
#pragma once

#include "devices/cuda/hopper/wgmma.cuh"

namespace sextant::cuda {

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
