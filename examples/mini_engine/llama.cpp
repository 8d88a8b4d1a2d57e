#include "llama.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace mini_engine {

using sextant::Result;
using sextant::Status;

namespace {

// x [T, inputs] times the transpose of weight [outputs, inputs]: [T, outputs].
Floats matmul(const Floats& x, Weight weight, size_t inputs) {
  const size_t tokens = x.size() / inputs, outputs = weight.size() / inputs;
  Floats y(tokens * outputs);
  for (size_t t = 0; t < tokens; ++t)
    for (size_t o = 0; o < outputs; ++o) {
      float sum = 0;
      for (size_t i = 0; i < inputs; ++i) sum += x[t * inputs + i] * weight[o * inputs + i];
      y[t * outputs + o] = sum;
    }
  return y;
}

Floats rms_norm(std::span<const float> x, Weight weight, float eps) {
  const size_t width = weight.size();
  Floats y(x.size());
  for (size_t row = 0; row < x.size(); row += width) {
    float squares = 0;
    for (size_t i = 0; i < width; ++i) squares += x[row + i] * x[row + i];
    const float scale = 1.0F / std::sqrt(squares / static_cast<float>(width) + eps);
    for (size_t i = 0; i < width; ++i) y[row + i] = x[row + i] * scale * weight[i];
  }
  return y;
}

// Turns each pair (2i, 2i + 1) of every head by an angle that grows with the token's position.
void rope(Floats& x, std::span<const int32_t> positions, size_t head_dim, float base) {
  const size_t width = x.size() / positions.size();
  for (size_t t = 0; t < positions.size(); ++t)
    for (size_t i = 0; i < width; i += 2) {
      const float power = static_cast<float>(i % head_dim) / static_cast<float>(head_dim);
      const float angle = static_cast<float>(positions[t]) * std::pow(base, -power);
      const float a = x[t * width + i], b = x[t * width + i + 1];
      x[t * width + i] = a * std::cos(angle) - b * std::sin(angle);
      x[t * width + i + 1] = a * std::sin(angle) + b * std::cos(angle);
    }
}

void add(Floats& x, const Floats& y) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

}  // namespace

Result<Llama> Llama::load(const GgufFile& file, int64_t vocab_size) {
  Llama m;
  Status status;  // the first thing that was wrong
  const auto integer = [&](const std::string& key, int64_t& value) {
    const auto found = file.integer("llama." + key);
    if (found) value = *found;
    if (!status) return;
    if (!found)
      status = found.status();
    else if (value < 1 || value > 1 << 20)
      status = sextant::invalid_argument("llama." + key + " is " + std::to_string(value) + "; allowed: 1..1048576");
  };
  integer("embedding_length", m.hidden);
  integer("feed_forward_length", m.ffn);
  integer("block_count", m.num_layers);
  integer("attention.head_count", m.num_heads);
  integer("attention.head_count_kv", m.num_kv_heads);
  integer("context_length", m.context_length);
  SEXTANT_RETURN_IF_ERROR(status);
  if (m.hidden % (2 * m.num_heads) != 0)
    return sextant::invalid_argument("llama.embedding_length is " + std::to_string(m.hidden) +
                                     "; allowed: multiples of twice llama.attention.head_count, " +
                                     std::to_string(m.num_heads));
  m.head_dim = m.hidden / m.num_heads;
  const auto eps = file.number("llama.attention.layer_norm_rms_epsilon");
  if (!eps) return eps.status();
  m.rms_eps = static_cast<float>(*eps);
  const auto base = file.number("llama.rope.freq_base");
  m.rope_base = base ? static_cast<float>(*base) : 10000.0F;

  const auto tensor = [&](const std::string& name, std::initializer_list<int64_t> shape) -> Weight {
    const auto found = file.tensor(name + ".weight", shape);
    if (status && !found) status = found.status();
    return found ? *found : Weight{};
  };
  const int64_t q_width = m.hidden, kv_width = m.num_kv_heads * m.head_dim;
  m.embeddings = tensor("token_embd", {vocab_size, m.hidden});
  m.output_norm = tensor("output_norm", {m.hidden});
  m.output = file.has_tensor("output.weight") ? tensor("output", {vocab_size, m.hidden}) : m.embeddings;
  for (int64_t i = 0; i < m.num_layers && status; ++i) {
    const std::string prefix = "blk." + std::to_string(i) + ".";
    Layer& layer = m.layers.emplace_back();
    layer.attn_norm = tensor(prefix + "attn_norm", {m.hidden});
    layer.q = tensor(prefix + "attn_q", {q_width, m.hidden});
    layer.k = tensor(prefix + "attn_k", {kv_width, m.hidden});
    layer.v = tensor(prefix + "attn_v", {kv_width, m.hidden});
    layer.attn_output = tensor(prefix + "attn_output", {m.hidden, q_width});
    layer.ffn_norm = tensor(prefix + "ffn_norm", {m.hidden});
    layer.gate = tensor(prefix + "ffn_gate", {m.ffn, m.hidden});
    layer.up = tensor(prefix + "ffn_up", {m.ffn, m.hidden});
    layer.down = tensor(prefix + "ffn_down", {m.hidden, m.ffn});
  }
  SEXTANT_RETURN_IF_ERROR(status);
  return m;
}

Result<Floats> Llama::forward(std::span<const int32_t> tokens, std::span<const int32_t> positions,
                              const Attention& attention) const {
  const auto width = static_cast<size_t>(hidden), dim = static_cast<size_t>(head_dim);
  Floats x;
  for (const int32_t token : tokens) {
    const Weight row = embeddings.subspan(static_cast<size_t>(token) * width, width);
    x.insert(x.end(), row.begin(), row.end());
  }
  for (size_t i = 0; i < layers.size(); ++i) {
    const Layer& layer = layers[i];
    const Floats normed = rms_norm(x, layer.attn_norm, rms_eps);
    Floats q = matmul(normed, layer.q, width), k = matmul(normed, layer.k, width);
    const Floats v = matmul(normed, layer.v, width);
    rope(q, positions, dim, rope_base);
    rope(k, positions, dim, rope_base);
    Floats out(q.size());
    SEXTANT_RETURN_IF_ERROR(attention(i, q, k, v, out));
    add(x, matmul(out, layer.attn_output, width));

    const Floats ffn_in = rms_norm(x, layer.ffn_norm, rms_eps), up = matmul(ffn_in, layer.up, width);
    Floats gate = matmul(ffn_in, layer.gate, width);
    for (size_t j = 0; j < gate.size(); ++j) gate[j] = gate[j] / (1.0F + std::exp(-gate[j])) * up[j];  // SwiGLU
    add(x, matmul(gate, layer.down, static_cast<size_t>(ffn)));
  }
  return x;
}

int32_t Llama::likeliest(std::span<const float> state) const {
  const Floats logits = matmul(rms_norm(state, output_norm, rms_eps), output, state.size());
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace mini_engine
