// What a valid attention spec is.
#include "sextant/spec.h"

#include <fmt/format.h>

#include <cmath>

namespace sextant {
namespace {

constexpr int32_t kMaxHeadDim = 512;
constexpr int32_t kHeadDimStep = 8;
constexpr int32_t kMaxHeads = 1 << 14;  // a hundred times what models have; a plan has room for all of them

Status check_head_dim(const char* field, int32_t value, int32_t max) {
  if (value >= kHeadDimStep && value <= max && value % kHeadDimStep == 0) return Status::ok();
  return invalid_argument(
      fmt::format("spec.{} is {}; allowed: {}..{} in steps of {}", field, value, kHeadDimStep, max, kHeadDimStep));
}

Status check_mla(const AttentionSpec& s) {
  const MlaSpec& m = s.mla;
  SEXTANT_RETURN_IF_ERROR(check_head_dim("mla.kv_lora_rank", m.kv_lora_rank, 1024));
  SEXTANT_RETURN_IF_ERROR(check_head_dim("mla.qk_nope_head_dim", m.qk_nope_head_dim, kMaxHeadDim));
  SEXTANT_RETURN_IF_ERROR(check_head_dim("mla.qk_rope_head_dim", m.qk_rope_head_dim, kMaxHeadDim));
  SEXTANT_RETURN_IF_ERROR(check_head_dim("mla.v_head_dim", m.v_head_dim, kMaxHeadDim));
  if (s.num_kv_heads != s.num_heads)
    return invalid_argument(
        fmt::format("spec.num_kv_heads is {}; MLA allows {} (num_heads)", s.num_kv_heads, s.num_heads));
  if (s.head_dim != m.qk_nope_head_dim + m.qk_rope_head_dim)
    return invalid_argument(fmt::format("spec.head_dim is {}; MLA allows {} (qk_nope_head_dim + qk_rope_head_dim)",
                                        s.head_dim, m.qk_nope_head_dim + m.qk_rope_head_dim));
  if (s.value_head_dim() != m.v_head_dim)
    return invalid_argument(
        fmt::format("spec.head_dim_v is {}; MLA allows {} (mla.v_head_dim)", s.value_head_dim(), m.v_head_dim));
  return Status::ok();
}

Status check_mask(const AttentionSpec& s) {
  if (s.sliding_window < 0)
    return invalid_argument(fmt::format("spec.sliding_window is {}; allowed: >= 0 (0 = no window)", s.sliding_window));
  if (s.sliding_window > 0 && !s.causal)
    return invalid_argument(fmt::format(
        "spec.sliding_window is {} and causal false; allowed: 0, with window_left and window_right", s.sliding_window));
  if (s.window_left < -1 || (s.window_left >= 0 && s.sliding_window > 0))
    return invalid_argument(
        fmt::format("spec.window_left is {}; {}", s.window_left,
                    s.sliding_window > 0 ? "sliding_window allows -1" : "allowed: >= -1 (-1 = all)"));
  if (s.window_right < -1 || (s.window_right > 0 && s.causal))
    return invalid_argument(fmt::format("spec.window_right is {}; {}", s.window_right,
                                        s.causal ? "causal allows -1 or 0" : "allowed: >= -1 (-1 = all)"));
  if (s.attention_chunk_size < 0 || (s.attention_chunk_size > 0 && s.mla.enabled()))
    return invalid_argument(fmt::format("spec.attention_chunk_size is {}; {}", s.attention_chunk_size,
                                        s.mla.enabled() ? "MLA allows 0" : "allowed: >= 0 (0 = no chunks)"));
  if (s.max_span_len < 0)
    return invalid_argument(fmt::format("spec.max_span_len is {}; allowed: >= 0 (0 = no spans)", s.max_span_len));
  return Status::ok();
}

}  // namespace

Status validate(const AttentionSpec& s) {
  if (s.num_heads < 1 || s.num_heads > kMaxHeads)
    return invalid_argument(fmt::format("spec.num_heads is {}; allowed: 1..{}", s.num_heads, kMaxHeads));
  if (s.num_kv_heads < 1 || s.num_heads % s.num_kv_heads != 0)
    return invalid_argument(
        fmt::format("spec.num_kv_heads is {}; allowed: a divisor of num_heads ({})", s.num_kv_heads, s.num_heads));
  if (s.mla.enabled()) {
    SEXTANT_RETURN_IF_ERROR(check_mla(s));
  } else {
    SEXTANT_RETURN_IF_ERROR(check_head_dim("head_dim", s.head_dim, kMaxHeadDim));
    SEXTANT_RETURN_IF_ERROR(check_head_dim("head_dim_v", s.value_head_dim(), kMaxHeadDim));
  }
  if (!std::isfinite(s.softmax_scale) || s.softmax_scale <= 0)
    return invalid_argument(fmt::format("spec.softmax_scale is {}; allowed: finite, > 0", s.softmax_scale));
  SEXTANT_RETURN_IF_ERROR(check_mask(s));
  if (!std::isfinite(s.logits_soft_cap) || s.logits_soft_cap < 0)
    return invalid_argument(
        fmt::format("spec.logits_soft_cap is {}; allowed: finite, >= 0 (0 = none)", s.logits_soft_cap));
  if (s.dtype != DType::kF32 && s.dtype != DType::kF16 && s.dtype != DType::kBF16)
    return invalid_argument(fmt::format("spec.dtype is {}; allowed: fp32, fp16, bf16", to_string(s.dtype)));
  if (s.query_type() != s.dtype && !s.has_fp8_queries())
    return invalid_argument(fmt::format("spec.query_dtype is {}; allowed: {} (spec.dtype) or fp8_*",
                                        to_string(s.query_type()), to_string(s.dtype)));
  return Status::ok();
}

}  // namespace sextant
