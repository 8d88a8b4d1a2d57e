// How an attention op runs: which kernels, for which requests, and the workspace. A plan knows bounds only; what
// depends on the current lengths is decided on the device (kernels/plan_work.h), so that a captured graph stays right.
#pragma once

#include <string>
#include <vector>

#include "devices/hip/plan_part.h"
#include "sextant/ops.h"

namespace sextant::hip {

class HipAttentionPlan final : public AttentionPlan {
 public:
  size_t workspace_bytes() const override { return workspace; }
  size_t kept_bytes() const override { return kept; }
  std::string describe() const override { return text; }

  AttentionPlanArgs args;  // without its spans
  int32_t num_tokens = 0, num_requests = 0;
  std::vector<PlanPart> parts;
  // When tensors turn out not to be aligned for the vector loads of `parts`. Where they are the same their lists are.
  std::vector<PlanPart> unaligned_parts;
  bool parts_are_alike = false;
  size_t workspace = 0, kept = 0;
  std::string text;
};

Result<AttentionPlanPtr> plan_attention(const AttentionPlanArgs& args, const ChipLimits& chip, KernelFamily family);
Status run_attention(const HipAttentionPlan& plan, const AttentionArgs& args, const ChipLimits& chip,
                     Launcher& launcher, Stream stream);

// The parameters that follow from the plan's arguments alone (shapes, features).
AttentionParams planned_params(const AttentionPlanArgs& args);
// Its quotients are exact for positions of 31 bits.
BlockDivisor block_divisor(int32_t block_size);

}  // namespace sextant::hip
