// Which requests the tuned kernels take.
#pragma once

#include <vector>

#include "devices/hip/plan_part.h"
#include "plan/length_bounds.h"
#include "sextant/ops.h"

namespace sextant::hip {

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
// Whether the MLA kernel that asks for its tiles ahead reads this cache.
bool mla_comes_ahead(const AttentionPlanArgs& args, const ChipLimits& chip);
// False: the tensors of this run do not suit the kernel.
bool suits_tuned(const PlanPart& part, const AttentionParams& params);

}  // namespace sextant::hip
