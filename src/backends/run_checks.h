// The one check of RunTensors against what was planned, before the first op. Device memory is read only where the host
// can.
#pragma once

#include "sextant/backend.h"

namespace sextant {

Status check_run(const PlanRequest& planned, size_t workspace_bytes, bool host_readable, const RunTensors& tensors);

}  // namespace sextant
