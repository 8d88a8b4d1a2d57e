// The CUDA device. A binary that was built with it starts without a driver, and `report` says what is missing.
#pragma once

#include <memory>

#include "sextant/device.h"

namespace sextant::cuda {

DeviceReport report();
Result<std::shared_ptr<Device>> open(int index);

}  // namespace sextant::cuda
