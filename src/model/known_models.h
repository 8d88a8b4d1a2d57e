// The built-in model table.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace sextant::model {

struct KnownModel {
  std::string_view name;
  int32_t num_layers;
  int32_t num_heads;
  int32_t num_kv_heads;
  int32_t head_dim;
  int32_t hidden_size;
  int32_t max_position_embeddings;
  // Scores are divided by sqrt(scale_by); 0: by sqrt(head_dim).
  int32_t scale_by = 0;
  float logits_soft_cap = 0;
  int32_t sliding_window = 0;
  int32_t full_every = 0;  // with a window: every n-th layer sees everything; 0: none does
  bool has_sinks = false;
  // MLA (head_dim is nope + rope there) and yarn's factor and mscale_all_dim.
  int32_t kv_lora_rank = 0;
  int32_t qk_nope_head_dim = 0;
  int32_t qk_rope_head_dim = 0;
  int32_t v_head_dim = 0;
  float yarn_factor = 1;
  float mscale_all_dim = 0;
};

std::span<const KnownModel> known_models();

}  // namespace sextant::model
