// Included before everything else by a build with SEXTANT_CUDA_SHAKE (docs/verification.md, "Races"): a warp pauses
// before and after each barrier of a block, now and then, for up to 4 us. What only the usual timing puts in order then
// comes in another one.
#pragma once

#include "devices/cuda/hopper/pair.cuh"

namespace sextant::cuda {

__device__ __forceinline__ void shake() {
  uint32_t x = static_cast<uint32_t>(clock()) ^ (threadIdx.x / 32 + 1) * 0x9e3779b9u ^ (blockIdx.x + 1) * 0x85ebca6bu;
  x = (x ^ x >> 15) * 0x2c1b3c6du;
  x ^= x >> 12;
  if ((x & 3) == 0) __nanosleep(x >> 8 & 4095);
}

}  // namespace sextant::cuda

#define named_wait(...) (shake(), named_wait(__VA_ARGS__), shake())
#define named_arrive(...) (shake(), named_arrive(__VA_ARGS__), shake())
#define wait_together(...) (shake(), wait_together(__VA_ARGS__), shake())
#define barrier_wait(...) (barrier_wait(__VA_ARGS__), shake())
#define barrier_arrive(...) (shake(), barrier_arrive(__VA_ARGS__))
#define barrier_arrive_remote(...) (shake(), barrier_arrive_remote(__VA_ARGS__))
