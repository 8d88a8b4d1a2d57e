// The CUDA device. A binary that was built with it starts without a driver, and `report` says what is missing.
#pragma once

#include <memory>

#include "devices/cuda/plan_part.h"
#include "sextant/device.h"

namespace sextant::cuda {

DeviceReport report();
Result<std::shared_ptr<Device>> open(int index);
// What planning needs to know of a device that is there.
Result<ChipLimits> find_chip_limits(int index);

}  // namespace sextant::cuda
