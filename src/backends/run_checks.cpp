#include "backends/run_checks.h"

#include <fmt/format.h>

#include <cstdint>
#include <utility>

#include "ops/checks.h"

namespace sextant {
namespace {

Status check_rows_of(const char* field, const TensorView& view, std::initializer_list<int64_t> shape, int64_t tokens,
                     DType dtype) {
  SEXTANT_RETURN_IF_ERROR(check_shape(field, view, shape));
  SEXTANT_RETURN_IF_ERROR(check_rows(field, view, tokens));
  SEXTANT_RETURN_IF_ERROR(check_dtype(field, view, {dtype}));
  return check_last_stride(field, view);
}

Status check_mha_tensors(const AttentionSpec& s, const RunTensors& t, int64_t tokens) {
  SEXTANT_RETURN_IF_ERROR(check_rows_of("k", t.k, {kAnyExtent, s.num_kv_heads, s.head_dim}, tokens, s.dtype));
  return check_rows_of("v", t.v, {kAnyExtent, s.num_kv_heads, s.value_head_dim()}, tokens, s.dtype);
}

Status check_mla_tensors(const AttentionSpec& s, const RunTensors& t, int64_t tokens) {
  const MlaSpec& m = s.mla;
  SEXTANT_RETURN_IF_ERROR(check_rows_of("kv_c", t.kv_c, {kAnyExtent, m.kv_lora_rank}, tokens, s.dtype));
  SEXTANT_RETURN_IF_ERROR(check_rows_of("k_pe", t.k_pe, {kAnyExtent, m.qk_rope_head_dim}, tokens, s.dtype));
  const int64_t rows = int64_t{s.num_heads} * (m.qk_nope_head_dim + m.v_head_dim);
  return check_rows_of("kv_b_proj", t.kv_b_proj, {rows, m.kv_lora_rank}, rows, s.dtype);
}

Status check_cache(const KvCacheSpec& planned, const KvCacheView& cache) {
  const KvCacheSpec& c = cache.spec;
  if (c.layout != planned.layout || c.dtype != planned.dtype || c.block_size != planned.block_size ||
      c.num_kv_heads != planned.num_kv_heads || c.head_dim != planned.head_dim || c.head_dim_v != planned.head_dim_v ||
      c.num_blocks < planned.num_blocks)
    return invalid_argument(
        fmt::format("cache is {} {} with {} blocks of {}; the plan allows {} {} with at least {} blocks of {}",
                    to_string(c.layout), to_string(c.dtype), c.num_blocks, c.block_size, to_string(planned.layout),
                    to_string(planned.dtype), planned.num_blocks, planned.block_size));
  if (planned.num_blocks == 0) return Status::ok();
  SEXTANT_RETURN_IF_ERROR(check_pointer("cache.k", cache.k));
  if (!c.is_latent()) SEXTANT_RETURN_IF_ERROR(check_pointer("cache.v", cache.v));
  if (cache.num_scales != 1 && cache.num_scales != c.num_kv_heads)
    return invalid_argument(
        fmt::format("cache.num_scales is {}; allowed: 1 or {} (num_kv_heads)", cache.num_scales, c.num_kv_heads));
  return Status::ok();
}

Status check_workspace(const Plan& plan, const RunTensors& t) {
  if (t.workspace_bytes < plan.workspace_bytes())
    return {StatusCode::kResourceExhausted,
            fmt::format("workspace_bytes is {}; allowed: >= {} (plan.workspace_bytes())", t.workspace_bytes,
                        plan.workspace_bytes())};
  if (plan.workspace_bytes() > 0) SEXTANT_RETURN_IF_ERROR(check_pointer("workspace", t.workspace));
  if (reinterpret_cast<uintptr_t>(t.workspace) % 256 != 0)
    return invalid_argument("workspace is not aligned; allowed: a multiple of 256 bytes");
  return Status::ok();
}

}  // namespace

Status check_run(const Plan& plan, const RunTensors& t) {
  const AttentionSpec& s = plan.request().spec;
  const int64_t tokens = plan.request().batch.num_tokens();
  if (tokens == 0) return Status::ok();
  SEXTANT_RETURN_IF_ERROR(check_rows_of("q", t.q, {kAnyExtent, s.num_heads, s.head_dim}, tokens, s.query_type()));
  if (s.has_fp8_queries() && t.num_q_scales != 1 && t.num_q_scales != s.num_kv_heads)
    return invalid_argument(
        fmt::format("num_q_scales is {}; allowed: 1 or {} (num_kv_heads)", t.num_q_scales, s.num_kv_heads));
  SEXTANT_RETURN_IF_ERROR(check_rows_of("out", t.out, {kAnyExtent, s.num_heads, s.value_head_dim()}, tokens, s.dtype));
  SEXTANT_RETURN_IF_ERROR(s.mla.enabled() ? check_mla_tensors(s, t, tokens) : check_mha_tensors(s, t, tokens));
  if (plan.request().options.lse_out) {
    SEXTANT_RETURN_IF_ERROR(check_shape("lse", t.lse, {s.num_heads, kAnyExtent}));
    SEXTANT_RETURN_IF_ERROR(check_dtype("lse", t.lse, {DType::kF32}));
    if (t.lse.shape[1] < tokens)
      return invalid_argument(fmt::format("lse is {}; allowed: at least {} columns", to_string(t.lse), tokens));
  }
  SEXTANT_RETURN_IF_ERROR(check_cache(plan.request().cache, t.cache));
  for (const auto& [field, pointer] : {std::pair<const char*, const void*>{"query_start_loc", t.query_start_loc},
                                       {"seq_lens", t.seq_lens},
                                       {"block_table", t.block_table}})
    SEXTANT_RETURN_IF_ERROR(check_pointer(field, pointer));
  if (t.block_table_stride < plan.request().batch.max_blocks_per_request)
    return invalid_argument(fmt::format("block_table_stride is {}; allowed: >= {} (max_blocks_per_request)",
                                        t.block_table_stride, plan.request().batch.max_blocks_per_request));
  if (s.has_sinks) SEXTANT_RETURN_IF_ERROR(check_pointer("sinks", t.sinks));
  if (s.has_alibi) SEXTANT_RETURN_IF_ERROR(check_pointer("alibi_slopes", t.alibi_slopes));
  return check_workspace(plan, t);
}

}  // namespace sextant
