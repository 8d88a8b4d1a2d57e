// Blocks of positions without a division.
#pragma once

#include "devices/hip/kernels/lane.h"
#include "devices/hip/kernels/params.h"

namespace sextant::hip {

SEXTANT_DEVICE uint32_t block_of(const BlockDivisor& divisor, int32_t position) {
  const uint64_t product = static_cast<uint64_t>(2 * static_cast<uint32_t>(position)) * divisor.factor;
  return static_cast<uint32_t>(product >> 32) >> divisor.shift;
}

}  // namespace sextant::hip
