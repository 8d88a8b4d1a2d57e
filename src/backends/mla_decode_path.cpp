// Plans and runs MLA decode: absorb the queries, attend in the latent space, bring the result back.
#include "backends/mla_decode_path.h"

#include <algorithm>

namespace sextant {
namespace {

// [tokens, heads, dim] seen as a batch of heads: [heads, tokens, dim].
TensorView heads_first(TensorView view) {
  std::swap(view.shape[0], view.shape[1]);
  std::swap(view.stride[0], view.stride[1]);
  return view;
}

// Per-head parts of kv_b_proj, [N * (nope + v), rank]: rows first..first + rows of each head.
TensorView head_weights(const TensorView& kv_b_proj, const AttentionSpec& spec, int32_t first, int32_t rows) {
  TensorView view = slice(kv_b_proj, 0, first, kv_b_proj.shape[0] - first);
  const int64_t row_stride = kv_b_proj.stride[0];
  view.rank = 3;
  view.shape = {spec.num_heads, rows, kv_b_proj.shape[1]};
  view.stride = {(spec.mla.qk_nope_head_dim + spec.mla.v_head_dim) * row_stride, row_stride, 1};
  return view;
}

}  // namespace

AttentionPlanArgs mla_decode_args(const PlanRequest& request) {
  AttentionPlanArgs args = plan_args(AttentionOp::kMlaDecode, request);
  const MlaSpec& m = request.spec.mla;
  args.spec.num_kv_heads = 1;
  args.spec.head_dim = m.kv_lora_rank + m.qk_rope_head_dim;
  args.spec.head_dim_v = m.kv_lora_rank;
  args.filter = decode_filter(request.options);
  return args;
}

Result<std::unique_ptr<MlaDecodePath>> MlaDecodePath::make(const Ops& ops, const PlanRequest& request,
                                                           SplitPolicy split, WorkspaceLayout& layout) {
  auto path = std::make_unique<MlaDecodePath>();
  path->ops_ = &ops;
  path->spec_ = request.spec;
  path->num_requests_ = request.batch.num_requests();
  path->num_tokens_ = request.batch.num_tokens();
  path->lse_out_ = request.options.lse_out;
  path->deterministic_ = request.options.deterministic;
  path->filter_ = decode_filter(request.options);
  path->runs_ = token_runs(request.batch, path->filter_);
  path->tokens_ = cover(path->runs_);
  const MlaSpec& m = request.spec.mla;
  const auto row_bytes =
      static_cast<size_t>(path->tokens_.size() * request.spec.num_heads) * size_of(request.spec.dtype);
  path->q_latent_ = layout.take(row_bytes * static_cast<size_t>(m.kv_lora_rank + m.qk_rope_head_dim));
  path->o_latent_ = layout.take(row_bytes * static_cast<size_t>(m.kv_lora_rank));
  const int64_t tokens = path->tokens_.size();
  path->gemm_workspace_ = layout.take(std::max(ops.gemm_workspace_bytes(tokens, m.kv_lora_rank, m.qk_nope_head_dim),
                                               ops.gemm_workspace_bytes(tokens, m.v_head_dim, m.kv_lora_rank)));
  SEXTANT_RETURN_IF_ERROR(path->plan_attention(request, split, layout));
  return path;
}

Status MlaDecodePath::plan_attention(const PlanRequest& request, SplitPolicy split, WorkspaceLayout& layout) {
  AttentionPlanArgs args = mla_decode_args(request);
  args.split = split;
  const int32_t shared = request.batch.shared_prefix_len;
  if (shared > 0) {
    args.key_begin = shared;
    args.lse_out = true;
    args.out_dtype = DType::kF32;
  }
  auto plan = ops_->plan_attention(args);
  if (!plan) return plan.status();
  attention_.plan = std::move(plan).value();
  size_t bytes = attention_.workspace_bytes();
  steps.push_back("decode: gemm q_nope x W_UK, " + attention_.plan->describe() + ", gemm o_latent x W_UV");
  if (shared > 0) {
    args.spec.has_sinks = false;
    args.key_begin = 0;
    args.key_end = shared;
    args.shared_prefix = true;
    auto prefix = ops_->plan_attention(args);
    if (!prefix) return prefix.status();
    prefix_attention_.plan = std::move(prefix).value();
    bytes = std::max(bytes, prefix_attention_.workspace_bytes());
    prefix_state_ = take_state(layout, tokens_, num_tokens_, spec_.num_heads, spec_.mla.kv_lora_rank);
    suffix_state_ = take_state(layout, tokens_, num_tokens_, spec_.num_heads, spec_.mla.kv_lora_rank);
    steps.push_back("decode, shared prefix: " + prefix_attention_.plan->describe() + ", merge_attn_states");
  }
  attention_.take_kept(layout);
  prefix_attention_.take_kept(layout);
  op_workspace_ = layout.take(bytes);
  return Status::ok();
}

Status MlaDecodePath::launch(const RunTensors& tensors, Stream stream) const {
  const MlaSpec& m = spec_.mla;
  const TensorView q_latent = token_view(q_latent_, tensors.workspace, spec_.dtype, tokens_, num_tokens_,
                                         spec_.num_heads, m.kv_lora_rank + m.qk_rope_head_dim);
  const TensorView o_latent =
      token_view(o_latent_, tensors.workspace, spec_.dtype, tokens_, num_tokens_, spec_.num_heads, m.kv_lora_rank);
  SEXTANT_RETURN_IF_ERROR(project_queries(q_latent, tensors, stream));
  SEXTANT_RETURN_IF_ERROR(attend(q_latent, o_latent, tensors, stream));
  return project_outputs(o_latent, tensors, stream);
}

Status MlaDecodePath::project_queries(const TensorView& q_latent, const RunTensors& tensors, Stream stream) const {
  const MlaSpec& m = spec_.mla;
  const TensorView w_uk = head_weights(tensors.kv_b_proj, spec_, 0, m.qk_nope_head_dim);  // [N, nope, rank]
  for (const TokenRun& run : runs_) {
    const TensorView q = slice(tensors.q, 0, run.begin, run.size());
    const TensorView q_run = slice(q_latent, 0, run.begin, run.size());
    GemmArgs gemm;
    gemm.a = heads_first(slice(q, 2, 0, m.qk_nope_head_dim));
    gemm.b = w_uk;
    gemm.c = heads_first(slice(q_run, 2, 0, m.kv_lora_rank));
    gemm.workspace = gemm_workspace_.at(tensors.workspace);
    gemm.workspace_bytes = gemm_workspace_.bytes;
    gemm.deterministic = deterministic_;
    SEXTANT_RETURN_IF_ERROR(ops_->gemm(gemm, stream));
    SEXTANT_RETURN_IF_ERROR(ops_->copy_pad(
        {slice(q, 2, m.qk_nope_head_dim, m.qk_rope_head_dim), slice(q_run, 2, m.kv_lora_rank, m.qk_rope_head_dim)},
        stream));
  }
  return Status::ok();
}

Status MlaDecodePath::attend(const TensorView& q_latent, const TensorView& o_latent, const RunTensors& tensors,
                             Stream stream) const {
  AttentionArgs args = run_args(tensors);
  args.q = q_latent;
  args.out = o_latent;
  args.workspace = op_workspace_.at(tensors.workspace);
  if (!prefix_attention_) return attention_.run(*ops_, args, tensors.workspace, stream);

  args.out = suffix_state_.out_view(tensors.workspace);
  args.lse = suffix_state_.lse_view(tensors.workspace);
  SEXTANT_RETURN_IF_ERROR(attention_.run(*ops_, args, tensors.workspace, stream));
  args.out = prefix_state_.out_view(tensors.workspace);
  args.lse = prefix_state_.lse_view(tensors.workspace);
  SEXTANT_RETURN_IF_ERROR(prefix_attention_.run(*ops_, args, tensors.workspace, stream));
  MergeAttnStatesArgs merge;
  merge.prefix_out = args.out;
  merge.prefix_lse = args.lse;
  merge.suffix_out = suffix_state_.out_view(tensors.workspace);
  merge.suffix_lse = suffix_state_.lse_view(tensors.workspace);
  merge.out = o_latent;
  if (lse_out_) merge.lse = slice(tensors.lse, 1, 0, num_tokens_);
  merge.query_start_loc = tensors.query_start_loc;
  merge.seq_lens = tensors.seq_lens;
  merge.num_requests = num_requests_;
  merge.filter = filter_;
  return ops_->merge_attn_states(merge, stream);
}

Status MlaDecodePath::project_outputs(const TensorView& o_latent, const RunTensors& tensors, Stream stream) const {
  const MlaSpec& m = spec_.mla;
  TensorView w_uv = head_weights(tensors.kv_b_proj, spec_, m.qk_nope_head_dim, m.v_head_dim);  // [N, v, rank]
  std::swap(w_uv.shape[1], w_uv.shape[2]);                                                     // as [N, rank, v]
  std::swap(w_uv.stride[1], w_uv.stride[2]);
  for (const TokenRun& run : runs_) {
    GemmArgs gemm;
    gemm.a = heads_first(slice(o_latent, 0, run.begin, run.size()));
    gemm.b = w_uv;
    gemm.c = heads_first(slice(tensors.out, 0, run.begin, run.size()));
    gemm.workspace = gemm_workspace_.at(tensors.workspace);
    gemm.workspace_bytes = gemm_workspace_.bytes;
    gemm.deterministic = deterministic_;
    SEXTANT_RETURN_IF_ERROR(ops_->gemm(gemm, stream));
  }
  return Status::ok();
}

}  // namespace sextant
