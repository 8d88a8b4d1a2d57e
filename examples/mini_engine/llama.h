// A Llama in fp32 from a GGUF file: weights, and the arithmetic around attention in plain loops on the host.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "gguf.h"

namespace mini_engine {

using Floats = std::vector<float>;      // activations: [num_tokens, width]
using Weight = std::span<const float>;  // [outputs, inputs]

struct Layer {
  Weight attn_norm, q, k, v, attn_output, ffn_norm, gate, up, down;
};

struct Llama {
  // Fills out [T, num_heads, head_dim] for q of that shape and k, v [T, num_kv_heads, head_dim], rope applied.
  using Attention =
      std::function<sextant::Status(size_t layer, const Floats& q, const Floats& k, const Floats& v, Floats& out)>;

  int64_t hidden = 0, ffn = 0, num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0, context_length = 0;
  float rms_eps = 0, rope_base = 0;
  Weight embeddings, output_norm, output;
  std::vector<Layer> layers;

  static sextant::Result<Llama> load(const GgufFile& file, int64_t vocab_size);  // its weights point into the file

  // Tokens at their positions through all layers: hidden states [T, hidden].
  sextant::Result<Floats> forward(std::span<const int32_t> tokens, std::span<const int32_t> positions,
                                  const Attention& attention) const;
  // The likeliest next token after one token's hidden state [hidden].
  int32_t likeliest(std::span<const float> state) const;
};

}  // namespace mini_engine
