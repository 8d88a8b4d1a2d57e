// How the CUDA device runs an attention op: which kernels, for which requests, with which grids and workspace.
//
// A plan knows bounds only. Everything that depends on the current lengths (which request a block works on, how its
// keys are split, which rows are merged) is computed on the device, so that a captured graph stays right when lengths
// change.
#pragma once

#include <string>
#include <vector>

#include "devices/cuda/plan_part.h"

namespace sextant::cuda {

class CudaAttentionPlan final : public AttentionPlan {
 public:
  size_t workspace_bytes() const override { return workspace; }
  std::string describe() const override { return text; }

  AttentionPlanArgs args;  // without its spans
  int32_t num_tokens = 0, num_requests = 0;
  std::vector<PlanPart> parts;
  std::vector<PlanPart> unaligned_parts;  // when tensors turn out not to be aligned for the vector copies of `parts`
  size_t workspace = 0;
  // fp8 queries for the kernels that take none: converted behind the parts' own workspace. `converts`: `parts` want it.
  bool converts = false;
  size_t queries_offset = 0;
  int32_t converted_tokens = 0;  // the first so many, which hold all that `parts` want
  std::string text;
};

bool takes_fp8_queries(const AttentionPlanArgs& args, const ChipLimits& chip, KernelFamily family);
Status supports_attention(const AttentionPlanArgs& args, const ChipLimits& chip);
Result<AttentionPlanPtr> plan_attention(const AttentionPlanArgs& args, const ChipLimits& chip, KernelFamily family);
Status run_attention(const CudaAttentionPlan& plan, const AttentionArgs& args, const ChipLimits& chip, Stream stream);

// The parameters that follow from the plan arguments alone (shapes, features).
AttentionParams planned_params(const AttentionPlanArgs& args);

}  // namespace sextant::cuda
