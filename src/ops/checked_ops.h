// Ops with their argument checks in front. Devices hand these out, so that an engine that calls an op alone gets an
// error instead of a crash. Adds no allocation to run_attention, and a launch only for fp8 queries that the device does
// not take: they are converted in the workspace first.
#pragma once

#include <memory>

#include "sextant/ops.h"

namespace sextant {

class CheckedOps final : public Ops {
 public:
  // host_readable: the device's memory can be read here, so that slots, block ids and scales are checked as well.
  CheckedOps(std::unique_ptr<Ops> inner, bool host_readable)
      : inner_(std::move(inner)), host_readable_(host_readable) {}

  const Ops& inner() const { return *inner_; }
  std::string name() const override { return inner_->name(); }
  const Ops& unchecked() const override { return *inner_; }
  Status supports(const AttentionPlanArgs& args) const override;
  bool merges_state(const AttentionPlanArgs& args) const override { return inner_->merges_state(args); }
  bool takes_fp8_queries(const AttentionPlanArgs& args) const override {
    return args.spec.has_fp8_queries() && inner_->takes_fp8_queries(args);
  }
  bool overlaps() const override { return inner_->overlaps(); }
  Result<AttentionPlanPtr> plan_attention(const AttentionPlanArgs& args) const override;
  Status run_attention(const AttentionPlan& plan, const AttentionArgs& args, Stream stream) const override;
  Status reshape_and_cache(const ReshapeAndCacheArgs& args, Stream stream) const override;
  Status concat_and_cache_mla(const ConcatAndCacheMlaArgs& args, Stream stream) const override;
  Status context_chunk_offsets(const ContextChunkOffsetsArgs& args, Stream stream) const override;
  Status gather_cache(const GatherCacheArgs& args, Stream stream) const override;
  Status merge_attn_states(const MergeAttnStatesArgs& args, Stream stream) const override;
  Status copy_blocks(const CopyBlocksArgs& args, Stream stream) const override;
  Status copy_pad(const CopyPadArgs& args, Stream stream) const override;
  size_t gemm_workspace_bytes(int64_t m, int64_t n, int64_t k) const override {
    return inner_->gemm_workspace_bytes(m, n, k);
  }
  Status gemm(const GemmArgs& args, Stream stream) const override;

 private:
  std::unique_ptr<Ops> inner_;
  bool host_readable_;
};

}  // namespace sextant
