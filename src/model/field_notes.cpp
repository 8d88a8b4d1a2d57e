// A field that touches attention must not be dropped without a word.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "model/attention_facts.h"
#include "model/config_rules.h"
#include "types/json_text.h"

namespace sextant::model {
namespace {

using nlohmann::json;

// Parts of names that sound like attention.
constexpr std::array<std::string_view, 35> kWords = {
    "attn",         "attention", "head",    "kv",        "window",      "chunk",      "sink",         "alibi",
    "sparse",       "index_",    "mla",     "swa",       "cross",       "local",      "causal",       "global",
    "bidirec",      "qk_",       "softcap", "logit_cap", "softmax",     "layer_type", "layertype",    "block_type",
    "blocktype",    "pattern",   "gqa",     "mqa",       "query_group", "rel_pos",    "relative_pos", "position_bias",
    "memory_token", "mixer",     "layout"};

// Parts of names that say, in types of which nobody knows the layers, that some of them do not attend or run several
// times.
constexpr std::array<std::string_view, 10> kLayerWords = {"mamba", "ssm",    "rwkv", "delta", "recurr",
                                                          "lru",   "linear", "loop", "hyena", "retention"};

// Names of the number of heads in models of two stacks too, of the number of layers, and of the width that heads
// divide.
const ConfigFields::Names kHeadNames = {"num_attention_heads", "encoder_attention_heads", "decoder_attention_heads",
                                        "attention_heads"};
const ConfigFields::Names kLayerNames = {"num_hidden_layers",      "n_layer", "n_layers",      "num_layers",
                                         "num_transformer_layers", "depth",   "encoder_layers"};
const ConfigFields::Names kWidthNames = {"hidden_size", "n_embd",  "n_embed",   "d_model",
                                         "model_dim",   "emb_dim", "embed_dim", "dim"};

// Some write numAttentionHeads.
template <size_t kCount>
bool has_word(const std::string& name, const std::array<std::string_view, kCount>& words) {
  std::string small = name;
  for (char& c : small)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return std::any_of(words.begin(), words.end(),
                     [&](std::string_view word) { return small.find(word) != std::string::npos; });
}

// {"positions": "alibi"}: the value says it.
bool sounds_like_alibi(const std::string& value) {
  return value == "alibi" || value == "Alibi" || value == "ALiBi" || value == "ALIBI";
}

// Values that switch nothing on.
bool says_nothing(const json& value) {
  if (value.is_number()) return value == 0;
  if (value.is_string()) return value.get_ref<const std::string&>().empty();
  return value.is_null() || value == false || ((value.is_array() || value.is_object()) && value.empty());
}

// A value that changes nothing: ALiBi's usual slopes, positions that are none of the scores' business.
bool is_usual(const std::string& name, const json& value) {
  const json& usual = attention_facts().at("usual_values");
  const auto values = usual.find(name);
  return values != usual.end() && std::find(values->begin(), values->end(), value) != values->end();
}

std::string printable_name(const std::string& name) {
  const std::string quoted = shown_json(json(name));
  return quoted.substr(1, quoted.size() - 2);
}

// What a quantised checkpoint says about its cache.
void note_kv_cache_scheme(const json& fields, std::vector<std::string>& notes) {
  const auto quantization = fields.find("quantization_config");
  if (quantization == fields.end() || !quantization->is_object()) return;
  for (const char* name : {"kv_cache_scheme", "kv_cache_quant_algo", "kv_cache_dtype"}) {
    const auto scheme = quantization->find(name);
    if (scheme != quantization->end() && !says_nothing(*scheme))
      notes.push_back(fmt::format("the checkpoint's KV cache is quantised ({} {}): see --kv-cache-dtype", name,
                                  shown_json(*scheme)));
  }
}

}  // namespace

bool sounds_like_attention(const std::string& name) { return has_word(name, kWords); }

bool is_beside_attention(const std::string& name) {
  if (field_knowledge(name, "") != FieldKnowledge::kHarmless) return !sounds_like_attention(name);
  for (const char* list : {"whole_model_fields", "deciding_fields"}) {
    const json& names = attention_facts().at(list);
    if (std::find(names.begin(), names.end(), name) != names.end()) return false;
  }
  return true;
}

void note_assumed(const ConfigPart& part, const FieldUse& use, const std::vector<ModelLayer>& layers,
                  std::vector<std::string>& notes) {
  const json& facts = facts_of(part.model_type);
  const ConfigFields config(part.fields);
  std::string assumed;
  const auto add = [&assumed](const std::string& name, const json& value) {
    assumed += fmt::format("{}{} {}", assumed.empty() ? "" : ", ", name, shown_json(value));
  };
  if (!facts.empty()) {
    const json none = json::object();
    const json& defaults = facts.contains("defaults") ? facts.at("defaults") : none;
    const bool latent = std::any_of(layers.begin(), layers.end(), [](const ModelLayer& layer) {
      return layer.attends && layer.attention.mla.enabled();
    });
    for (const std::string& name : use.by_default) {
      if (latent && name == "num_key_value_heads") continue;  // a latent belongs to all heads
      const json& value = defaults.at(name);
      const bool list = value.is_array() && !value.empty();
      if (!list && (!value.is_number() || value == 0)) continue;
      bool said = false;  // by another name of the same number
      std::vector<ConfigFields::Names> groups = head_fields();
      groups.insert(groups.end(), {kHeadNames, kLayerNames, kWidthNames});
      for (const ConfigFields::Names& names : groups) {
        if (std::find(names.begin(), names.end(), name) == names.end()) continue;
        for (const std::string& other : names) {
          const json* given = config.given({other});
          said = said || (given != nullptr && !given->is_boolean());  // multi_query_attention says no number
        }
      }
      if (!said) add(name, value);
    }
    for (const std::string& name : part.by_default) add(name, part.fields.at(name));
    for (const char* name : {"head_dim", "v_head_dim", "attention_multiplier", "query_pre_attn_scalar"})
      if (defaults.contains(name) && part.fields.contains(name) && part.fields.at(name).is_null())
        notes.push_back(fmt::format("{} is null where {} has {}: taken as none", name,
                                    facts.value("from", std::string("the model's class")),
                                    shown_json(defaults.at(name))));
    if (!assumed.empty())
      notes.push_back(fmt::format("the config does not say {}: defaults of {}", assumed,
                                  facts.value("from", std::string("the model's class"))));
    return;
  }
  const auto layer = std::find_if(layers.begin(), layers.end(), [](const ModelLayer& one) { return one.attends; });
  if (layer == layers.end() || layer->attention.mla.enabled()) return;
  ConfigFields::Names kv = head_fields()[1], dim = head_fields()[2];
  if (config.given(kv) == nullptr && config.given({"attn_config"}) == nullptr)
    add("num_key_value_heads", layer->attention.num_kv_heads);
  if (config.given(dim) == nullptr) add("head_dim", layer->attention.head_dim);
  if (!assumed.empty())
    notes.push_back(fmt::format("the config does not say {}: assumed, as most models have it", assumed));
}

void note_fields(const ConfigPart& part, std::vector<std::string>& notes) {
  const json& facts = facts_of(part.model_type);
  if (part.model_type.empty()) {
    if (part.fields.contains("dtype") || part.fields.contains("torch_dtype"))
      notes.push_back("the config names no model_type: read by the general rule");
  } else if (facts.empty()) {
    notes.push_back(fmt::format(
        "model_type \"{}\" is not in the table of known types: read by the general rule, as causal unless a "
        "field says otherwise",
        printable_name(part.model_type)));
  }
  std::string said;  // by the model type
  for (const json& note : facts.value("notes", json::array())) {
    notes.push_back(note.get<std::string>());
    said += notes.back();
  }
  std::string unknown;
  int more = 0;
  constexpr int kMostNamed = 12;
  const auto look = [&](const std::string& section, const std::string& name, const json& value) {
    if (says_nothing(value) || is_usual(name, value)) return;
    const FieldKnowledge knowledge = field_knowledge(name, part.model_type);
    if (knowledge == FieldKnowledge::kNoted && said.find(name) == std::string::npos)
      notes.push_back(
          fmt::format("{}{} is {}: {}", section, printable_name(name), shown_json(value), field_note(name)));
    const bool read_elsewhere = !section.empty() && knowledge == FieldKnowledge::kHarmless;
    const bool untold = knowledge == FieldKnowledge::kUnknown || read_elsewhere;
    const bool by_value = value.is_string() && sounds_like_alibi(value.get_ref<const std::string&>());
    const bool of_layers = facts.empty() && has_word(name, kLayerWords);
    if (!of_layers && (!untold || (!sounds_like_attention(name) && !by_value))) return;
    if (++more <= kMostNamed)
      unknown +=
          fmt::format("{}{}{} {}", unknown.empty() ? "" : ", ", section, printable_name(name), shown_json(value));
  };
  for (const auto& [name, value] : part.fields.items()) look("", name, value);
  for (const auto& [section, told] : attention_facts().at("sections").items()) {
    const auto fields = part.fields.find(section);
    if (fields == part.fields.end() || !fields->is_object()) continue;
    for (const auto& [name, value] : fields->items())
      if (std::find(told.begin(), told.end(), name) == told.end() && value != -1) look(section + ".", name, value);
  }
  const json conditional = facts.value("notes_if", json::object());
  for (const auto& [field, note] : conditional.items())
    if (part.fields.contains(field) && !says_nothing(part.fields[field])) notes.push_back(note.get<std::string>());
  // Of an unknown type nobody knows what they are without a latent.
  for (const char* name : {"qk_nope_head_dim", "qk_rope_head_dim"}) {
    const auto dim = part.fields.find(name);
    const auto rank = part.fields.find("kv_lora_rank");
    if (!facts.empty() || dim == part.fields.end() || says_nothing(*dim)) continue;
    if (rank != part.fields.end() && !says_nothing(*rank)) continue;
    if (++more <= kMostNamed) unknown += fmt::format("{}{} {}", unknown.empty() ? "" : ", ", name, shown_json(*dim));
  }
  if (more > kMostNamed) unknown += fmt::format(" and {} more", more - kMostNamed);
  if (more > 0)
    notes.push_back(
        fmt::format("fields that sound like attention and are not known here, so not taken into account: {}", unknown));
  note_kv_cache_scheme(part.fields, notes);
}

}  // namespace sextant::model
