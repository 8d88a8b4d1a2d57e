// Makes op arguments from a request, and places workspace regions one behind the other.
#include "backends/plan_parts.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "ops/checks.h"

namespace sextant {

Region WorkspaceLayout::take(size_t bytes) {
  const size_t rounded = align_workspace(bytes);
  Region region{total_, rounded};
  total_ += rounded;
  return region;
}

std::vector<TokenRun> token_runs(const BatchMetadata& batch, const RequestFilter& filter) {
  std::vector<TokenRun> runs;
  for (size_t b = 0; b < batch.seq_lens.size(); ++b) {
    const int32_t begin = batch.query_start_loc[b], end = batch.query_start_loc[b + 1];
    if (!filter.matches(end - begin, batch.seq_lens[b])) continue;
    if (!runs.empty() && runs.back().end == begin)
      runs.back().end = end;
    else
      runs.push_back({begin, end});
  }
  return runs;
}

int64_t count_requests(const BatchMetadata& batch, const RequestFilter& filter) {
  int64_t count = 0;
  for (size_t b = 0; b < batch.seq_lens.size(); ++b)
    count += filter.matches(batch.query_start_loc[b + 1] - batch.query_start_loc[b], batch.seq_lens[b]);
  return count;
}

RequestFilter decode_filter(const PlanOptions& options) {
  return {.min_query_len = 1, .max_query_len = options.decode_max_query_len};
}

RequestFilter prefill_filter(const PlanOptions& options, RequestFilter::Context context) {
  RequestFilter filter;
  const int32_t most = options.decode_max_query_len;  // may be the largest there is: every request decodes then
  filter.min_query_len = most == std::numeric_limits<int32_t>::max() ? most : most + 1;
  filter.context = context;
  return filter;
}

AttentionPlanArgs plan_args(AttentionOp op, const PlanRequest& request) {
  AttentionPlanArgs args;
  args.op = op;
  args.spec = request.spec;
  args.spec.mla = {};
  args.cache = request.cache;
  args.query_start_loc = request.batch.query_start_loc;
  args.seq_lens = request.batch.seq_lens;
  args.bounds = request.options.bounds;
  args.deterministic = request.options.deterministic;
  args.lse_out = request.options.lse_out;
  args.out_dtype = request.spec.dtype;
  return args;
}

AttentionArgs run_args(const RunTensors& t) {
  AttentionArgs args;
  args.q = t.q;
  args.out = t.out;
  args.lse = t.lse;
  args.query_start_loc = t.query_start_loc;
  args.seq_lens = t.seq_lens;
  args.cache = t.cache;
  args.block_table = t.block_table;
  args.block_table_stride = t.block_table_stride;
  args.k = t.k;
  args.v = t.v;
  args.q_scale = t.q_scale;
  args.num_q_scales = t.num_q_scales;
  args.sinks = t.sinks;
  args.alibi_slopes = t.alibi_slopes;
  args.token_spans = t.token_spans;
  args.next_layer = t.next_layer;
  return args;
}

TensorView token_view(const Region& region, void* workspace, DType dtype, TokenRun tokens, int64_t num_tokens,
                      int64_t heads, int64_t dim) {
  TensorView view = make_view(region.at(workspace), dtype, {num_tokens, heads, dim});
  // Address arithmetic on integers: the shifted base may lie outside the workspace, only rows of `tokens` are used.
  const auto base = reinterpret_cast<uintptr_t>(view.data);
  view.data = reinterpret_cast<void*>(base - static_cast<uintptr_t>(tokens.begin * heads * dim) * size_of(dtype));
  return view;
}

TensorView StateRegion::out_view(void* workspace) const {
  return token_view(out, workspace, DType::kF32, tokens, num_tokens, heads, dim);
}

TensorView StateRegion::lse_view(void* workspace) const {
  TensorView view = make_view(lse.at(workspace), DType::kF32, {heads, num_tokens});
  view.stride[0] = tokens.size();
  view.data = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(view.data) -
                                      static_cast<uintptr_t>(tokens.begin) * sizeof(float));
  return view;
}

StateRegion take_state(WorkspaceLayout& layout, TokenRun tokens, int64_t num_tokens, int64_t heads, int64_t dim) {
  StateRegion state;
  state.tokens = tokens;
  state.num_tokens = num_tokens;
  state.heads = heads;
  state.dim = dim;
  state.out = layout.take(static_cast<size_t>(tokens.size() * heads * dim) * sizeof(float));
  state.lse = layout.take(static_cast<size_t>(tokens.size() * heads) * sizeof(float));
  return state;
}

TokenRun cover(const std::vector<TokenRun>& runs) {
  return runs.empty() ? TokenRun{} : TokenRun{runs.front().begin, runs.back().end};
}

TensorView slice(TensorView view, int dim, int64_t begin, int64_t count) {
  const auto d = static_cast<size_t>(dim);
  view.data = static_cast<char*>(view.data) + begin * view.stride[d] * static_cast<int64_t>(size_of(view.dtype));
  view.shape[d] = count;
  return view;
}

}  // namespace sextant
