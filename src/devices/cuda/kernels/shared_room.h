// How much shared memory a block may have, by the chip: kernels with large tiles have shapes for each.
#pragma once

#include <cstdint>

namespace sextant::cuda {

enum class SharedRoom : uint8_t {
  kSmall,   // 99 KiB: sm_86, sm_89, sm_120
  kMiddle,  // 163 KiB: sm_80, sm_87
  kLarge,   // 227 KiB: sm_90, sm_100
};
constexpr int64_t kSmallSharedBytes = 99 * 1024, kMiddleSharedBytes = 163 * 1024, kLargeSharedBytes = 227 * 1024;

// Of a chip whose blocks may have `bytes`, kSmallSharedBytes at least.
constexpr SharedRoom shared_room(int64_t bytes) {
  return bytes >= kLargeSharedBytes    ? SharedRoom::kLarge
         : bytes >= kMiddleSharedBytes ? SharedRoom::kMiddle
                                       : SharedRoom::kSmall;
}

// Machine code for sm_90a leaves the shapes of smaller rooms empty.
#if __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool kOnlyLargeRoom = true;
#else
constexpr bool kOnlyLargeRoom = false;
#endif

}  // namespace sextant::cuda
