// What attention a model wants, whatever runs it.
#pragma once

#include <cstdint>
#include <optional>

#include "sextant/attention_mask.h"
#include "sextant/types.h"

namespace sextant {

// Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434). All zero: not MLA.
struct MlaSpec {
  int32_t kv_lora_rank = 0;      // 512
  int32_t qk_nope_head_dim = 0;  // 128
  int32_t qk_rope_head_dim = 0;  // 64
  int32_t v_head_dim = 0;        // 128
  bool enabled() const { return kv_lora_rank > 0; }
  friend bool operator==(const MlaSpec&, const MlaSpec&) = default;
};

struct AttentionSpec {
  int32_t num_heads = 0;     // query heads
  int32_t num_kv_heads = 0;  // divides num_heads; for MLA equal to num_heads
  int32_t head_dim = 0;      // of Q and K: 8..512 in steps of 8 (MLA: nope + rope)
  int32_t head_dim_v = 0;    // of V; 0 means head_dim
  float softmax_scale = 0;   // explicit; > 0 and finite
  // Query i of a request sits at position seq_len - query_len + i (bottom-right). Causal: it sees no key after it.
  bool causal = true;
  int32_t sliding_window = 0;  // causal only: the W newest keys, own position included (window_left W - 1); 0 = none
  int32_t window_left = -1;    // keys before a query's position that it sees at most; -1 = all
  int32_t window_right = -1;   // and after it; -1 = all. Causal: none, so -1 or 0
  // Chunked local attention (Llama 4): positions [0, C), [C, 2C), ... each see themselves alone, as far as the rest of
  // the mask lets them; 0 = none. Not for MLA.
  int32_t attention_chunk_size = 0;
  // Bidirectional spans (image tokens of Gemma 3; vLLM's mm_prefix ranges): tokens of a span see all of it, whatever
  // causality, windows and chunks say. The spans come with a run (RunTensors::token_spans), none of them longer than
  // this: plans know by it how far a query may look. 0 = no spans.
  int32_t max_span_len = 0;
  float logits_soft_cap = 0;   // cap * tanh(score / cap); 0 = none
  bool has_sinks = false;      // one learned logit a query head joins the softmax's denominator
  bool has_alibi = false;      // score += slope[head] * (key_position - context_len)
  DType dtype = DType::kBF16;  // of q, k, v and out
  // Of q, where it is not dtype: an fp8 type, whose values are stored * q_scale (AttentionArgs, RunTensors). Of MLA the
  // op mla_decode takes it; the backends multiply their queries by weights first.
  std::optional<DType> query_dtype;
  MlaSpec mla;

  DType query_type() const { return query_dtype.value_or(dtype); }
  bool has_fp8_queries() const { return is_fp8(query_type()); }
  bool has_spans() const { return max_span_len > 0; }
  AttentionMask mask() const {
    const auto limit = [](int32_t keys) { return keys < 0 ? AttentionMask::kUnlimited : keys; };
    return {sliding_window > 0 ? sliding_window - 1 : limit(window_left), causal ? 0 : limit(window_right),
            attention_chunk_size, max_span_len};
  }
  int32_t value_head_dim() const { return head_dim_v ? head_dim_v : head_dim; }
  int32_t group_size() const { return num_kv_heads ? num_heads / num_kv_heads : 0; }
  friend bool operator==(const AttentionSpec&, const AttentionSpec&) = default;
};

Status validate(const AttentionSpec& spec);

}  // namespace sextant
