// What attention a model wants, whatever runs it.
#pragma once

#include <cstdint>
#include <optional>

#include "sextant/types.h"

namespace sextant {

// Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434). All zero: not MLA.
struct MlaSpec {
  int32_t kv_lora_rank = 0;      // 512
  int32_t qk_nope_head_dim = 0;  // 128
  int32_t qk_rope_head_dim = 0;  // 64
  int32_t v_head_dim = 0;        // 128
  bool enabled() const { return kv_lora_rank > 0; }
};

struct AttentionSpec {
  int32_t num_heads = 0;       // query heads
  int32_t num_kv_heads = 0;    // divides num_heads; for MLA equal to num_heads
  int32_t head_dim = 0;        // of Q and K: 8..256 in steps of 8 (MLA: nope + rope)
  int32_t head_dim_v = 0;      // of V; 0 means head_dim
  float softmax_scale = 0;     // explicit; > 0 and finite
  bool causal = true;          // bottom-right aligned: query i of a request sits at seq_len - query_len + i
  int32_t sliding_window = 0;  // keep the W newest keys, own position included; 0 = no window
  float logits_soft_cap = 0;   // cap * tanh(score / cap); 0 = none
  bool has_sinks = false;      // one learned logit a query head joins the softmax's denominator
  bool has_alibi = false;      // score += slope[head] * (key_position - context_len)
  DType dtype = DType::kBF16;  // of q, k, v and out
  // Of q, where it is not dtype: an fp8 type, whose values are stored * q_scale (AttentionArgs, RunTensors). MHA only.
  std::optional<DType> query_dtype;
  MlaSpec mla;

  DType query_type() const { return query_dtype.value_or(dtype); }
  bool has_fp8_queries() const { return is_fp8(query_type()); }
  int32_t value_head_dim() const { return head_dim_v ? head_dim_v : head_dim; }
  int32_t group_size() const { return num_kv_heads ? num_heads / num_kv_heads : 0; }
};

Status validate(const AttentionSpec& spec);

}  // namespace sextant
