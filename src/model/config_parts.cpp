// Where in a config.json the attention layers stand. Models that see or hear nest the language model's shape; models
// with an encoder and a decoder describe two stacks; Mistral's own params.json names everything differently.
#include <fmt/format.h>

#include "model/attention_facts.h"
#include "model/config_rules.h"
#include "types/json_text.h"

namespace sextant::model {
namespace {

using nlohmann::json;

constexpr int kMostNesting = 4;  // thinker_config.text_config is two

std::string type_of(const json& config) {
  const auto type = config.find("model_type");
  return type != config.end() && type->is_string() ? type->get<std::string>() : "";
}

// A type that is no word would be read as none.
Status check_type(const json& config, const std::string& prefix) {
  const auto type = config.find("model_type");
  if (type == config.end() || type->is_null() || type->is_string()) return Status::ok();
  return ConfigFields(config, prefix).error("model_type", *type, "a string");
}

// Mistral's params.json, and the one that Meta ships beside Llama's weights.
bool is_params_json(const json& config) {
  return config.contains("dim") && config.contains("n_layers") && config.contains("n_heads") &&
         !config.contains("hidden_size");
}

json from_params_json(const json& params, std::vector<std::string>& notes) {
  json config = params;
  config["hidden_size"] = params["dim"];
  config.erase("dim");
  if (params.contains("max_seq_len")) config["max_position_embeddings"] = params["max_seq_len"];
  const auto window = params.find("sliding_window");
  const auto layers = params.find("n_layers");
  // A list of windows goes round the layers: [null, null, null, 4096].
  if (window != params.end() && window->is_array() && !window->empty() && layers->is_number_integer() && *layers > 0 &&
      *layers <= 10000) {
    json types = json::array();
    for (size_t layer = 0; layer < layers->get<size_t>(); ++layer) {
      const json& own = (*window)[layer % window->size()];
      types.push_back(own.is_null() ? "full_attention" : "sliding_attention");
      if (!own.is_null()) config["sliding_window"] = own;
    }
    config["layer_types"] = types;
  }
  if (type_of(config).empty()) notes.push_back("read as Mistral's params.json (dim, n_layers, n_heads)");
  return config;
}

void inherit(const json& outer, json& inner) {
  const bool named = inner.contains("dtype") || inner.contains("torch_dtype");
  for (const char* field : {"dtype", "torch_dtype"})
    if (!named && outer.contains(field)) inner[field] = outer[field];
}

// Parts beside the one that is read: their attention is not this model's answer, and that is said.
void note_other_parts(const json& config, const std::string& read, std::vector<std::string>& notes) {
  constexpr int kMostNamed = 12;
  std::string others;
  int count = 0;
  for (const auto& [name, value] : config.items()) {
    if (name == read || !value.is_object() || attention_facts().at("sections").contains(name)) continue;
    const ConfigFields fields(value);
    if (fields.given({"num_attention_heads", "num_heads", "n_heads", "n_head", "encoder_attention_heads",
                      "num_key_value_heads", "sliding_window", "text_config"}) == nullptr)
      continue;
    if (++count <= kMostNamed) others += (others.empty() ? "" : ", ") + name;
  }
  if (count > kMostNamed) others += fmt::format(" and {} more", count - kMostNamed);
  if (count > 0) notes.push_back(fmt::format("read: {}; not read: {}", read, others));
}

// Numbers of attention beside the part that is read: the part counts, as in transformers, and that is said.
void note_outer_numbers(const json& outer, const std::string& name, const json& part, const std::string& prefix,
                        std::vector<std::string>& notes) {
  std::string others;
  const auto look = [&](const std::string& field) {
    const auto value = outer.find(field);
    if (value == outer.end() || value->is_null() || value->is_object() || *value == false || *value == 0) return;
    const auto own = part.find(field);
    if (own != part.end() && *own == *value) return;
    others += fmt::format("{}{} {}", others.empty() ? "" : ", ", field, shown_json(*value));
  };
  for (const ConfigFields::Names& names : head_fields())
    for (const std::string& field : names)
      if (field != "sliding_window" && field != "sliding_window_size" && field != "attention_window_size") look(field);
  for (const char* field : {"num_hidden_layers", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim"}) look(field);
  for (const json& field : attention_facts().at("deciding_fields")) look(field.get<std::string>());
  if (!others.empty())
    notes.push_back(fmt::format("{}.{} counts; beside it and not taken into account: {}", prefix, name, others));
}

// What is said of a model for what is around its language part.
void note_outer(const std::string& model_type, std::vector<std::string>& notes) {
  for (const json& note : facts_of(model_type).value("notes", json::array())) notes.push_back(note.get<std::string>());
}

// The numbers that the outer class gives its language part, where the config leaves them out.
void fill_text(const json& outer_facts, json& part, std::vector<std::string>& notes) {
  std::string filled;
  const json defaults = outer_facts.value("text_defaults", json::object());
  for (const auto& [name, value] : defaults.items()) {
    if (part.contains(name)) continue;
    part[name] = value;
    filled += fmt::format("{}{} {}", filled.empty() ? "" : ", ", name, shown_json(value));
  }
  if (!filled.empty())
    notes.push_back(fmt::format("the config does not say {} of its language part: defaults of {}", filled,
                                outer_facts.value("from", std::string("the model's class"))));
}

struct Nested {
  json fields;
  std::string prefix;
  std::string model_type;
};

// Follows text_config, thinker_config, ... inwards.
Result<Nested> language_part(const json& config, std::vector<std::string>& notes) {
  Nested nested{config, "config", type_of(config)};
  SEXTANT_RETURN_IF_ERROR(check_type(config, nested.prefix));
  for (int level = 0; level < kMostNesting; ++level) {
    bool inner = false;
    for (const json& name_json : attention_facts().at("nested_parts")) {
      const std::string name = name_json.get<std::string>();
      const auto found = nested.fields.find(name);
      if (found == nested.fields.end() || found->is_null()) continue;
      // "decoder" beside an "encoder" is one of two stacks, not the language part.
      if (name == "decoder" && nested.fields.contains("encoder")) continue;
      if (!found->is_object()) {
        if (name == "decoder") continue;
        return ConfigFields(nested.fields, nested.prefix).error(name, *found, "an object");
      }
      note_other_parts(nested.fields, name, notes);
      note_outer(nested.model_type, notes);
      if (!nested.model_type.empty() && facts_of(nested.model_type).empty())
        notes.push_back(fmt::format("model_type {} is not in the table of known types: its {} is read for itself",
                                    shown_json(json(nested.model_type)), name));
      json part = *found;
      note_outer_numbers(nested.fields, name, part, nested.prefix, notes);
      inherit(nested.fields, part);
      if (facts_of(nested.model_type).value("text_merges", false)) fill_text(facts_of(nested.model_type), part, notes);
      SEXTANT_RETURN_IF_ERROR(check_type(part, nested.prefix + "." + name));
      const std::string named = type_of(part);
      const std::string usual = facts_of(nested.model_type).value("text", std::string());
      nested = {std::move(part), nested.prefix + "." + name, named.empty() ? usual : named};
      inner = true;
      break;
    }
    if (!inner) break;
  }
  // The shape stands beside the other parts, as older configs have it.
  const std::string usual = facts_of(nested.model_type).value("text", std::string());
  if (!usual.empty()) {
    note_outer(nested.model_type, notes);
    const bool both_read = nested.fields.contains("encoder") && nested.fields.contains("decoder");
    if (nested.prefix == "config" && !both_read) note_other_parts(nested.fields, "the top level", notes);
    const bool has_shape =
        ConfigFields(nested.fields).given({"hidden_size", "num_attention_heads", "num_hidden_layers"}) != nullptr;
    if (nested.prefix == "config" && !has_shape) fill_text(facts_of(nested.model_type), nested.fields, notes);
    nested.model_type = usual;
  }
  return nested;
}

// The part's own numbers under the usual names: {"num_hidden_layers": "encoder_layers"}.
json renamed(const json& config, const json& names, const json& defaults, std::set<std::string>& by_default) {
  json fields = config;
  for (const auto& [usual, theirs] : names.items()) {
    const json* value = nullptr;
    bool named = false;  // by the part's own name; a default of that name gives way to the usual name
    for (const json& name : theirs) {
      const auto given = config.find(name.get<std::string>());
      const auto standard = defaults.find(name.get<std::string>());
      named = given != config.end() && !given->is_null();
      if (named)
        value = &*given;
      else if (given == config.end() && standard != defaults.end())
        value = &*standard;
      if (value != nullptr) break;
    }
    if (value == nullptr || (!named && config.contains(usual))) continue;
    fields[usual] = *value;
    if (!named) by_default.insert(usual);
  }
  return fields;
}

const json& defaults_of(const json& facts) {
  static const json kNone = json::object();
  return facts.contains("defaults") ? facts.at("defaults") : kNone;
}

json own_names(const json& config, const json& facts, std::set<std::string>& by_default) {
  return facts.contains("names") ? renamed(config, facts.at("names"), defaults_of(facts), by_default) : config;
}

Result<bool> flag_of(const Nested& nested, const char* name, bool fallback) {
  return ConfigFields(nested.fields, nested.prefix).flag({name}, fallback);
}

Result<std::vector<ConfigPart>> two_stacks(const Nested& nested, std::vector<std::string>& notes) {
  std::vector<ConfigPart> parts;
  for (const char* name : {"encoder", "decoder"}) {
    json fields = nested.fields.at(name);
    if (!fields.is_object()) return ConfigFields(nested.fields, nested.prefix).error(name, fields, "an object");
    inherit(nested.fields, fields);
    auto inner = language_part(fields, notes);  // an encoder that sees has a text_config of its own
    if (!inner) return inner.status();
    const std::string type = inner->model_type.empty() ? nested.model_type + "_" + name : inner->model_type;
    const json& facts = facts_of(type);
    std::set<std::string> by_default;
    json own = own_names(inner->fields, facts, by_default);  // one half of a pair may be of a type that has both
    if (facts.contains("encoder_decoder") && facts.at("encoder_decoder").contains(name))
      own = renamed(own, facts.at("encoder_decoder").at(name), defaults_of(facts), by_default);
    parts.push_back({name, std::move(own), nested.prefix + "." + name, type, name == std::string("decoder"),
                     std::move(by_default)});
    if (name == std::string("encoder") && !parts.back().fields.contains("is_causal"))
      parts.back().fields["is_causal"] = false;
  }
  return parts;
}

}  // namespace

namespace {

// {"text_model_id": "meta-llama/..."}: the language model's numbers stand in a file of its own (Ultravox).
Status check_stands_here(const Nested& nested) {
  for (const auto& [field, says] : attention_facts().at("models_elsewhere").items()) {
    const auto name = nested.fields.find(field);
    if (name == nested.fields.end() || !name->is_string() || name->get_ref<const std::string&>().empty()) continue;
    if (ConfigFields(nested.fields).given({"num_attention_heads", "n_head", "n_heads", "num_heads"}) != nullptr)
      continue;
    return ConfigFields(nested.fields, nested.prefix).error(field, *name, says.get<std::string>());
  }
  return Status::ok();
}

// A window of -1 is none, as in flash attention (Grok 2, MPT).
void drop_windows_of_minus_one(json& fields) {
  for (const std::string& name : head_fields().back()) {
    const auto window = fields.find(name);
    if (window != fields.end() && window->is_number() && *window == -1) *window = nullptr;
  }
}

Result<std::vector<ConfigPart>> stacks_of(const json& config, std::vector<std::string>& notes) {
  auto nested = language_part(is_params_json(config) ? from_params_json(config, notes) : config, notes);
  if (!nested) return nested.status();
  const json& facts = facts_of(nested->model_type);
  if (facts.contains("refused"))
    return ConfigFields(nested->fields, nested->prefix)
        .error("model_type", nested->model_type,
               "a model of text tokens (" + facts.at("refused").get<std::string>() + ")");
  SEXTANT_RETURN_IF_ERROR(check_stands_here(*nested));
  if (nested->fields.contains("encoder") && nested->fields.contains("decoder") &&
      nested->fields["encoder"].is_object() && nested->fields["decoder"].is_object())
    return two_stacks(*nested, notes);
  note_other_parts(nested->fields, nested->prefix == "config" ? "the top level" : nested->prefix, notes);
  auto cross = flag_of(*nested, "add_cross_attention", facts.value("cross_attention", false));
  if (!cross) return cross.status();
  std::vector<ConfigPart> parts;
  if (!facts.contains("encoder_decoder")) {
    std::set<std::string> by_default;
    json own = own_names(nested->fields, facts, by_default);
    parts.push_back({"", std::move(own), nested->prefix, nested->model_type, *cross, std::move(by_default)});
    return parts;
  }
  auto both = flag_of(*nested, "is_encoder_decoder", true);
  if (!both) return both.status();
  const json& stacks = facts.at("encoder_decoder");
  const json& defaults = defaults_of(facts);
  for (const char* name : {"encoder", "decoder"}) {
    if (!stacks.contains(name)) continue;
    if (!*both && stacks.value("alone", std::string("decoder")) != name) continue;
    std::set<std::string> by_default;
    json own = renamed(nested->fields, stacks.at(name), defaults, by_default);
    ConfigPart part{name,
                    std::move(own),
                    nested->prefix,
                    nested->model_type,
                    name == std::string("decoder") && (*both || *cross),
                    std::move(by_default)};
    part.fields["is_causal"] = name == std::string("decoder");
    parts.push_back(std::move(part));
  }
  return parts;
}

}  // namespace

Result<std::vector<ConfigPart>> config_parts(const json& config, std::vector<std::string>& notes) {
  auto parts = stacks_of(config, notes);
  if (!parts) return parts.status();
  for (ConfigPart& part : *parts) drop_windows_of_minus_one(part.fields);
  return parts;
}

}  // namespace sextant::model
