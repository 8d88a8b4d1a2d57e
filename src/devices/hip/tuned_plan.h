// Which requests the tuned kernels take.
#pragma once

#include <vector>

#include "devices/hip/attention_plan.h"

namespace sextant::hip {

// Largest lengths that a plan serves.
struct LengthBounds {
  int64_t tokens = 0, requests = 0;
  int64_t query_len = 0;            // of requests that may pass the filter
  int64_t keys = 0;                 // that one request may see
  std::vector<int32_t> query_lens;  // that occur and pass the filter; may change when `open`
  bool open = false;
};
LengthBounds find_bounds(const AttentionPlanArgs& args);

// As in the kernels' names.
const char* type_name(DType dtype);

// Parts without their splits, for tensors that are aligned; what they leave is the portable kernels'. The tuned family
// has decode and forward kernels; paged_decode has its own kernel in both.
struct TunedParts {
  std::vector<PlanPart> parts;
  int32_t min_left = 1;   // query lengths [min_left, ..] are left
  bool complete = false;  // nothing is left
};
TunedParts tuned_parts(const AttentionPlanArgs& args, const ChipLimits& chip, KernelFamily family,
                       const LengthBounds& bounds);
// False: the tensors of this run do not suit the kernel.
bool suits_tuned(const PlanPart& part, const AttentionParams& params);

}  // namespace sextant::hip
