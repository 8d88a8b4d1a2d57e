// Puts the checks in front of a device's ops.
#include "ops/checked_ops.h"

#include <fmt/format.h>

#include <vector>

#include "ops/array_checks.h"
#include "ops/checks.h"
#include "ops/query_conversion.h"

namespace sextant {
namespace {

// The same attention of queries that were converted to spec.dtype.
AttentionPlanArgs without_fp8_queries(const AttentionPlanArgs& args) {
  AttentionPlanArgs converted = args;
  converted.spec.query_dtype.reset();
  return converted;
}

// The device's plan and what it was planned for. Converted queries lie behind the device's own workspace.
class CheckedPlan final : public AttentionPlan {
 public:
  CheckedPlan(AttentionPlanPtr inner, const AttentionPlanArgs& args, bool converts)
      : inner_(std::move(inner)),
        args_(args),
        converts_(converts),
        query_start_loc_(args.query_start_loc.begin(), args.query_start_loc.end()),
        seq_lens_(args.seq_lens.begin(), args.seq_lens.end()),
        key_start_loc_(args.key_start_loc.begin(), args.key_start_loc.end()) {
    args_.query_start_loc = query_start_loc_;
    args_.seq_lens = seq_lens_;
    args_.key_start_loc = key_start_loc_;
  }
  size_t workspace_bytes() const override {
    return converts_ ? queries_at() + query_bytes() : inner_->workspace_bytes();
  }
  size_t kept_bytes() const override { return inner_->kept_bytes(); }
  std::string describe() const override {
    return converts_ ? fmt::format("queries to {}; {}", to_string(args_.spec.dtype), inner_->describe())
                     : inner_->describe();
  }
  bool converts_queries() const { return converts_; }
  size_t queries_at() const { return align_workspace(inner_->workspace_bytes()); }
  const AttentionPlan& inner() const { return *inner_; }
  const AttentionPlanArgs& args() const { return args_; }

 private:
  size_t query_bytes() const {
    return converted_query_bytes(args_.spec, query_start_loc_.empty() ? 0 : query_start_loc_.back());
  }

  AttentionPlanPtr inner_;
  AttentionPlanArgs args_;
  bool converts_ = false;
  std::vector<int32_t> query_start_loc_, seq_lens_, key_start_loc_;
};

// What the host reads of a run: scales, lengths and, of the block table, the ids that are read.
Status check_arrays(const AttentionPlanArgs& planned, const AttentionArgs& args) {
  const AttentionSpec& spec = planned.spec;
  if (spec.has_fp8_queries()) SEXTANT_RETURN_IF_ERROR(check_scales("q_scale", args.q_scale, args.num_q_scales));
  TableUse use{planned.query_start_loc,
               planned.seq_lens,
               args.block_table,
               args.block_table_stride,
               0,
               spec.has_spans() ? args.token_spans : nullptr};
  if (args.query_start_loc != nullptr) use.query_start_loc = {args.query_start_loc, planned.query_start_loc.size()};
  if (args.seq_lens != nullptr) use.seq_lens = {args.seq_lens, planned.seq_lens.size()};
  const bool varlen = planned.op == AttentionOp::kVarlen;
  PlannedLengths lengths{planned.query_start_loc, planned.seq_lens, planned.bounds, args.block_table_stride,
                         varlen ? nullptr : &args.cache.spec};
  SEXTANT_RETURN_IF_ERROR(check_run_lengths(lengths, use.query_start_loc, use.seq_lens));
  if (varlen) {
    SEXTANT_RETURN_IF_ERROR(check_packed_keys(planned, args));
    return check_token_spans(use, spec);
  }
  SEXTANT_RETURN_IF_ERROR(check_scales(args.cache));
  SEXTANT_RETURN_IF_ERROR(check_token_spans(use, spec));
  if (planned.shared_prefix) return Status::ok();  // row 0 alone is read, by rules of the caller
  return check_block_ids(use, args.cache.spec, spec);
}

}  // namespace

Status CheckedOps::supports(const AttentionPlanArgs& args) const {
  if (!args.spec.has_fp8_queries() || inner_->takes_fp8_queries(args)) return inner_->supports(args);
  return inner_->supports(without_fp8_queries(args));
}

Result<AttentionPlanPtr> CheckedOps::plan_attention(const AttentionPlanArgs& args) const {
  SEXTANT_RETURN_IF_ERROR(check(args));
  const bool converts = args.spec.has_fp8_queries() && !inner_->takes_fp8_queries(args);
  if (args.merge_state && !inner_->merges_state(args))
    return unsupported(fmt::format("merge_state is set; {} does not merge in {}: call merge_attn_states",
                                   inner_->name(), to_string(args.op)));
  auto plan = inner_->plan_attention(converts ? without_fp8_queries(args) : args);
  if (!plan) return plan.status();
  return AttentionPlanPtr(std::make_shared<CheckedPlan>(std::move(plan).value(), args, converts));
}

Status CheckedOps::run_attention(const AttentionPlan& plan, const AttentionArgs& args, Stream stream) const {
  const auto* checked = dynamic_cast<const CheckedPlan*>(&plan);
  if (checked == nullptr) return invalid_argument("plan is of another device; allowed: a plan that these ops made");
  SEXTANT_RETURN_IF_ERROR(check(checked->args(), args));
  if (checked->args().query_start_loc.empty() || checked->args().query_start_loc.back() == 0) return Status::ok();
  if (plan.workspace_bytes() > 0 && args.workspace == nullptr)
    return invalid_argument(
        fmt::format("workspace is null; allowed: {} bytes (plan.workspace_bytes())", plan.workspace_bytes()));
  SEXTANT_RETURN_IF_ERROR(check_alignment("workspace", args.workspace, kWorkspaceAlignment));
  if (host_readable_) {
    SEXTANT_RETURN_IF_ERROR(check_arrays(checked->args(), args));
  }
  if (!checked->converts_queries()) return inner_->run_attention(checked->inner(), args, stream);
  const AttentionSpec& spec = checked->args().spec;
  const CopyPadArgs convert =
      query_conversion(spec, checked->args().query_start_loc.back(), args.q, args.q_scale, args.num_q_scales,
                       static_cast<char*>(args.workspace) + checked->queries_at());
  SEXTANT_RETURN_IF_ERROR(inner_->copy_pad(convert, stream));
  AttentionArgs converted = args;
  converted.q = convert.dst;
  return inner_->run_attention(checked->inner(), converted, stream);
}

Status CheckedOps::reshape_and_cache(const ReshapeAndCacheArgs& args, Stream stream) const {
  SEXTANT_RETURN_IF_ERROR(check(args));
  if (args.num_tokens == 0) return Status::ok();
  if (host_readable_) {
    SEXTANT_RETURN_IF_ERROR(check_scales(args.cache));
    SEXTANT_RETURN_IF_ERROR(
        check_slot_mapping({args.slot_mapping, static_cast<size_t>(args.num_tokens)}, args.cache.spec));
  }
  return inner_->reshape_and_cache(args, stream);
}

Status CheckedOps::concat_and_cache_mla(const ConcatAndCacheMlaArgs& args, Stream stream) const {
  SEXTANT_RETURN_IF_ERROR(check(args));
  if (args.num_tokens == 0) return Status::ok();
  if (host_readable_) {
    SEXTANT_RETURN_IF_ERROR(check_scales(args.cache));
    SEXTANT_RETURN_IF_ERROR(
        check_slot_mapping({args.slot_mapping, static_cast<size_t>(args.num_tokens)}, args.cache.spec));
  }
  return inner_->concat_and_cache_mla(args, stream);
}

Status CheckedOps::context_chunk_offsets(const ContextChunkOffsetsArgs& args, Stream stream) const {
  SEXTANT_RETURN_IF_ERROR(check(args));
  const auto requests = static_cast<size_t>(args.num_requests);
  if (host_readable_)
    SEXTANT_RETURN_IF_ERROR(check_lengths({args.query_start_loc, requests + 1}, {args.seq_lens, requests}));
  return inner_->context_chunk_offsets(args, stream);
}

Status CheckedOps::gather_cache(const GatherCacheArgs& args, Stream stream) const {
  SEXTANT_RETURN_IF_ERROR(check(args));
  if (args.num_requests == 0 || args.max_rows == 0) return Status::ok();
  if (host_readable_) {
    SEXTANT_RETURN_IF_ERROR(check_scales(args.cache));
    SEXTANT_RETURN_IF_ERROR(check_gathered(args));
  }
  return inner_->gather_cache(args, stream);
}

Status CheckedOps::merge_attn_states(const MergeAttnStatesArgs& args, Stream stream) const {
  SEXTANT_RETURN_IF_ERROR(check(args));
  if (args.out.num_elements() == 0) return Status::ok();
  if (host_readable_) SEXTANT_RETURN_IF_ERROR(check_merged(args));
  return inner_->merge_attn_states(args, stream);
}

Status CheckedOps::copy_blocks(const CopyBlocksArgs& args, Stream stream) const {
  SEXTANT_RETURN_IF_ERROR(check(args));
  if (args.num_pairs == 0) return Status::ok();
  if (host_readable_) SEXTANT_RETURN_IF_ERROR(check_block_mapping(args));
  return inner_->copy_blocks(args, stream);
}

Status CheckedOps::copy_pad(const CopyPadArgs& args, Stream stream) const {
  SEXTANT_RETURN_IF_ERROR(check(args));
  if (args.dst.num_elements() == 0) return Status::ok();
  return inner_->copy_pad(args, stream);
}

Status CheckedOps::gemm(const GemmArgs& args, Stream stream) const {
  SEXTANT_RETURN_IF_ERROR(check(args));
  if (args.c.num_elements() == 0) return Status::ok();
  return inner_->gemm(args, stream);
}

}  // namespace sextant
