// The unified main path: one unified_attention call over the paged cache, which already holds the new tokens.
#pragma once

#include "backends/mha_backend.h"

namespace sextant {

class UnifiedPath : public MainPath {
 public:
  static Result<std::unique_ptr<MainPath>> make(const Ops& ops, const PlanRequest& request, const MainPathRequest& main,
                                                SplitPolicy split, WorkspaceLayout& layout) {
    AttentionPlanArgs args = plan_args(AttentionOp::kUnified, request);
    args.split = split;
    args.key_begin = main.key_begin;
    args.lse_out = main.lse_out;
    args.out_dtype = main.out_dtype;
    auto plan = ops.plan_attention(args);
    if (!plan) return plan.status();
    auto path = std::make_unique<UnifiedPath>();
    path->ops_ = &ops;
    path->plan_ = std::move(plan).value();
    path->workspace_ = layout.take(path->plan_->workspace_bytes());
    path->steps = {path->plan_->describe()};
    return std::unique_ptr<MainPath>(std::move(path));
  }

  Status launch(const RunTensors& tensors, Stream stream) const override {
    AttentionArgs args = run_args(tensors);
    args.workspace = workspace_.at(tensors.workspace);
    return ops_->run_attention(*plan_, args, stream);
  }

 private:
  const Ops* ops_ = nullptr;
  AttentionPlanPtr plan_;
  Region workspace_;
};

}  // namespace sextant
