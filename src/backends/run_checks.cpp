// Checks a run's tensors against its plan; everything that a run may be refused for stands here.
#include "backends/run_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "ops/array_checks.h"
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
  if (t.slot_mapping == nullptr) return Status::ok();  // k and v are not read
  SEXTANT_RETURN_IF_ERROR(check_rows_of("k", t.k, {kAnyExtent, s.num_kv_heads, s.head_dim}, tokens, s.dtype));
  return check_rows_of("v", t.v, {kAnyExtent, s.num_kv_heads, s.value_head_dim()}, tokens, s.dtype);
}

Status check_mla_tensors(const AttentionSpec& s, const RunTensors& t, int64_t tokens) {
  const MlaSpec& m = s.mla;
  if (t.slot_mapping != nullptr) {
    SEXTANT_RETURN_IF_ERROR(check_rows_of("kv_c", t.kv_c, {kAnyExtent, m.kv_lora_rank}, tokens, s.dtype));
    SEXTANT_RETURN_IF_ERROR(check_rows_of("k_pe", t.k_pe, {kAnyExtent, m.qk_rope_head_dim}, tokens, s.dtype));
  }
  const int64_t rows = int64_t{s.num_heads} * (m.qk_nope_head_dim + m.v_head_dim);
  return check_rows_of("kv_b_proj", t.kv_b_proj, {rows, m.kv_lora_rank}, rows, s.dtype);
}

Status check_workspace(size_t needed, const RunTensors& t) {
  if (t.workspace_bytes < needed)
    return {StatusCode::kResourceExhausted,
            fmt::format("workspace_bytes is {}; allowed: >= {} (plan.workspace_bytes())", t.workspace_bytes, needed)};
  if (needed > 0) SEXTANT_RETURN_IF_ERROR(check_pointer("workspace", t.workspace));
  return check_alignment("workspace", t.workspace, kWorkspaceAlignment);
}

TensorView first(TensorView view, size_t dim, int64_t count) {
  if (view.present()) view.shape[dim] = std::min(view.shape[dim], count);
  return view;
}

// What a run writes lies apart from all else that it touches, as far as memory without gaps tells. Blocks of K and V
// may lie in turns in one memory, so that the two caches begin a block apart: their ids keep them apart.
Status check_memory(const PlanRequest& planned, size_t workspace_bytes, const RunTensors& t) {
  const int64_t tokens = planned.batch.num_tokens();
  const bool writes = t.slot_mapping != nullptr, latent = t.cache.spec.is_latent();
  const KvCacheSpec& c = t.cache.spec;
  const auto workspace = reinterpret_cast<uintptr_t>(t.workspace);
  const Memory all[] = {
      memory_of("out", first(t.out, 0, tokens)),
      planned.options.lse_out ? memory_of("lse", first(t.lse, 1, tokens)) : Memory{},
      {"workspace", workspace, workspace + workspace_bytes},
      memory_of("cache.k", t.cache.k, t.cache.k_addr.block_stride, k_addressing(c).block_stride, c),
      latent ? Memory{} : memory_of("cache.v", t.cache.v, t.cache.v_addr.block_stride, v_addressing(c).block_stride, c),
      memory_of("q", first(t.q, 0, tokens)),
      writes ? memory_of("k", first(t.k, 0, tokens)) : Memory{},
      writes ? memory_of("v", first(t.v, 0, tokens)) : Memory{},
      writes ? memory_of("kv_c", first(t.kv_c, 0, tokens)) : Memory{},
      writes ? memory_of("k_pe", first(t.k_pe, 0, tokens)) : Memory{},
      memory_of("kv_b_proj", t.kv_b_proj)};
  const size_t written = writes ? 5 : 3;
  constexpr size_t kCacheK = 3, kCacheV = 4;
  for (size_t i = 0; i < written; ++i)
    for (size_t j = i + 1; j < std::size(all); ++j)
      if (all[i].meets(all[j]) && !(i == kCacheK && j == kCacheV))
        return invalid_argument(fmt::format("{} overlaps {}; allowed: memory apart from all else that a run touches",
                                            all[i].field, all[j].field));
  return Status::ok();
}

// Rows of q keep their path: decode requests' rows stay decode requests', whatever the lengths.
Status check_paths(const PlanRequest& planned, std::span<const int32_t> query_start_loc) {
  const std::span<const int32_t> was = planned.batch.query_start_loc;
  const int32_t decode_len = planned.options.decode_max_query_len;
  if (std::equal(was.begin(), was.end(), query_start_loc.begin())) return Status::ok();
  size_t p = 0;  // the planned request that has row `begin`
  for (size_t b = 0; b + 1 < query_start_loc.size(); ++b) {
    const int32_t end = query_start_loc[b + 1];
    for (int32_t row = query_start_loc[b]; row < end; row = was[p + 1]) {
      while (was[p + 1] <= row) ++p;
      const int32_t query_len = end - query_start_loc[b], planned_len = was[p + 1] - was[p];
      if ((query_len <= decode_len) != (planned_len <= decode_len))
        return invalid_argument(fmt::format(
            "query_start_loc[{}] is {}, so that row {} of q is of a query of {} tokens; the plan has one of {} "
            "there, which takes another path (decode_max_query_len {})",
            b + 1, end, row, query_len, planned_len, decode_len));
    }
  }
  return Status::ok();
}

// What the arrays of a run hold.
Status check_arrays(const PlanRequest& planned, const RunTensors& t) {
  const BatchMetadata& batch = planned.batch;
  const TableUse use{{t.query_start_loc, batch.query_start_loc.size()},
                     {t.seq_lens, batch.seq_lens.size()},
                     t.block_table,
                     t.block_table_stride,
                     batch.shared_prefix_len,
                     planned.spec.has_spans() ? t.token_spans : nullptr};
  SEXTANT_RETURN_IF_ERROR(check_run_lengths(
      {batch.query_start_loc, batch.seq_lens, planned.options.bounds, t.block_table_stride, &t.cache.spec},
      use.query_start_loc, use.seq_lens));
  SEXTANT_RETURN_IF_ERROR(check_paths(planned, use.query_start_loc));
  SEXTANT_RETURN_IF_ERROR(check_token_spans(use, planned.spec));
  SEXTANT_RETURN_IF_ERROR(check_shared_prefix(use, t.cache.spec));
  SEXTANT_RETURN_IF_ERROR(check_block_ids(use, t.cache.spec, planned.spec));
  if (t.slot_mapping != nullptr) {
    const std::span<const int64_t> slots{t.slot_mapping, static_cast<size_t>(batch.num_tokens())};
    SEXTANT_RETURN_IF_ERROR(check_slot_mapping(slots, t.cache.spec));
    if (!planned.spec.mla.enabled())
      SEXTANT_RETURN_IF_ERROR(
          check_keys_have_slots(use.query_start_loc, use.seq_lens, slots, planned.options.decode_max_query_len));
  }
  if (planned.spec.has_fp8_queries()) SEXTANT_RETURN_IF_ERROR(check_scales("q_scale", t.q_scale, t.num_q_scales));
  return check_scales(t.cache);
}

}  // namespace

Status check_run(const PlanRequest& planned, size_t workspace_bytes, bool host_readable, const RunTensors& t) {
  const AttentionSpec& s = planned.spec;
  const int64_t tokens = planned.batch.num_tokens();
  SEXTANT_RETURN_IF_ERROR(check_rows_of("q", t.q, {kAnyExtent, s.num_heads, s.head_dim}, tokens, s.query_type()));
  if (s.has_fp8_queries() && t.num_q_scales != 1 && t.num_q_scales != s.num_kv_heads)
    return invalid_argument(
        fmt::format("num_q_scales is {}; allowed: 1 or {} (num_kv_heads)", t.num_q_scales, s.num_kv_heads));
  SEXTANT_RETURN_IF_ERROR(check_rows_of("out", t.out, {kAnyExtent, s.num_heads, s.value_head_dim()}, tokens, s.dtype));
  SEXTANT_RETURN_IF_ERROR(check_apart("out", t.out));
  SEXTANT_RETURN_IF_ERROR(check_alignment("q_scale", t.q_scale, sizeof(float)));
  SEXTANT_RETURN_IF_ERROR(s.mla.enabled() ? check_mla_tensors(s, t, tokens) : check_mha_tensors(s, t, tokens));
  if (planned.options.lse_out) SEXTANT_RETURN_IF_ERROR(check_lse("lse", t.lse, s.num_heads, tokens));
  SEXTANT_RETURN_IF_ERROR(check_cache_as_planned(planned.cache, t.cache));
  if (t.slot_mapping != nullptr) {
    SEXTANT_RETURN_IF_ERROR(check_array("slot_mapping", t.slot_mapping));
    SEXTANT_RETURN_IF_ERROR(check_cache_apart(t.cache));
  }
  SEXTANT_RETURN_IF_ERROR(check_array("query_start_loc", t.query_start_loc));
  SEXTANT_RETURN_IF_ERROR(check_array("seq_lens", t.seq_lens));
  SEXTANT_RETURN_IF_ERROR(check_array("block_table", t.block_table));
  if (t.block_table_stride < planned.batch.max_blocks_per_request)
    return invalid_argument(fmt::format("block_table_stride is {}; allowed: >= {} (max_blocks_per_request)",
                                        t.block_table_stride, planned.batch.max_blocks_per_request));
  if (s.has_sinks) SEXTANT_RETURN_IF_ERROR(check_array("sinks", t.sinks));
  if (s.has_alibi) SEXTANT_RETURN_IF_ERROR(check_array("alibi_slopes", t.alibi_slopes));
  if (s.has_spans()) SEXTANT_RETURN_IF_ERROR(check_array("token_spans", t.token_spans));
  SEXTANT_RETURN_IF_ERROR(check_workspace(workspace_bytes, t));
  SEXTANT_RETURN_IF_ERROR(check_memory(planned, workspace_bytes, t));
  return host_readable ? check_arrays(planned, t) : Status::ok();
}

}  // namespace sextant
