// When long queries read a copy of their keys, made first, instead of the cache itself.
#pragma once

#include "devices/cuda/plan_splits.h"

namespace sextant::cuda {

// A copy pays where the forward kernel reads the cache through registers (fp8, rows that no box brings), or not at all
// (scales of single tokens), and many row tiles read each key. `part`: of the long queries, planned; nullopt: the cache
// is read as it is.
std::optional<Staging> plan_staging(const PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p,
                                    const Bounds& n, const ChipLimits& chip);
// The same for the portable tile kernel, whose copies take rows of its own type only.
std::optional<Staging> plan_tile_staging(const PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p,
                                         const Bounds& n, const ChipLimits& chip);
// The same for the kernel of fp8 products, of bytes as they are: where boxes do not bring the cache's rows.
std::optional<Staging> plan_byte_staging(const PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p,
                                         const Bounds& n, const ChipLimits& chip);

// The problem that the kernel sees behind the copy. `workspace`: null while planning.
AttentionParams staged_params(const AttentionParams& p, const Staging& staging, char* workspace);
StagedCache staged_cache(const Staging& staging, char* workspace);

}  // namespace sextant::cuda
