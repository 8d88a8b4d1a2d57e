// Which layers have a sliding window. Newer configs list layer_types; older ones leave it to the architecture.
#include <fmt/format.h>

#include "model/config_rules.h"

namespace sextant::model {
namespace {

using nlohmann::json;

enum class LayerType { kFull, kSliding, kChunked };

Result<std::vector<LayerType>> listed_types(const ConfigFields& fields, const json& list, int64_t num_layers) {
  if (!list.is_array() || static_cast<int64_t>(list.size()) != num_layers)
    return fields.error("layer_types", list, fmt::format("a list of num_hidden_layers ({}) strings", num_layers));
  std::vector<LayerType> types;
  for (const json& entry : list) {
    const std::string type = entry.is_string() ? entry.get<std::string>() : "";
    if (type == "full_attention")
      types.push_back(LayerType::kFull);
    else if (type == "sliding_attention")
      types.push_back(LayerType::kSliding);
    else if (type == "chunked_attention")
      types.push_back(LayerType::kChunked);
    else
      return fields.error(fmt::format("layer_types[{}]", types.size()), entry,
                          "full_attention, sliding_attention, chunked_attention");
  }
  return types;
}

// Every `pattern`-th layer is full, the others slide.
std::vector<LayerType> patterned_types(int64_t num_layers, int64_t pattern) {
  std::vector<LayerType> types;
  types.reserve(static_cast<size_t>(num_layers));
  for (int64_t layer = 0; layer < num_layers; ++layer)
    types.push_back((layer + 1) % pattern == 0 ? LayerType::kFull : LayerType::kSliding);
  return types;
}

Result<std::vector<LayerType>> types_by_architecture(const ConfigFields& fields, int64_t num_layers) {
  auto model_type = fields.text({"model_type"}, "");
  if (!model_type) return model_type.status();
  const bool alternates = *model_type == "gemma2" || *model_type == "gpt_oss";
  const bool gemma3 = *model_type == "gemma3" || *model_type == "gemma3_text" || *model_type == "gemma4_text";
  const int64_t usual = alternates ? 2 : gemma3 ? 6 : *model_type == "cohere2" ? 4 : 0;
  auto pattern = fields.whole({"sliding_window_pattern", "_sliding_window_pattern"}, 1, usual);
  if (!pattern) return pattern.status();
  if (*pattern > 0) return patterned_types(num_layers, *pattern);
  // Qwen: layers from max_window_layers on slide. Without that field (Mistral, Phi-3): all of them.
  auto first = fields.whole({"max_window_layers"}, 0, 0);
  if (!first) return first.status();
  std::vector<LayerType> types(static_cast<size_t>(num_layers), LayerType::kSliding);
  for (int64_t layer = 0; layer < std::min(*first, num_layers); ++layer)
    types[static_cast<size_t>(layer)] = LayerType::kFull;
  return types;
}

// Gemma 4: full layers have head sizes and KV heads of their own.
Status apply_global_shape(const ConfigFields& fields, AttentionSpec& spec) {
  auto head_dim = fields.whole({"global_head_dim"}, 1, spec.head_dim);
  if (!head_dim) return head_dim.status();
  auto kv_heads = fields.whole({"num_global_key_value_heads"}, 1, spec.num_kv_heads);
  if (!kv_heads) return kv_heads.status();
  spec.head_dim = spec.head_dim_v = static_cast<int32_t>(*head_dim);
  spec.num_kv_heads = static_cast<int32_t>(*kv_heads);
  return Status::ok();
}

}  // namespace

Result<std::vector<AttentionSpec>> layer_specs(const ConfigFields& fields, const AttentionSpec& base,
                                               std::vector<std::string>& notes) {
  constexpr int64_t kMostLayers = 10000;  // a config that says more is broken, and would cost memory
  auto num_layers = fields.whole({"num_hidden_layers", "n_layer", "n_layers", "num_layers"}, 1);
  if (!num_layers) return num_layers.status();
  if (*num_layers > kMostLayers)
    return invalid_argument(
        fmt::format("{}.num_hidden_layers is {}; allowed: 1..{}", fields.prefix(), *num_layers, kMostLayers));
  std::vector<AttentionSpec> specs(static_cast<size_t>(*num_layers), base);
  if (base.mla.enabled()) return specs;
  auto window = fields.whole({"sliding_window", "sliding_window_size"}, 1, 0);
  if (!window) return window.status();
  auto use_window = fields.flag({"use_sliding_window"}, true);
  if (!use_window) return use_window.status();
  const json* list = fields.find({"layer_types"});
  const bool slides = *window > 0 && *use_window;
  auto types = list != nullptr ? listed_types(fields, *list, *num_layers)
               : slides        ? types_by_architecture(fields, *num_layers)
                               : Result<std::vector<LayerType>>(std::vector<LayerType>(specs.size(), LayerType::kFull));
  if (!types) return types.status();
  bool chunked = false;
  for (size_t layer = 0; layer < specs.size(); ++layer) {
    const LayerType type = (*types)[layer];
    chunked |= type == LayerType::kChunked;
    if (type == LayerType::kSliding && slides) specs[layer].sliding_window = static_cast<int32_t>(*window);
    if (type == LayerType::kFull) SEXTANT_RETURN_IF_ERROR(apply_global_shape(fields, specs[layer]));
  }
  if (chunked) notes.push_back("layers with chunked_attention are taken as full attention");
  return specs;
}

}  // namespace sextant::model
