// Which devices this binary and this machine have.
#include <fmt/format.h>

#include "devices/hip/emulator/emulated_device.h"
#include "devices/hip/runtime/hip_device.h"
#include "sextant/device.h"
#include "sextant/executor.h"

#ifdef SEXTANT_HAS_CUDA
#include "devices/cuda/cuda_device.h"
#endif

namespace sextant {
namespace {

DeviceReport cpu_report() {
  DeviceReport report{DeviceKind::kCpu, true, false, "", {}};
  auto device = make_cpu_device({.executor = make_thread_pool(1), .isa = {}});
  if (!device) {
    report.reason = device.status().message();
    return report;
  }
  report.available = true;
  report.devices.push_back((*device)->info());
  report.devices.back().compute_units = usable_threads();
  return report;
}

DeviceReport cuda_report() {
#ifdef SEXTANT_HAS_CUDA
  return cuda::report();
#else
  return {DeviceKind::kCuda,
          false,
          false,
          "not built in: configure with nvcc (CUDA 12.4 or newer) on the PATH, or -DSEXTANT_CUDA=ON",
          {}};
#endif
}

}  // namespace

Result<std::shared_ptr<Device>> open_device(DeviceKind kind, int index) {
  if (index < 0) return invalid_argument(fmt::format("device index is {}; allowed: >= 0", index));
  if (kind == DeviceKind::kCpu) {
    if (index > 0) return invalid_argument(fmt::format("device index is {}; cpu allows 0", index));
    return make_cpu_device();
  }
  if (kind == DeviceKind::kHipEmulated) {
    if (index > 0) return invalid_argument(fmt::format("device index is {}; hip-emulated allows 0", index));
    return hip::make_emulated_device();
  }
  if (kind == DeviceKind::kHip) return hip::open(index, hip::load_hip_library());
#ifdef SEXTANT_HAS_CUDA
  if (kind == DeviceKind::kCuda) return cuda::open(index);
#endif
  return Status(StatusCode::kUnavailable,
                fmt::format("device {} is not available: {}", to_string(kind), cuda_report().reason));
}

std::vector<DeviceReport> list_devices() {
  return {cpu_report(), cuda_report(), hip::report(hip::load_hip_library()), hip::emulated_report()};
}

}  // namespace sextant
