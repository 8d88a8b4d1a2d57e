// Every layer of a part: its type, its heads, its window.
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <set>

#include "model/attention_facts.h"
#include "model/config_rules.h"
#include "types/json_text.h"

namespace sextant::model {

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

using nlohmann::json;

// What one layer says instead of the model's own numbers, by the first of those names.
class Overrides {
 public:
  void set(const std::string& field, const json& value) {
    if (!value.is_null()) values_[field] = value;
  }
  // The config with these in place of every name of the same number.
  json apply(const json& config) const {
    json fields = config;
    for (const auto& [field, value] : values_.items()) {
      for (const ConfigFields::Names& names : head_fields())
        if (names.front() == field)
          for (const std::string& name : names) fields.erase(name);
      fields[field] = value;
    }
    return fields;
  }
  const json& values() const { return values_; }

 private:
  json values_ = json::object();
};

// The few fields that a layer's shape comes from: copied for layers that differ, so they must stay few.
json shape_fields(const json& config) {
  json fields = json::object();
  const auto keep = [&](const std::string& name) {
    if (config.contains(name)) fields[name] = config[name];
  };
  for (const ConfigFields::Names& names : head_fields())
    for (const std::string& name : names) keep(name);
  for (const char* name : {"hidden_size",
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
                           "intra_bottleneck_size",
                           "true_hidden_size",
                           "attention_hidden_size",
                           "window_size",
                           "local_attention",
                           "attention_chunk_size",
                           "use_sliding_window",
                           "add_swa_attention_sink_bias",
                           "add_full_attention_sink_bias"})
    keep(name);
  return fields;
}

// A list with one entry a layer that stands where a number usually does.
Status take_list(const ConfigFields& fields, const char* name, const char* usual, size_t layer, size_t num_layers,
                 Overrides& overrides) {
  const json* list = fields.given({name});
  if (list == nullptr || !list->is_array()) return Status::ok();
  if (list->size() != num_layers) return fields.error(name, *list, fmt::format("{} numbers, one a layer", num_layers));
  overrides.set(usual, (*list)[layer]);
  return Status::ok();
}

// {"1": {"head_dim": 32}}: fields of one layer.
Status take_layer_config(const ConfigFields& fields, size_t layer, Overrides& overrides) {
  auto config = fields.section("per_layer_config");
  if (!config) return config.status();
  auto own = config->section(std::to_string(layer));
  if (!own) return own.status();
  for (const auto& [name, value] : own->object().items()) {
    bool known = field_knowledge(name, "") == FieldKnowledge::kHarmless;
    for (const ConfigFields::Names& names : head_fields()) known = known || names.front() == name;
    if (!known)
      return own->error(name, value, "num_attention_heads, num_key_value_heads, head_dim, v_head_dim, sliding_window");
    overrides.set(name, value);
  }
  return Status::ok();
}

// Sliding layers may have heads of their own (MiMo, Inkling, Step), full ones too (Gemma 4).
Status take_type_shape(const ConfigFields& fields, const json& facts, const std::string& as, Overrides& overrides) {
  const auto take = [&](const ConfigFields& from, const char* theirs, const char* usual) {
    if (const json* value = from.find({theirs})) overrides.set(usual, *value);
  };
  if (as == "sliding") {
    take(fields, "swa_num_attention_heads", "num_attention_heads");
    take(fields, "num_sliding_attention_heads", "num_attention_heads");
    const int64_t times = facts.value("sliding_kv_times", int64_t{1});
    if (times > 1) {  // MiMo, where its config does not say the number itself
      auto heads = fields.whole({"num_key_value_heads"}, 1, 1);
      if (!heads) return heads.status();
      overrides.set("num_key_value_heads", *heads * times);
    }
    take(fields, "swa_num_key_value_heads", "num_key_value_heads");
    take(fields, "swa_head_dim", "head_dim");
    take(fields, "swa_v_head_dim", "v_head_dim");
    auto other = fields.section("attention_other_setting");
    if (!other) return other.status();
    take(*other, "num_attention_heads", "num_attention_heads");
    take(*other, "num_attention_groups", "num_key_value_heads");
    take(*other, "head_dim", "head_dim");
  } else if (as == "full" && fields.given({"per_layer_config"}) == nullptr) {
    take(fields, "global_head_dim", "head_dim");
    // Gemma 4 gates its KV heads of full layers by a flag.
    auto gate = fields.flag({"attention_k_eq_v"}, !facts.value("gated_global_heads", false));
    if (!gate) return gate.status();
    if (*gate) take(fields, "num_global_key_value_heads", "num_key_value_heads");
  }
  return Status::ok();
}

// Nemotron's searched models: {"attention": {"no_op": false, "n_heads_in_group": 8}} for every layer.
Status take_block_config(const ConfigFields& fields, size_t layer, size_t num_layers, Overrides& overrides,
                         std::string& type) {
  const json* blocks = fields.given({"block_configs"});
  if (blocks == nullptr) return Status::ok();
  if (!blocks->is_array() || blocks->size() != num_layers || !(*blocks)[layer].is_object())
    return fields.error("block_configs", *blocks, fmt::format("{} objects, one a layer", num_layers));
  const std::string prefix = fmt::format("{}.block_configs[{}]", fields.prefix(), layer);
  auto attention = ConfigFields((*blocks)[layer], prefix).section("attention");
  if (!attention) return attention.status();
  auto none = attention->flag({"no_op"}, false);
  if (!none) return none.status();
  auto linear = attention->flag({"replace_with_linear"}, false);
  if (!linear) return linear.status();
  if (*none) type = "no_attention";
  if (*linear) type = "linear_layer";
  auto group = attention->whole({"n_heads_in_group"}, 1, 0);
  if (!group) return group.status();
  auto heads = fields.whole({"num_attention_heads"}, 1);
  if (!heads) return heads.status();
  if (*group > 0 && *heads % *group != 0)
    return attention->error("n_heads_in_group", *group, fmt::format("a divisor of num_attention_heads ({})", *heads));
  if (*group > 0) overrides.set("num_key_value_heads", *heads / *group);
  auto window = attention->whole({"window_length"}, 1, 0);
  if (!window) return window.status();
  if (*window > 0) {
    type = "sliding_attention";
    overrides.set("sliding_window", *window);
  }
  auto sparse = attention->flag({"sparsify"}, false);
  if (sparse && *sparse) type = "sparse_attention";
  return Status::ok();
}

Result<bool> has_sinks(const ConfigFields& fields, const json& facts, const std::string& as) {
  const std::string known = facts.value("sinks", std::string());
  const bool usual = known == "all" || known == as;
  return fields.flag({as == "sliding" ? "add_swa_attention_sink_bias" : "add_full_attention_sink_bias"}, usual);
}

// The one place where masks are mapped onto AttentionSpec.
void set_window(const json& facts, int64_t window, ModelLayer& layer) {
  if (layer.attention.causal) {
    layer.attention.sliding_window = static_cast<int32_t>(window);
    return;
  }
  const std::string sides = facts.value("window", std::string());
  const bool split = sides == "in two";  // T5Gemma 2: the query itself counts to the left
  const int64_t right = split || sides == "both sides together" ? window / 2 : window;
  layer.attention.window_left = static_cast<int32_t>(split ? (window + 1) / 2 - 1 : right);
  layer.attention.window_right = static_cast<int32_t>(right);
}

Result<int64_t> window_of(const ConfigFields& fields, const json& facts) {
  auto used = fields.flag({"use_sliding_window"}, true);
  if (!used) return used.status();
  const std::string own = facts.value("window_from", std::string("sliding_window"));
  // MiMo counts the token itself on top.
  auto more = fields.whole({"sliding_window_size", "attention_window_size"}, *used ? 1 : 0, 0);
  if (!more) return more.status();
  if (*more > 0) *more += facts.value("window_size_plus", int64_t{0});
  auto window = fields.whole({own}, *used ? 1 : 0, *more);
  if (!window) return window.status();
  *window /= facts.value("window_divide", int64_t{1});  // ModernBERT counts both sides
  if (own != "sliding_window") window = fields.whole({"sliding_window"}, *used ? 1 : 0, *window);
  return *used ? window : Result<int64_t>(int64_t{0});
}

// A layer type that needs a size, and none is there: a null (or a switch) says that there is no window, silence says
// nothing.
Status without_size(const ConfigFields& fields, const std::string& name, const std::string& type,
                    std::vector<std::string>& notes) {
  const json* used = fields.given({"use_sliding_window"});
  const bool off = used != nullptr && *used == false && name != "attention_chunk_size";
  if (!off && !fields.object().contains(name))
    return invalid_argument(fmt::format("{}.{} is missing; allowed: a whole number >= 1, as there are layers with {}",
                                        fields.prefix(), name, type));
  notes.push_back(fmt::format("layers with {} have no {}: they see everything", type, name));
  return Status::ok();
}

// One layer of a type, with its overrides.
Result<ModelLayer> make_layer(const ConfigFields& fields, const json& facts, const AttentionSpec& base,
                              const std::string& type, int64_t index, std::vector<std::string>& notes) {
  const json& kind = *layer_type_facts(type);
  const std::string as = kind.at("as").get<std::string>();
  ModelLayer layer;
  layer.attention = base;
  if (as == "none") {
    layer.attends = false;
    layer.not_served = kind.at("name").get<std::string>();
    return layer;
  }
  SEXTANT_RETURN_IF_ERROR(apply_heads(fields, facts, notes, layer.attention));
  SEXTANT_RETURN_IF_ERROR(apply_scale(fields, facts, index, layer.attention));
  auto sinks = has_sinks(fields, facts, as);
  if (!sinks) return sinks.status();
  layer.attention.has_sinks = *sinks;
  layer.crosses = as == "cross";
  if (as == "unserved" || as == "cross") {
    layer.not_served = kind.at("name").get<std::string>();
  } else if (as == "sliding") {
    auto window = window_of(fields, facts);
    if (!window) return window.status();
    if (*window > 0)
      set_window(facts, *window, layer);
    else
      SEXTANT_RETURN_IF_ERROR(
          without_size(fields, facts.value("window_from", std::string("sliding_window")), type, notes));
  } else if (as == "chunked") {
    auto size = fields.whole({"attention_chunk_size"}, 1, 0);
    if (!size) return size.status();
    if (*size > 0)
      layer.attention.attention_chunk_size = static_cast<int32_t>(*size);
    else
      SEXTANT_RETURN_IF_ERROR(without_size(fields, "attention_chunk_size", type, notes));
  }
  if (layer.not_served.empty()) layer.not_served = facts.value("not_served", std::string());
  // The spec's ALiBi grows with the key's position: to the right of the query it would reward distance.
  if (layer.not_served.empty() && layer.attention.has_alibi && !layer.attention.causal)
    layer.not_served = "ALiBi by distance on either side";
  return layer;
}

// Gemma 3n and 4: the last layers read the keys and values of the last layer before them that has their type.
Status share_kv(const ConfigFields& fields, const std::vector<std::string>& types, std::vector<ModelLayer>& layers,
                std::vector<std::string>& notes) {
  auto shared = fields.whole({"num_kv_shared_layers"}, 0, 0);
  if (!shared) return shared.status();
  const auto count = static_cast<int64_t>(layers.size());
  const int64_t first = std::max<int64_t>(count - *shared, 0);
  int64_t sharing = 0;
  for (int64_t layer = first; layer < count && *shared > 0; ++layer)
    for (int64_t source = first - 1; source >= 0; --source)
      if (types[static_cast<size_t>(source)] == types[static_cast<size_t>(layer)]) {
        layers[static_cast<size_t>(layer)].shares_kv_with = static_cast<int32_t>(source);
        ++sharing;
        break;
      }
  // Hunyuan's cross-layer attention: one set of keys and values for `cla_share_factor` layers.
  auto cla = fields.flag({"use_cla"}, false);
  if (!cla) return cla.status();
  auto factor = fields.whole({"cla_share_factor"}, 1, 1);
  if (!factor) return factor.status();
  for (int64_t layer = 0; layer < count && *cla; ++layer)
    if (layer % *factor != 0) {
      layers[static_cast<size_t>(layer)].shares_kv_with = static_cast<int32_t>(layer - layer % *factor);
      ++sharing;
    }
  if (sharing > 0)
    notes.push_back(fmt::format("{} of {} layers read the keys and values of an earlier layer", sharing, count));
  return Status::ok();
}

// Numbers are numbers, also where nothing needs them.
Status check_types(const ConfigFields& fields) {
  for (const auto& [name, min] : std::initializer_list<std::pair<const char*, int64_t>>{{"num_attention_heads", 1},
                                                                                        {"num_key_value_heads", 1},
                                                                                        {"head_dim", 0},
                                                                                        {"sliding_window", 0},
                                                                                        {"sliding_window_size", 0},
                                                                                        {"max_window_layers", 0},
                                                                                        {"attention_chunk_size", 0},
                                                                                        {"index_topk", 0}}) {
    const json* value = fields.given({name});
    const bool by_layer =
        value != nullptr && value->is_array() && std::string_view(name).find("_heads") != std::string_view::npos;
    if (value == nullptr || by_layer) continue;  // OpenELM lists one a layer
    auto number = fields.whole({name}, min, 0);
    if (!number) return number.status();
  }
  return Status::ok();
}

// Fields that change attention where a model type has them: given, and nobody asked for them here.
void note_unread(const ConfigPart& part, const std::set<std::string>& read, std::vector<std::string>& notes) {
  for (const json& field : attention_facts().at("deciding_fields")) {
    const std::string name = field.get<std::string>();
    const json* value = ConfigFields(part.fields).given({name});
    if (value == nullptr || read.count(name) > 0 || *value == false || *value == 0) continue;
    if ((value->is_array() || value->is_object()) && value->empty()) continue;
    notes.push_back(
        fmt::format("{} is {}: models of this type are not known to use it, so it is not taken into account", name,
                    shown_json(*value)));
  }
}

}  // namespace

Result<std::vector<ModelLayer>> part_layers(const ConfigPart& part, std::vector<std::string>& notes) {
  static const json kNone = json::object();
  const json& facts = facts_of(part.model_type);
  const json& defaults = facts.contains("defaults") ? facts.at("defaults") : kNone;
  FieldUse use;
  const ConfigFields fields(part.fields, part.prefix, &defaults, &use);
  SEXTANT_RETURN_IF_ERROR(check_types(ConfigFields(part.fields, part.prefix)));
  auto base = base_spec(fields, facts, notes);
  if (!base) return base.status();
  auto types = layer_types(fields, facts, notes);
  if (!types) {  // heads are what a config is about: say first what is wrong there
    AttentionSpec heads;
    SEXTANT_RETURN_IF_ERROR(apply_heads(fields, facts, notes, heads));
    return types.status();
  }
  if (facts.value("last_is_full", false)) types->back() = "full_attention";
  const json shape = shape_fields(part.fields);
  auto by_layer = fields.flag({"scale_attn_by_inverse_layer_idx"}, false);
  if (!by_layer) return by_layer.status();
  std::map<std::string, ModelLayer> made;  // layers that are alike are made once
  std::vector<ModelLayer> layers;
  for (size_t layer = 0; layer < types->size(); ++layer) {
    std::string type = (*types)[layer];
    Overrides overrides;
    SEXTANT_RETURN_IF_ERROR(take_block_config(fields, layer, types->size(), overrides, type));
    const std::string as = layer_type_facts(type)->at("as").get<std::string>();
    if (as != "none") {
      SEXTANT_RETURN_IF_ERROR(take_type_shape(fields, facts, as, overrides));
      for (const auto& [list, usual] :
           std::vector<std::pair<const char*, const char*>>{{"num_attention_heads_per_layer", "num_attention_heads"},
                                                            {"num_key_value_heads_per_layer", "num_key_value_heads"},
                                                            {"num_query_heads", "num_attention_heads"},
                                                            {"num_attention_heads", "num_attention_heads"},
                                                            {"num_key_value_heads", "num_key_value_heads"},
                                                            {"num_kv_heads", "num_key_value_heads"}})
        SEXTANT_RETURN_IF_ERROR(take_list(fields, list, usual, layer, types->size(), overrides));
      SEXTANT_RETURN_IF_ERROR(take_layer_config(fields, layer, overrides));
    }
    const std::string key = type + overrides.values().dump() + (*by_layer ? std::to_string(layer) : "");
    auto found = made.find(key);
    if (found == made.end()) {
      const json own = overrides.apply(shape);
      const ConfigFields own_fields(own, part.prefix, &defaults, &use);
      auto one = make_layer(own_fields, facts, *base, type, static_cast<int64_t>(layer), notes);
      if (!one) return one.status();
      one->part = part.name;
      found = made.emplace(key, std::move(*one)).first;
    }
    layers.push_back(found->second);
  }
  SEXTANT_RETURN_IF_ERROR(share_kv(fields, *types, layers, notes));
  note_unread(part, use.read, notes);
  note_assumed(part, use, layers, notes);
  return layers;
}

}  // namespace sextant::model
