// The ops of one kernel family, on a GPU or emulated.
#pragma once

#include <string>

#include "devices/hip/attention_plan.h"
#include "devices/hip/launcher.h"
#include "devices/hip/matrix_products.h"

namespace sextant::hip {

class HipOps final : public Ops {
 public:
  // `products`: null, or what does matrix products where it serves them.
  HipOps(std::string name, const ChipLimits& chip, KernelFamily family, Launcher& launcher,
         MatrixProducts* products = nullptr)
      : name_(std::move(name)), chip_(chip), family_(family), launcher_(launcher), products_(products) {}

  std::string name() const override { return name_; }
  Status supports(const AttentionPlanArgs&) const override { return Status::ok(); }
  Result<AttentionPlanPtr> plan_attention(const AttentionPlanArgs& args) const override;
  Status run_attention(const AttentionPlan& plan, const AttentionArgs& args, Stream stream) const override;
  Status reshape_and_cache(const ReshapeAndCacheArgs& args, Stream stream) const override;
  Status concat_and_cache_mla(const ConcatAndCacheMlaArgs& args, Stream stream) const override;
  Status context_chunk_offsets(const ContextChunkOffsetsArgs& args, Stream stream) const override;
  Status gather_cache(const GatherCacheArgs& args, Stream stream) const override;
  Status merge_attn_states(const MergeAttnStatesArgs& args, Stream stream) const override;
  Status copy_blocks(const CopyBlocksArgs& args, Stream stream) const override;
  Status copy_pad(const CopyPadArgs& args, Stream stream) const override;
  size_t gemm_workspace_bytes(int64_t, int64_t, int64_t) const override { return 0; }
  Status gemm(const GemmArgs& args, Stream stream) const override;

 private:
  std::string name_;
  ChipLimits chip_;
  KernelFamily family_;
  Launcher& launcher_;
  MatrixProducts* products_;
};

}  // namespace sextant::hip
