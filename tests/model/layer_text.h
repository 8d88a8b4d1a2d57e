// A layer in a few words: "4/1 24/16 w8 sinks", or "- reason" for one that is not served.
#pragma once

#include <fmt/format.h>

#include <string>

#include "sextant/model.h"

namespace sextant {

inline std::string layer_text(const ModelShape& shape, size_t index) {
  if (index >= shape.layers.size()) return "no such layer";
  const ModelLayer& layer = shape.layers[index];
  if (!layer.served()) return "- " + layer.not_served;
  const AttentionSpec& s = layer.attention;
  std::string text = fmt::format("{}/{} {}", s.num_heads, s.num_kv_heads, s.head_dim);
  if (s.value_head_dim() != s.head_dim) text += fmt::format("/{}", s.value_head_dim());
  if (s.sliding_window > 0) text += fmt::format(" w{}", s.sliding_window);
  if (s.window_left >= 0) text += fmt::format(" {}|{}", s.window_left, s.window_right);
  if (s.has_sinks) text += " sinks";
  if (s.has_alibi) text += " alibi";
  if (!s.causal) text += " not causal";
  if (s.mla.enabled()) text += fmt::format(" mla{}", s.mla.kv_lora_rank);
  return text;
}

}  // namespace sextant
