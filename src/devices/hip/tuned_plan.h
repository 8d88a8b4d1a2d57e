// Which requests the tuned kernels take.
#pragma once

#include <vector>

#include "devices/hip/attention_plan.h"

namespace sextant::hip {

// Largest lengths that a plan serves.
struct LengthBounds {
  int64_t tokens = 0, requests = 0;
  int64_t query_len = 0;  // of requests that may pass the filter
  int64_t keys = 0;       // that one request may see
};
LengthBounds find_bounds(const AttentionPlanArgs& args);

// Parts without their splits; empty: the portable kernels take all. `args` is known to have aligned tensors.
std::vector<PlanPart> tuned_parts(const AttentionPlanArgs& args, KernelFamily family, const LengthBounds& bounds);
// False: the tensors of this run do not suit the kernel.
bool suits_tuned(const PlanPart& part, const AttentionParams& params);

}  // namespace sextant::hip
