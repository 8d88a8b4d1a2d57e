// The calling thread's current device, for the time of a call.
#pragma once

#include <cuda.h>

#include "sextant/status.h"

namespace sextant::cuda {

// Streams and launches belong to the current device. A caller such as PyTorch has a current device of its own: it gets
// it back.
class DeviceScope {
 public:
  explicit DeviceScope(int index);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
  Status status() const { return status_; }

 private:
  bool changed_ = false;
  CUcontext caller_ = nullptr;
  Status status_ = Status::ok();
};

}  // namespace sextant::cuda
