// What the backends' plans are put together from: workspace regions, runs of tokens, and op arguments that
// follow from a request.
#pragma once

#include <cstddef>
#include <vector>

#include "sextant/backend.h"

namespace sextant {

// A part of the caller's workspace.
struct Region {
  size_t offset = 0;
  size_t bytes = 0;
  void* at(void* workspace) const { return static_cast<char*>(workspace) + offset; }
};

// Lays regions out one after another, each aligned for every device.
class WorkspaceLayout {
 public:
  Region take(size_t bytes);
  size_t total() const { return total_; }

 private:
  size_t total_ = 0;
};

// An op that uses a workspace in turn with others. What its next layer takes over lies apart.
struct TurnOp {
  AttentionPlanPtr plan;
  Region kept;
  explicit operator bool() const { return plan != nullptr; }
  size_t workspace_bytes() const { return plan == nullptr ? 0 : plan->workspace_bytes(); }
  void take_kept(WorkspaceLayout& layout) {
    if (plan != nullptr) kept = layout.take(plan->kept_bytes());
  }
  Status run(const Ops& ops, AttentionArgs args, void* workspace, Stream stream) const {
    if (kept.bytes > 0) args.kept = kept.at(workspace);
    return ops.run_attention(*plan, args, stream);
  }
};

// Tokens [begin, end) of consecutive requests that pass a filter.
struct TokenRun {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

// The maximal runs, in order. One run when the batch is ordered by path, as engines do.
std::vector<TokenRun> token_runs(const BatchMetadata& batch, const RequestFilter& filter);
int64_t count_requests(const BatchMetadata& batch, const RequestFilter& filter);

// Requests whose query is short enough for the decode path, and the others.
RequestFilter decode_filter(const PlanOptions& options);
RequestFilter prefill_filter(const PlanOptions& options, RequestFilter::Context context = RequestFilter::Context::kAny);

// Op arguments with everything that the request decides.
AttentionPlanArgs plan_args(AttentionOp op, const PlanRequest& request);
AttentionArgs run_args(const RunTensors& tensors);

// An fp32 attention state in the workspace for some tokens of the batch. The views are indexed by token of the batch
// and claim all its `num_tokens` rows, so that ops and filters work with the batch's own indices; only rows of `tokens`
// exist.
struct StateRegion {
  Region out, lse;
  TokenRun tokens;
  int64_t num_tokens = 0, heads = 0, dim = 0;
  TensorView out_view(void* workspace) const;  // [num_tokens, heads, dim]
  TensorView lse_view(void* workspace) const;  // [heads, num_tokens]
};
StateRegion take_state(WorkspaceLayout& layout, TokenRun tokens, int64_t num_tokens, int64_t heads, int64_t dim);

// A workspace tensor [tokens.size(), heads, dim] as such a view.
TensorView token_view(const Region& region, void* workspace, DType dtype, TokenRun tokens, int64_t num_tokens,
                      int64_t heads, int64_t dim);

// The smallest run that covers all runs; empty for none.
TokenRun cover(const std::vector<TokenRun>& runs);

// A view of `view` without its first `begin` entries along dimension `dim`, `count` entries long.
TensorView slice(TensorView view, int dim, int64_t begin, int64_t count);

}  // namespace sextant
