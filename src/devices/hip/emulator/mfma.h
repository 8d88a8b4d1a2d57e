// The matrix instruction: D = A B + C over a wave's registers, by the layout of kernels/mfma_layout.h.
#pragma once

#include <array>

#include "devices/hip/emulator/lane_api.h"

namespace sextant::hip::emulator {

struct MfmaOperands {
  MfmaShape shape;
  const void* a;
  const void* b;
  float* d;  // holds C
};

int k_extent(MfmaShape shape);
void multiply(const std::array<const MfmaOperands*, 64>& lanes);

}  // namespace sextant::hip::emulator
