// Argument checks of the attention ops, at plan time and at run time.
#include <fmt/format.h>

#include <cmath>

#include "ops/array_checks.h"
#include "ops/checks.h"
#include "sextant/ops.h"

namespace sextant {

const char* to_string(AttentionOp op) {
  switch (op) {
    case AttentionOp::kUnified:
      return "unified_attention";
    case AttentionOp::kVarlen:
      return "varlen_attention";
    case AttentionOp::kPrefixPrefill:
      return "prefix_prefill";
    case AttentionOp::kPagedDecode:
      return "paged_decode";
    case AttentionOp::kMlaDecode:
      return "mla_decode";
  }
  return "unknown op";
}

namespace {

bool reads_cache(AttentionOp op) { return op != AttentionOp::kVarlen; }
bool reads_packed_keys(AttentionOp op) { return op == AttentionOp::kVarlen || op == AttentionOp::kPrefixPrefill; }

// Head sizes of the op itself: mla_decode works in the latent space, whose sizes exceed those of other ops.
Status check_op_spec(const AttentionPlanArgs& a) {
  if (a.op != AttentionOp::kMlaDecode) {
    AttentionSpec spec = a.spec;
    spec.mla = {};
    return validate(spec);
  }
  AttentionSpec spec = a.spec;
  spec.mla = {};
  if (spec.num_kv_heads != 1)
    return invalid_argument(fmt::format("spec.num_kv_heads is {}; mla_decode allows 1", spec.num_kv_heads));
  if (spec.head_dim < spec.value_head_dim() || spec.head_dim % 8 != 0 || spec.value_head_dim() % 8 != 0 ||
      spec.head_dim > 2048)
    return invalid_argument(fmt::format(
        "spec.head_dim is {} and head_dim_v {}; mla_decode allows multiples of 8, head_dim_v <= head_dim <= 2048",
        spec.head_dim, spec.value_head_dim()));
  spec.head_dim = spec.head_dim_v = 8;  // the rest of the checks do not depend on them
  return validate(spec);
}

Status check_op_cache(const AttentionPlanArgs& a) {
  if (!reads_cache(a.op)) return Status::ok();
  SEXTANT_RETURN_IF_ERROR(validate(a.cache));
  return check_cache_serves(a.cache, a.op == AttentionOp::kMlaDecode, a.spec.num_kv_heads, a.spec.head_dim,
                            a.spec.value_head_dim(), a.spec.dtype);
}

Status check_op_batch(const AttentionPlanArgs& a) {
  const size_t requests = a.seq_lens.size();
  SEXTANT_RETURN_IF_ERROR(check_lengths(a.query_start_loc, a.seq_lens));
  if (a.op == AttentionOp::kVarlen && !a.key_start_loc.empty() && a.key_start_loc.size() != requests + 1)
    return invalid_argument(fmt::format("key_start_loc has {} entries; allowed: {} (len(seq_lens) + 1)",
                                        a.key_start_loc.size(), requests + 1));
  return check_key_starts(a.key_start_loc);
}

}  // namespace

Status check(const AttentionPlanArgs& a) {
  SEXTANT_RETURN_IF_ERROR(check_op_spec(a));
  SEXTANT_RETURN_IF_ERROR(check_op_cache(a));
  SEXTANT_RETURN_IF_ERROR(check_op_batch(a));
  if (a.key_begin < 0 && !(a.op == AttentionOp::kVarlen && a.key_begin == kKeysAfterContext))
    return invalid_argument(fmt::format("key_begin is {}; allowed: >= 0", a.key_begin));
  if (a.key_end < a.key_begin)
    return invalid_argument(fmt::format("key_end is {}; allowed: >= {} (key_begin)", a.key_end, a.key_begin));
  if (a.shared_prefix && (!reads_cache(a.op) || a.op == AttentionOp::kPrefixPrefill))
    return invalid_argument(fmt::format("shared_prefix is set; {} does not allow it", to_string(a.op)));
  if (a.split.kind >= SplitPolicy::Kind::kSegments && a.split.value < 1)
    return invalid_argument(fmt::format("split.value is {}; allowed: >= 1", a.split.value));
  if (a.bounds.max_query_len < 0 || a.bounds.max_seq_len < 0)
    return invalid_argument(fmt::format("bounds are max_query_len {} and max_seq_len {}; allowed: >= 0",
                                        a.bounds.max_query_len, a.bounds.max_seq_len));
  if (a.out_dtype != a.spec.dtype && a.out_dtype != DType::kF32)
    return invalid_argument(
        fmt::format("out_dtype is {}; allowed: {} or fp32", to_string(a.out_dtype), to_string(a.spec.dtype)));
  return Status::ok();
}

Status check(const AttentionPlanArgs& p, const AttentionArgs& a) {
  const AttentionSpec& s = p.spec;
  const int64_t tokens = p.query_start_loc.empty() ? 0 : p.query_start_loc.back();
  if (tokens == 0) return Status::ok();
  SEXTANT_RETURN_IF_ERROR(check_shape("q", a.q, {kAnyExtent, s.num_heads, s.head_dim}));
  SEXTANT_RETURN_IF_ERROR(check_rows("q", a.q, tokens));
  SEXTANT_RETURN_IF_ERROR(check_dtype("q", a.q, {s.query_type()}));
  SEXTANT_RETURN_IF_ERROR(check_last_stride("q", a.q));
  if (s.has_fp8_queries() && a.num_q_scales != 1 && a.num_q_scales != s.num_kv_heads)
    return invalid_argument(
        fmt::format("num_q_scales is {}; allowed: 1 or {} (num_kv_heads)", a.num_q_scales, s.num_kv_heads));
  SEXTANT_RETURN_IF_ERROR(check_shape("out", a.out, {kAnyExtent, s.num_heads, s.value_head_dim()}));
  SEXTANT_RETURN_IF_ERROR(check_rows("out", a.out, tokens));
  SEXTANT_RETURN_IF_ERROR(check_dtype("out", a.out, {p.out_dtype}));
  SEXTANT_RETURN_IF_ERROR(check_last_stride("out", a.out));
  SEXTANT_RETURN_IF_ERROR(check_apart("out", a.out));
  if (p.lse_out) SEXTANT_RETURN_IF_ERROR(check_lse("lse", a.lse, s.num_heads, tokens));
  if (p.merge_state) {
    SEXTANT_RETURN_IF_ERROR(check_shape("state_out", a.state_out, {kAnyExtent, s.num_heads, s.value_head_dim()}));
    SEXTANT_RETURN_IF_ERROR(check_rows("state_out", a.state_out, tokens));
    SEXTANT_RETURN_IF_ERROR(check_dtype("state_out", a.state_out, {DType::kF32}));
    SEXTANT_RETURN_IF_ERROR(check_last_stride("state_out", a.state_out));
    SEXTANT_RETURN_IF_ERROR(check_lse("state_lse", a.state_lse, s.num_heads, tokens));
  }
  if (reads_cache(p.op)) {
    SEXTANT_RETURN_IF_ERROR(check_array("block_table", a.block_table));
    SEXTANT_RETURN_IF_ERROR(check_cache_as_planned(p.cache, a.cache));
  }
  if (reads_packed_keys(p.op)) {
    for (const auto& [field, view, dim] :
         {std::tuple{"k", &a.k, s.head_dim}, std::tuple{"v", &a.v, s.value_head_dim()}}) {
      SEXTANT_RETURN_IF_ERROR(check_shape(field, *view, {kAnyExtent, s.num_kv_heads, dim}));
      SEXTANT_RETURN_IF_ERROR(check_dtype(field, *view, {s.dtype}));
      SEXTANT_RETURN_IF_ERROR(check_last_stride(field, *view));
    }
    const int64_t rows = p.op == AttentionOp::kPrefixPrefill ? tokens
                         : p.key_start_loc.empty()           ? 0
                                                             : p.key_start_loc.back();
    SEXTANT_RETURN_IF_ERROR(check_rows("k", a.k, rows));
    SEXTANT_RETURN_IF_ERROR(check_rows("v", a.v, rows));
    if (p.op == AttentionOp::kVarlen) SEXTANT_RETURN_IF_ERROR(check_array("key_start_loc", a.key_start_loc));
  }
  SEXTANT_RETURN_IF_ERROR(check_alignment("query_start_loc", a.query_start_loc, sizeof(int32_t)));
  SEXTANT_RETURN_IF_ERROR(check_alignment("seq_lens", a.seq_lens, sizeof(int32_t)));
  SEXTANT_RETURN_IF_ERROR(check_alignment("q_scale", a.q_scale, sizeof(float)));
  if (s.has_sinks) SEXTANT_RETURN_IF_ERROR(check_array("sinks", a.sinks));
  if (s.has_alibi) SEXTANT_RETURN_IF_ERROR(check_array("alibi_slopes", a.alibi_slopes));
  if (s.has_spans()) SEXTANT_RETURN_IF_ERROR(check_array("token_spans", a.token_spans));
  return Status::ok();
}

}  // namespace sextant
