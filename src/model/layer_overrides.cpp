// What single layers, or the layers of one type, say instead of the model's own numbers.
#include "model/layer_overrides.h"

#include <fmt/format.h>

#include <array>
#include <charconv>

#include "model/attention_facts.h"
#include "model/config_rules.h"
#include "types/json_text.h"

namespace sextant::model {

using nlohmann::json;

// An override of one name replaces all.
const std::vector<ConfigFields::Names>& head_fields() {
  static const std::vector<ConfigFields::Names> kFields = {
      {"num_attention_heads", "n_head", "n_heads", "num_heads"},
      {"num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads", "num_attention_groups",
       "multi_query_group_num", "num_multi_query_heads", "multi_query", "multi_query_attention"},
      {"head_dim", "kv_channels", "attention_head_dim", "d_kv", "d_head", "attention_head_size", "dim_head",
       "hidden_size_per_head"},
      {"v_head_dim"},
      {"sliding_window", "sliding_window_size", "attention_window_size"}};
  return kFields;
}

namespace {

// What a layer's shape comes from, beside the heads.
constexpr std::array<const char*, 37> kShapeFields = {"encoder_attention_heads",
                                                      "attention_heads",
                                                      "embed_dim",
                                                      "dim",
                                                      "hidden_size",
                                                      "n_embd",
                                                      "n_embed",
                                                      "d_model",
                                                      "model_dim",
                                                      "emb_dim",
                                                      "attn_config",
                                                      "n_shared_head",
                                                      "new_decoder_architecture",
                                                      "kv_lora_rank",
                                                      "use_mla",
                                                      "qk_nope_head_dim",
                                                      "qk_rope_head_dim",
                                                      "rope_scaling",
                                                      "rope_parameters",
                                                      "query_pre_attn_scalar",
                                                      "attention_multiplier",
                                                      "attn_output_multiplier",
                                                      "scale_attn_weights",
                                                      "scale_attn_by_inverse_layer_idx",
                                                      "mup_scale_qk_dot_by_d",
                                                      "scale_qk_dot_by_d",
                                                      "mup_attn_multiplier",
                                                      "mup_use_scaling",
                                                      "intra_bottleneck_size",
                                                      "true_hidden_size",
                                                      "attention_hidden_size",
                                                      "window_size",
                                                      "local_attention",
                                                      "attention_chunk_size",
                                                      "use_sliding_window",
                                                      "add_swa_attention_sink_bias",
                                                      "add_full_attention_sink_bias"};

// Of the attention in Nemotron's block_configs; sparsify is about the weights.
constexpr std::array<std::string_view, 9> kBlockFields = {"no_op",
                                                          "replace_with_linear",
                                                          "sparsify",
                                                          "n_heads_in_group",
                                                          "num_key_value_heads",
                                                          "window_length",
                                                          "num_sink_tokens",
                                                          "use_prefill_window_in_sink_attention",
                                                          "unshifted_sink"};

bool makes_shape(const std::string& name) {
  for (const ConfigFields::Names& names : head_fields())
    if (std::find(names.begin(), names.end(), name) != names.end()) return true;
  return std::find(kShapeFields.begin(), kShapeFields.end(), name) != kShapeFields.end();
}

// A number under the first of its names.
std::string first_name(const std::string& name) {
  for (const ConfigFields::Names& names : head_fields())
    if (std::find(names.begin(), names.end(), name) != names.end()) return names.front();
  return name;
}

void set(LayerOverrides& overrides, const std::string& name, const json& value) {
  if (!value.is_null()) overrides[name] = value;
}

// A list with one entry a layer that stands where a number usually does.
Status take_list(const ConfigFields& fields, const char* name, const char* usual, size_t layer, size_t num_layers,
                 LayerOverrides& overrides) {
  const json* list = fields.given({name});
  if (list == nullptr || !list->is_array()) return Status::ok();
  if (list->size() != num_layers) return fields.error(name, *list, fmt::format("{} numbers, one a layer", num_layers));
  set(overrides, usual, (*list)[layer]);
  return Status::ok();
}

// {"05": {"head_dim": 32}}: transformers pads the numbers of layers with zeros.
Result<std::map<size_t, ConfigFields>> layer_configs(const ConfigFields& fields, size_t num_layers) {
  std::map<size_t, ConfigFields> configs;
  auto all = fields.section("per_layer_config");
  if (!all) return all.status();
  for (const auto& [key, value] : all->object().items()) {
    size_t layer = num_layers;
    const char* end = key.data() + key.size();
    const auto [stop, error] = std::from_chars(key.data(), end, layer);
    if (error != std::errc() || stop != end || layer >= num_layers)
      return all->error(key, value, fmt::format("keys 0..{} (a layer)", num_layers - 1));
    auto own = all->section(key);
    if (!own) return own.status();
    if (!configs.emplace(layer, std::move(*own)).second)
      return all->error(key, value, fmt::format("layer {} once", layer));
  }
  return configs;
}

// Fields of one layer. What does not touch attention may differ as it likes.
Status take_layer_config(const ConfigFields& own, LayerOverrides& overrides, std::string& type) {
  for (const auto& [name, value] : own.object().items()) {
    if (name == "skip") {
      if (!value.is_array()) return own.error(name, value, "a list of strings");
      for (const json& part : value) {
        if (!part.is_string()) return own.error(name, value, "a list of strings");
        if (sounds_like_attention(part.get<std::string>())) type = "no_attention";
      }
    } else if (makes_shape(name)) {
      overrides[first_name(name)] = value;
    } else if (!is_beside_attention(name)) {
      return own.error(name, value,
                       "num_attention_heads, num_key_value_heads, head_dim, v_head_dim, kv_lora_rank, "
                       "qk_nope_head_dim, qk_rope_head_dim, sliding_window, attention_chunk_size, skip");
    }
  }
  return Status::ok();
}

// Sliding layers may have heads of their own (MiMo, Inkling, Step, dots3, Baichuan-M1), full ones too (Gemma 4).
Status take_type_shape(const ConfigFields& fields, const json& facts, const std::string& as,
                       LayerOverrides& overrides) {
  // A config that speaks of single layers has said what its class would assume.
  const bool by_layer = fields.given({"per_layer_config"}) != nullptr;
  const auto take = [&](const ConfigFields& from, const char* theirs, const char* usual) {
    const json* value = from.find({theirs});
    if (by_layer) value = from.given({theirs});
    if (value != nullptr) set(overrides, usual, *value);
  };
  if (as == "sliding") {
    take(fields, "swa_num_attention_heads", "num_attention_heads");
    take(fields, "num_sliding_attention_heads", "num_attention_heads");
    take(fields, "num_swa_attention_heads", "num_attention_heads");
    const int64_t times = facts.value("sliding_kv_times", int64_t{1});
    if (times > 1) {  // MiMo, where its config does not say the number itself
      auto heads = fields.whole({"num_key_value_heads"}, 1, 1);
      if (!heads) return heads.status();
      set(overrides, "num_key_value_heads", *heads * times);
    }
    take(fields, "swa_num_key_value_heads", "num_key_value_heads");
    take(fields, "num_swa_key_value_heads", "num_key_value_heads");
    take(fields, "swa_head_dim", "head_dim");
    take(fields, "swa_v_head_dim", "v_head_dim");
    if (is_mla(fields)) {
      take(fields, "swa_kv_lora_rank", "kv_lora_rank");
      take(fields, "swa_qk_nope_head_dim", "qk_nope_head_dim");
      take(fields, "swa_qk_rope_head_dim", "qk_rope_head_dim");
      const json whole = overrides.value("head_dim", json()), nope = overrides.value("qk_nope_head_dim", json());
      if (!overrides.contains("qk_rope_head_dim") && whole.is_number_integer() && nope.is_number_integer())
        overrides["qk_rope_head_dim"] = whole.get<int64_t>() - nope.get<int64_t>();
    }
    auto other = fields.section("attention_other_setting");
    if (!other) return other.status();
    auto kind = other->text({"attention_type"}, "sliding_attention");
    if (!kind) return kind.status();
    if (*kind != "sliding_attention") return other->error("attention_type", *kind, "sliding_attention");
    take(*other, "num_attention_heads", "num_attention_heads");
    take(*other, "num_attention_groups", "num_key_value_heads");
    take(*other, "head_dim", "head_dim");
  } else if (as == "full" && !by_layer) {
    take(fields, "global_head_dim", "head_dim");
    // Gemma 4 gates its KV heads of full layers by a flag.
    auto gate = fields.flag({"attention_k_eq_v"}, !facts.value("gated_global_heads", false));
    if (!gate) return gate.status();
    if (*gate) take(fields, "num_global_key_value_heads", "num_key_value_heads");
  }
  return Status::ok();
}

// Nemotron's searched models: {"attention": {"no_op": false, "n_heads_in_group": 8}} for every layer.
Status take_block_config(const ConfigFields& fields, size_t layer, size_t num_layers, LayerOverrides& overrides,
                         std::string& type) {
  const json* blocks = fields.given({"block_configs"});
  if (blocks == nullptr) return Status::ok();
  if (!blocks->is_array() || blocks->size() != num_layers || !(*blocks)[layer].is_object())
    return fields.error("block_configs", *blocks, fmt::format("{} objects, one a layer", num_layers));
  const std::string prefix = fmt::format("{}.block_configs[{}]", fields.prefix(), layer);
  auto attention = ConfigFields((*blocks)[layer], prefix).section("attention");
  if (!attention) return attention.status();
  // Mamba in the place of attention, or what nobody has named yet.
  for (const auto& [name, value] : attention->object().items()) {
    const bool known = std::find(kBlockFields.begin(), kBlockFields.end(), name) != kBlockFields.end();
    if (known || value.is_null() || value == false) continue;
    if (name != "mamba") return attention->error(name, value, "null, or one of the fields of attention that are known");
    type = "mamba";
  }
  auto group = attention->whole({"n_heads_in_group"}, 1, 0);
  if (!group) return group.status();
  auto heads = fields.whole({"num_attention_heads"}, 1);
  if (!heads) return heads.status();
  if (*group > 0 && *heads % *group != 0)
    return attention->error("n_heads_in_group", *group, fmt::format("a divisor of num_attention_heads ({})", *heads));
  if (*group > 0) set(overrides, "num_key_value_heads", *heads / *group);
  auto kv_heads = attention->whole({"num_key_value_heads"}, 1, 0);
  if (!kv_heads) return kv_heads.status();
  if (*kv_heads > 0) set(overrides, "num_key_value_heads", *kv_heads);
  auto window = attention->whole({"window_length"}, 1, 0);
  if (!window) return window.status();
  auto sinks = attention->whole({"num_sink_tokens"}, 0, 0);
  if (!sinks) return sinks.status();
  if (*window > 0) {
    type = *sinks > 0 ? "window_and_first_tokens" : "sliding_attention";
    set(overrides, "sliding_window", *window);
  }
  auto none = attention->flag({"no_op"}, false);
  if (!none) return none.status();
  auto linear = attention->flag({"replace_with_linear"}, false);
  if (!linear) return linear.status();
  if (*none) type = "no_attention";
  if (*linear) type = "linear_layer";
  return Status::ok();
}

// Windows that alternate among the sliding layers of a class: [null, 1024], null for the config's own (NeoMME).
std::vector<json> class_windows(const ConfigFields& fields, const json& facts, const std::vector<std::string>& types) {
  std::vector<json> windows(types.size());
  const json cycle = facts.value("sliding_windows", json::array());
  size_t sliding = 0;
  for (size_t layer = 0; layer < types.size() && !cycle.empty(); ++layer)
    if (layer_type_facts(types[layer])->at("as") == "sliding") windows[layer] = cycle[sliding++ % cycle.size()];
  if (fields.given({"per_layer_config"}) != nullptr) windows.assign(types.size(), nullptr);
  return windows;
}

}  // namespace

json shape_fields(const json& config) {
  json fields = json::object();
  for (const auto& [name, value] : config.items())
    if (makes_shape(name)) fields[name] = value;
  return fields;
}

json apply_overrides(const LayerOverrides& overrides, const json& shape) {
  json fields = shape;
  for (const auto& [field, value] : overrides.items()) {
    for (const ConfigFields::Names& names : head_fields())
      if (names.front() == field)
        for (const std::string& name : names) fields.erase(name);
    fields[field] = value;
  }
  return fields;
}

Result<LayerSources> LayerSources::make(const ConfigFields& fields, const json& facts,
                                        const std::vector<std::string>& types) {
  LayerSources sources(fields, facts, types.size());
  auto configs = layer_configs(fields, types.size());
  if (!configs) return configs.status();
  sources.layer_configs_ = std::move(*configs);
  sources.windows_ = class_windows(fields, facts, types);
  return sources;
}

Result<LayerOverrides> LayerSources::overrides_of(size_t layer, std::string& type) const {
  LayerOverrides overrides = json::object();
  SEXTANT_RETURN_IF_ERROR(take_block_config(fields_, layer, num_layers_, overrides, type));
  const std::string as = layer_type_facts(type)->at("as").get<std::string>();
  if (as == "none") return overrides;
  SEXTANT_RETURN_IF_ERROR(take_type_shape(fields_, facts_, as, overrides));
  set(overrides, "sliding_window", windows_[layer]);
  for (const auto& [list, usual] :
       std::vector<std::pair<const char*, const char*>>{{"num_attention_heads_per_layer", "num_attention_heads"},
                                                        {"num_key_value_heads_per_layer", "num_key_value_heads"},
                                                        {"num_query_heads", "num_attention_heads"},
                                                        {"num_attention_heads", "num_attention_heads"},
                                                        {"num_key_value_heads", "num_key_value_heads"},
                                                        {"num_kv_heads", "num_key_value_heads"}})
    SEXTANT_RETURN_IF_ERROR(take_list(fields_, list, usual, layer, num_layers_, overrides));
  const auto own = layer_configs_.find(layer);
  if (own != layer_configs_.end()) SEXTANT_RETURN_IF_ERROR(take_layer_config(own->second, overrides, type));
  return overrides;
}

}  // namespace sextant::model
