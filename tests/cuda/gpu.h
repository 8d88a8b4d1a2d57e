// The GPU that the tests run on, or the line that says why they were skipped.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "sextant/device.h"

namespace sextant::testing {

inline const Result<std::shared_ptr<Device>>& gpu() {
  static const Result<std::shared_ptr<Device>> kGpu = open_device(DeviceKind::kCuda);
  return kGpu;
}

}  // namespace sextant::testing

#define SKIP_WITHOUT_GPU() \
  if (!sextant::testing::gpu()) GTEST_SKIP() << "not run: " << sextant::testing::gpu().status().message()
