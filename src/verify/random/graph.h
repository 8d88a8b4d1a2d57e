// A run captured in a graph, as engines replay it.
#pragma once

#include <functional>
#include <memory>

#include "sextant/device.h"

namespace sextant::verify {

class CapturedRun {
 public:
  virtual ~CapturedRun() = default;
  virtual Status launch() = 0;  // and waits for it

  // kUnsupported on devices without graphs.
  static Result<std::unique_ptr<CapturedRun>> capture(const Device& device, const std::function<Status(Stream)>& run);
};

}  // namespace sextant::verify
