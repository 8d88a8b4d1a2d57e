// The ops of one kernel family on one CUDA device.
#pragma once

#include <memory>
#include <string>

#include "devices/cuda/attention_plan.h"
#include "devices/cuda/gemm.h"
#include "sextant/device.h"

namespace sextant::cuda {

class CudaOps final : public Ops {
 public:
  CudaOps(const DeviceInfo& info, const ChipLimits& chip, KernelFamily family);

  std::string name() const override { return name_; }
  Status supports(const AttentionPlanArgs& args) const override { return supports_attention(args, chip_); }
  bool merges_state(const AttentionPlanArgs& args) const override { return args.op == AttentionOp::kVarlen; }
  bool takes_fp8_queries(const AttentionPlanArgs& args) const override {
    return cuda::takes_fp8_queries(args, chip_, family_);
  }
  bool overlaps() const override { return chip_.compute_capability >= 90; }
  Result<AttentionPlanPtr> plan_attention(const AttentionPlanArgs& args) const override;
  Status run_attention(const AttentionPlan& plan, const AttentionArgs& args, Stream stream) const override;
  Status reshape_and_cache(const ReshapeAndCacheArgs& args, Stream stream) const override;
  Status concat_and_cache_mla(const ConcatAndCacheMlaArgs& args, Stream stream) const override;
  Status context_chunk_offsets(const ContextChunkOffsetsArgs& args, Stream stream) const override;
  Status gather_cache(const GatherCacheArgs& args, Stream stream) const override;
  Status merge_attn_states(const MergeAttnStatesArgs& args, Stream stream) const override;
  Status copy_blocks(const CopyBlocksArgs& args, Stream stream) const override;
  Status copy_pad(const CopyPadArgs& args, Stream stream) const override;
  size_t gemm_workspace_bytes(int64_t m, int64_t n, int64_t k) const override;
  Status gemm(const GemmArgs& args, Stream stream) const override;

 private:
  int index_;
  ChipLimits chip_;
  KernelFamily family_;
  std::string name_;
  mutable GemmRunner gemm_;
};

}  // namespace sextant::cuda
