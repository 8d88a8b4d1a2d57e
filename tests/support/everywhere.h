// Every backend on every device, for tests of what holds everywhere; they skip where a device is not there.
// ThreadSanitizer loses its own stack in the emulator's fibers and crashes, so its build leaves emulated HIP out.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "sextant/backend.h"

namespace sextant::testing {

struct Where {
  const Backend* backend;
  DeviceKind device;
};
inline std::vector<DeviceKind> every_device() {
#if defined(__SANITIZE_THREAD__)
  return {DeviceKind::kCpu, DeviceKind::kCuda};
#else
  return {DeviceKind::kCpu, DeviceKind::kHipEmulated, DeviceKind::kCuda};
#endif
}
inline std::vector<Where> everywhere() {
  std::vector<Where> all;
  for (DeviceKind device : every_device())
    for (const Backend* backend : all_backends()) all.push_back({backend, device});
  return all;
}
inline std::string name_of(const ::testing::TestParamInfo<Where>& where) {
  const char* device = where.param.device == DeviceKind::kCpu    ? "_cpu"
                       : where.param.device == DeviceKind::kCuda ? "_cuda"
                                                                 : "_hip_emulated";
  return where.param.backend->info().name + device;
}

}  // namespace sextant::testing
