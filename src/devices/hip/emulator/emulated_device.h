// The device hip-emulated: the HIP kernels on the CPU, one lane at a time. For conformance, never for speed.
#pragma once

#include <memory>

#include "devices/hip/emulator/workgroup.h"
#include "sextant/device.h"

namespace sextant::hip {

struct EmulatorOptions {
  int threads = 0;  // of the CPU; 0: all
  emulator::LaneOrder order = emulator::LaneOrder::kForward;
  bool wide_mfma = false;  // gfx950's 16x16x32 shapes instead of gfx942's 16x16x16
};
std::shared_ptr<Device> make_emulated_device(const EmulatorOptions& options = {});

DeviceReport emulated_report();

}  // namespace sextant::hip
