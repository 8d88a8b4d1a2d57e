// Checks of RunTensors against the plan. Pointers and shapes only: device memory is not read.
#pragma once

#include "sextant/backend.h"

namespace sextant {

Status check_run(const Plan& plan, const RunTensors& tensors);

}  // namespace sextant
