// Every layer of a part: its type, its heads, its window.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "model/attention_facts.h"
#include "model/config_rules.h"
#include "model/layer_overrides.h"
#include "types/json_text.h"

namespace sextant::model {

namespace {

using nlohmann::json;

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
  if (*shared >= count && fields.given({"num_kv_shared_layers"}) != nullptr)
    return fields.error("num_kv_shared_layers", *shared,
                        fmt::format("0..{}, as there are {} layers", count - 1, count));
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

// Fields of which the model's class knows one value alone, or the ones that are served here.
Status check_fixed(const ConfigFields& fields, const json& facts) {
  const json fixed = facts.value("must_be", json::object());
  for (const auto& [name, values] : fixed.items()) {
    const json* value = fields.given({name});
    if (value == nullptr || std::find(values.begin(), values.end(), *value) != values.end()) continue;
    std::string allowed;
    for (const json& one : values) allowed += (allowed.empty() ? "" : ", ") + shown_json(one);
    return fields.error(name, *value, allowed);
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
  SEXTANT_RETURN_IF_ERROR(check_fixed(fields, facts));
  auto base = base_spec(fields, facts, notes);
  if (!base) return base.status();
  auto types = layer_types(fields, facts, notes);
  if (!types) {  // heads are what a config is about: say first what is wrong there
    AttentionSpec heads;
    SEXTANT_RETURN_IF_ERROR(apply_heads(fields, facts, notes, heads));
    return types.status();
  }
  if (facts.value("last_is_full", false)) types->back() = "full_attention";
  auto sources = LayerSources::make(fields, facts, *types);
  if (!sources) return sources.status();
  const json shape = shape_fields(part.fields);
  auto by_layer = fields.flag({"scale_attn_by_inverse_layer_idx"}, false);
  if (!by_layer) return by_layer.status();
  std::map<std::string, ModelLayer> made;  // layers that are alike are made once
  std::vector<ModelLayer> layers;
  for (size_t layer = 0; layer < types->size(); ++layer) {
    std::string type = (*types)[layer];
    auto overrides = sources->overrides_of(layer, type);
    if (!overrides) return overrides.status();
    const std::string key = type + overrides->dump() + (*by_layer ? std::to_string(layer) : "");
    auto found = made.find(key);
    if (found == made.end()) {
      const json own = apply_overrides(*overrides, shape);
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
