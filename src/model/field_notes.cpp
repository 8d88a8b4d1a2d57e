// A field that touches attention must not be dropped without a word.
#include <fmt/format.h>

#include <array>

#include "model/attention_facts.h"
#include "model/config_rules.h"
#include "types/json_text.h"

namespace sextant::model {
namespace {

using nlohmann::json;

// Parts of names that sound like attention.
constexpr std::array<std::string_view, 21> kWords = {
    "attn", "attention", "head",  "kv",     "window", "chunk",   "sink", "alibi",   "sparse",    "index_", "mla",
    "swa",  "cross",     "local", "causal", "global", "bidirec", "qk_",  "softcap", "logit_cap", "softmax"};

bool sounds_like_attention(const std::string& name) {
  for (const std::string_view word : kWords)
    if (name.find(word) != std::string::npos) return true;
  return false;
}

// Values that switch nothing on.
bool says_nothing(const json& value) {
  if (value.is_number()) return value == 0;
  if (value.is_string()) return value.get_ref<const std::string&>().empty();
  return value.is_null() || value == false || ((value.is_array() || value.is_object()) && value.empty());
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

void note_fields(const ConfigPart& part, std::vector<std::string>& notes) {
  const json& facts = facts_of(part.model_type);
  if (part.model_type.empty()) {
    if (part.fields.contains("dtype") || part.fields.contains("torch_dtype"))
      notes.push_back("the config names no model_type: read by the general rule");
  } else if (facts.empty()) {
    notes.push_back(fmt::format("model_type \"{}\" is not in the table of known types: read by the general rule",
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
  for (const auto& [name, value] : part.fields.items()) {
    if (says_nothing(value)) continue;
    const FieldKnowledge knowledge = field_knowledge(name);
    if (knowledge == FieldKnowledge::kNoted && said.find(name) == std::string::npos)
      notes.push_back(fmt::format("{} is {}: {}", printable_name(name), shown_json(value), field_note(name)));
    const bool untold = knowledge == FieldKnowledge::kOfClasses ? facts.empty() : knowledge == FieldKnowledge::kUnknown;
    if (!untold || !sounds_like_attention(name)) continue;
    if (++more <= kMostNamed)
      unknown += fmt::format("{}{} {}", unknown.empty() ? "" : ", ", printable_name(name), shown_json(value));
  }
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
