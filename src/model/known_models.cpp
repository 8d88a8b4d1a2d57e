// The built-in models.
#include "model/known_models.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "model/config_rules.h"
#include "types/near_miss.h"

namespace sextant {
namespace model {
namespace {

// DeepSeek's MLA: 512 + 64 values a token for all heads, 128 + 64 wide scores, 128 wide values.
constexpr KnownModel deepseek(std::string_view name, int32_t layers, int32_t heads, int32_t hidden, int32_t positions,
                              float yarn_factor, float mscale) {
  return {.name = name,
          .num_layers = layers,
          .num_heads = heads,
          .num_kv_heads = heads,
          .head_dim = 192,
          .hidden_size = hidden,
          .max_position_embeddings = positions,
          .kv_lora_rank = 512,
          .qk_nope_head_dim = 128,
          .qk_rope_head_dim = 64,
          .v_head_dim = 128,
          .yarn_factor = yarn_factor,
          .mscale_all_dim = mscale};
}
// Gemma 2: every other layer slides, scores are capped. Gemma 3: five of six slide, no cap.
constexpr KnownModel gemma2(std::string_view name, int32_t layers, int32_t heads, int32_t kv_heads, int32_t dim,
                            int32_t hidden, int32_t scale_by) {
  return {.name = name,
          .num_layers = layers,
          .num_heads = heads,
          .num_kv_heads = kv_heads,
          .head_dim = dim,
          .hidden_size = hidden,
          .max_position_embeddings = 8192,
          .scale_by = scale_by,
          .logits_soft_cap = 50,
          .sliding_window = 4096,
          .full_every = 2};
}
constexpr KnownModel gemma3(std::string_view name, int32_t layers, int32_t heads, int32_t kv_heads, int32_t dim,
                            int32_t hidden, int32_t scale_by) {
  return {.name = name,
          .num_layers = layers,
          .num_heads = heads,
          .num_kv_heads = kv_heads,
          .head_dim = dim,
          .hidden_size = hidden,
          .max_position_embeddings = 131072,
          .scale_by = scale_by,
          .sliding_window = 1024,
          .full_every = 6};
}
// gpt-oss: a learned sink a head; every other layer sees 128 keys.
constexpr KnownModel gpt_oss(std::string_view name, int32_t layers) {
  return {.name = name,
          .num_layers = layers,
          .num_heads = 64,
          .num_kv_heads = 8,
          .head_dim = 64,
          .hidden_size = 2880,
          .max_position_embeddings = 131072,
          .sliding_window = 128,
          .full_every = 2,
          .has_sinks = true};
}

constexpr KnownModel kModels[] = {
    // name, layers, query heads, KV heads, head size, hidden size, positions
    {"Llama-3.1-8B", 32, 32, 8, 128, 4096, 131072},
    {"Llama-3.1-70B", 80, 64, 8, 128, 8192, 131072},
    {"Llama-3.1-405B", 126, 128, 8, 128, 16384, 131072},
    {"Qwen3-0.6B", 28, 16, 8, 128, 1024, 40960},
    {"Qwen3-8B", 36, 32, 8, 128, 4096, 40960},
    {"Qwen3-32B", 64, 64, 8, 128, 5120, 40960},
    {"Qwen3-30B-A3B", 48, 32, 4, 128, 2048, 40960},
    {"Qwen3-235B-A22B", 94, 64, 4, 128, 4096, 40960},
    {"Qwen2.5-7B", 28, 28, 4, 128, 3584, 32768},
    {"Mixtral-8x7B-v0.1", 32, 32, 8, 128, 4096, 32768},
    {.name = "Mistral-7B-v0.1",
     .num_layers = 32,
     .num_heads = 32,
     .num_kv_heads = 8,
     .head_dim = 128,
     .hidden_size = 4096,
     .max_position_embeddings = 32768,
     .sliding_window = 4096},
    gpt_oss("gpt-oss-20b", 24),
    gpt_oss("gpt-oss-120b", 36),
    deepseek("DeepSeek-V3", 61, 128, 7168, 163840, 40, 1),
    deepseek("DeepSeek-R1", 61, 128, 7168, 163840, 40, 1),
    deepseek("DeepSeek-V2-Lite", 27, 16, 2048, 163840, 40, 0.707f),
    deepseek("Kimi-K2-Instruct", 61, 64, 7168, 131072, 32, 1),
    gemma2("Gemma-2-9b", 42, 16, 8, 256, 3584, 256),
    gemma2("Gemma-2-27b", 46, 32, 16, 128, 4608, 144),
    gemma3("Gemma-3-4b", 34, 8, 4, 256, 2560, 256),
    gemma3("Gemma-3-27b", 62, 32, 16, 128, 5376, 168),
    {"SmolLM2-135M", 30, 9, 3, 64, 576, 8192},
    {.name = "Phi-3-mini-4k-instruct",
     .num_layers = 32,
     .num_heads = 32,
     .num_kv_heads = 32,
     .head_dim = 96,
     .hidden_size = 3072,
     .max_position_embeddings = 4096,
     .sliding_window = 2047},
    {"GLM-4.5", 92, 96, 8, 128, 5120, 131072},
    {"GLM-4.5-Air", 46, 96, 8, 128, 4096, 131072},
};

AttentionSpec spec_of(const KnownModel& model) {
  AttentionSpec spec;
  spec.num_heads = model.num_heads;
  spec.num_kv_heads = model.num_kv_heads;
  spec.head_dim = model.head_dim;
  spec.head_dim_v = model.kv_lora_rank > 0 ? model.v_head_dim : model.head_dim;
  const double scale = 1.0 / std::sqrt(static_cast<double>(model.scale_by > 0 ? model.scale_by : model.head_dim));
  spec.softmax_scale = static_cast<float>(scale * yarn_scale_factor(model.yarn_factor, model.mscale_all_dim));
  spec.logits_soft_cap = model.logits_soft_cap;
  spec.has_sinks = model.has_sinks;
  spec.mla = {model.kv_lora_rank, model.qk_nope_head_dim, model.qk_rope_head_dim, model.v_head_dim};
  return spec;
}

ModelShape shape_of(const KnownModel& model) {
  ModelShape shape;
  shape.name = model.name;
  shape.source = "built in";
  shape.hidden_size = model.hidden_size;
  shape.max_position_embeddings = model.max_position_embeddings;
  for (int32_t layer = 0; layer < model.num_layers; ++layer) {
    AttentionSpec spec = spec_of(model);
    const bool full = model.full_every > 0 && (layer + 1) % model.full_every == 0;
    if (!full) spec.sliding_window = model.sliding_window;
    ModelLayer whole;
    whole.attention = spec;
    shape.layers.push_back(whole);
  }
  return shape;
}

}  // namespace

std::span<const KnownModel> known_models() { return kModels; }

}  // namespace model

std::vector<std::string> known_model_names() {
  std::vector<std::string> names;
  for (const model::KnownModel& known : model::known_models()) names.emplace_back(known.name);
  return names;
}

Result<ModelShape> find_known_model(std::string_view name) {
  // "meta-llama/Llama-3.1-8B": the organisation says nothing about the shape.
  const std::string_view bare = name.substr(name.find('/') == std::string_view::npos ? 0 : name.rfind('/') + 1);
  for (const model::KnownModel& known : model::known_models())
    if (known.name.size() == bare.size() && edit_distance(known.name, bare) == 0) return model::shape_of(known);
  const std::vector<std::string> names = known_model_names();
  const auto near = nearest(bare, names);
  return Status(StatusCode::kNotFound,
                fmt::format("model is \"{}\"{}; allowed: a config.json, or one of {}", name,
                            near ? fmt::format(" (did you mean {}?)", *near) : std::string(), fmt::join(names, ", ")));
}

}  // namespace sextant
