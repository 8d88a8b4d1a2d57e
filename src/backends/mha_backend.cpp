// Plans and runs what the four MHA backends have in common around their own paths.
#include "backends/mha_backend.h"

#include <fmt/format.h>

#include <algorithm>

#include "ops/query_conversion.h"

namespace sextant {
namespace {

// The shared prefix: one attention of all queries over the same blocks, merged with the main path.
struct Cascade {
  AttentionPlanPtr prefix_plan;
  Region prefix_workspace;
  StateRegion prefix, suffix;
};

class MhaPlan : public Plan {
 public:
  const Ops* ops = nullptr;
  std::unique_ptr<MainPath> main;
  std::unique_ptr<Cascade> cascade;
  bool converts_queries = false;  // fp8 queries, once for all ops that the path runs
  Region queries;
  Status launch(const RunTensors& tensors, Stream stream) const override;
  Status attend(const RunTensors& tensors, Stream stream) const;
  void finish(size_t workspace_bytes, std::vector<std::string> steps) {
    workspace_bytes_ = workspace_bytes;
    steps_ = std::move(steps);
  }
};

Result<std::unique_ptr<Cascade>> plan_cascade(const Ops& ops, const PlanRequest& request, WorkspaceLayout& layout) {
  AttentionPlanArgs args = plan_args(AttentionOp::kUnified, request);
  args.spec.has_sinks = false;  // a sink counts once: in the main path
  args.shared_prefix = true;
  args.key_end = request.batch.shared_prefix_len;
  args.lse_out = true;
  args.out_dtype = DType::kF32;
  auto plan = ops.plan_attention(args);
  if (!plan) return plan.status();
  auto cascade = std::make_unique<Cascade>();
  cascade->prefix_plan = std::move(plan).value();
  cascade->prefix_workspace = layout.take(cascade->prefix_plan->workspace_bytes());
  const AttentionSpec& s = request.spec;
  cascade->prefix =
      take_state(layout, {0, request.batch.num_tokens()}, request.batch.num_tokens(), s.num_heads, s.value_head_dim());
  cascade->suffix =
      take_state(layout, {0, request.batch.num_tokens()}, request.batch.num_tokens(), s.num_heads, s.value_head_dim());
  return cascade;
}

Status launch_cascade(const MhaPlan& plan, const RunTensors& tensors, Stream stream) {
  const Cascade& c = *plan.cascade;
  RunTensors suffix = tensors;
  suffix.out = c.suffix.out_view(tensors.workspace);
  suffix.lse = c.suffix.lse_view(tensors.workspace);
  SEXTANT_RETURN_IF_ERROR(plan.main->launch(suffix, stream));

  AttentionArgs prefix = run_args(tensors);
  prefix.out = c.prefix.out_view(tensors.workspace);
  prefix.lse = c.prefix.lse_view(tensors.workspace);
  prefix.workspace = c.prefix_workspace.at(tensors.workspace);
  SEXTANT_RETURN_IF_ERROR(plan.ops->run_attention(*c.prefix_plan, prefix, stream));

  const int64_t tokens = c.suffix.num_tokens;
  MergeAttnStatesArgs merge;
  merge.prefix_out = prefix.out;
  merge.prefix_lse = prefix.lse;
  merge.suffix_out = suffix.out;
  merge.suffix_lse = suffix.lse;
  merge.out = slice(tensors.out, 0, 0, tokens);
  if (plan.request().options.lse_out) merge.lse = slice(tensors.lse, 1, 0, tokens);
  return plan.ops->merge_attn_states(merge, stream);
}

Status MhaPlan::attend(const RunTensors& tensors, Stream stream) const {
  return cascade ? launch_cascade(*this, tensors, stream) : main->launch(tensors, stream);
}

Status MhaPlan::launch(const RunTensors& tensors, Stream stream) const {
  RunTensors own = tensors;
  if (tensors.slot_mapping != nullptr) {
    const ReshapeAndCacheArgs write{tensors.k, tensors.v, tensors.slot_mapping, request().batch.num_tokens(),
                                    tensors.cache};
    SEXTANT_RETURN_IF_ERROR(ops->reshape_and_cache(write, stream));
  } else {
    own.k = own.v = {};  // the cache alone says what the keys are
  }
  if (converts_queries) {
    const CopyPadArgs copy = query_conversion(request().spec, request().batch.num_tokens(), tensors.q, tensors.q_scale,
                                              tensors.num_q_scales, queries.at(tensors.workspace));
    SEXTANT_RETURN_IF_ERROR(ops->copy_pad(copy, stream));
    own.q = copy.dst;
  }
  return attend(own, stream);
}

}  // namespace

Result<AttentionPlanPtr> plan_cached_prefill(const Ops& ops, const PlanRequest& request, const MainPathRequest& main) {
  AttentionPlanArgs args = plan_args(AttentionOp::kUnified, request);
  args.filter = prefill_filter(request.options);
  if (count_requests(request.batch, args.filter) == 0) return AttentionPlanPtr();
  args.key_begin = main.key_begin;
  args.lse_out = main.lse_out;
  args.out_dtype = main.out_dtype;
  return ops.plan_attention(args);
}

std::vector<std::string> op_reasons(const Ops& ops, std::span<const AttentionPlanArgs> uses) {
  std::vector<std::string> reasons;
  for (const AttentionPlanArgs& args : uses) {
    const Status status = ops.supports(args);
    if (status.is_ok()) continue;
    if (std::find(reasons.begin(), reasons.end(), status.message()) == reasons.end())
      reasons.push_back(status.message());
  }
  return reasons;
}

std::vector<std::string> MhaBackend::reasons_against(const AttentionSpec& spec, const KvCacheSpec& cache,
                                                     const Device& device) const {
  if (spec.mla.enabled()) return {"the model uses multi-head latent attention; this backend serves MHA, GQA and MQA"};
  if (const Status valid = validate(cache); !valid.is_ok()) return {valid.message()};
  PlanRequest request;
  request.spec = spec;
  request.cache = cache;
  std::vector<AttentionPlanArgs> uses;
  for (AttentionOp op : ops_used()) uses.push_back(plan_args(op, request));
  return op_reasons(device.ops(info().family), uses);
}

Result<std::shared_ptr<Plan>> MhaBackend::make_plan(const Device& device, const PlanRequest& asked) const {
  auto plan = std::make_shared<MhaPlan>();
  plan->ops = &device.ops(info().family).unchecked();
  WorkspaceLayout layout;
  PlanRequest request = asked;
  std::vector<std::string> steps = {fmt::format("reshape_and_cache: {} tokens, layout {}", request.batch.num_tokens(),
                                                to_string(request.cache.layout))};
  for (AttentionOp op : ops_used())
    plan->converts_queries = plan->converts_queries ||
                             (request.spec.has_fp8_queries() && !plan->ops->takes_fp8_queries(plan_args(op, request)));
  if (plan->converts_queries) {
    const AttentionSpec& s = request.spec;
    plan->queries = layout.take(converted_query_bytes(s, request.batch.num_tokens()));
    steps.push_back(fmt::format("queries: {} to {}", to_string(s.query_type()), to_string(s.dtype)));
    request.spec.query_dtype.reset();
  }
  MainPathRequest main{.key_begin = 0, .lse_out = request.options.lse_out, .out_dtype = request.spec.dtype};
  if (request.batch.shared_prefix_len > 0) {
    auto cascade = plan_cascade(*plan->ops, request, layout);
    if (!cascade) return cascade.status();
    plan->cascade = std::move(cascade).value();
    main = {.key_begin = request.batch.shared_prefix_len, .lse_out = true, .out_dtype = DType::kF32};
  }
  auto path = make_main_path(*plan->ops, device, request, main, layout);
  if (!path) return path.status();
  plan->main = std::move(path).value();
  steps.insert(steps.end(), plan->main->steps.begin(), plan->main->steps.end());
  if (plan->cascade) {
    steps.push_back("shared prefix: " + plan->cascade->prefix_plan->describe());
    steps.emplace_back("merge_attn_states: shared prefix and the rest");
  }
  plan->finish(layout.total(), std::move(steps));
  return std::shared_ptr<Plan>(plan);
}

}  // namespace sextant
