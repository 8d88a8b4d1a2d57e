// How an attention op runs: which kernels, for which requests, and the workspace. A plan knows bounds only; what
// depends on the current lengths is decided on the device (kernels/plan_work.h), so that a captured graph stays right.
#pragma once

#include <string>
#include <vector>

#include "devices/hip/launcher.h"
#include "sextant/ops.h"

namespace sextant::hip {

// One attention kernel over the requests whose query length lies in [min_query_len, max_query_len].
struct PlanPart {
  std::string kernel;
  int threads = 256;
  int32_t min_query_len = 1, max_query_len = 0;
  int32_t rows = 0;  // query rows a tile
  SplitRule split{};
  int64_t max_items = 0;
  int32_t value_dims = 0;  // of V in a launch; 0: all
  bool reduces = false;
  // In the workspace: work lists of all parts of both kinds, then partial results, whose place the parts use in turn.
  size_t list_offset = 0, partial_out_offset = 0, partial_lse_offset = 0, workspace_bytes = 0;
};

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
// gpu::chunk_stride by tiles of 8 or 16 dims: stride 0 where it does not hold.
struct DimTiles {
  int32_t stride = 0, shift = 0;  // tiles of 8 << shift dims
};
DimTiles dim_tiles(const KvAddressing& address, int32_t head_dim, const void* base, size_t element_bytes);

}  // namespace sextant::hip
