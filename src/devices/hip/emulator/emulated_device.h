// The device hip-emulated: the HIP kernels on the CPU, one lane at a time. For conformance, never for speed.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "devices/hip/emulator/workgroup.h"
#include "sextant/device.h"

namespace sextant::hip {

struct EmulatorOptions {
  int threads = 0;  // of the CPU; 0: all
  emulator::LaneOrder order = emulator::LaneOrder::kForward;
  std::string architecture = "gfx942";  // whose own fp8 format and matrix shapes kernels and plans use
  // For tests: runs a kernel in another way. Nothing: as ever; empty: done; else what went wrong.
  std::function<std::optional<std::string>(std::string_view kernel, int64_t workgroups, int threads,
                                           const void* params)>
      override_kernel = {};
};
std::shared_ptr<Device> make_emulated_device(const EmulatorOptions& options = {});

DeviceReport emulated_report();

}  // namespace sextant::hip
