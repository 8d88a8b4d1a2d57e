// Reads the table of attention facts.
#include "model/attention_facts.h"

#include <algorithm>
#include <set>

namespace sextant::model {

extern const char* const kAttentionFactsText;  // attention_facts.json, put into a string by CMake

using nlohmann::json;

const json& attention_facts() {
  static const json kFacts = json::parse(kAttentionFactsText);
  return kFacts;
}

const json& facts_of(const std::string& model_type) {
  static const json kNone = json::object();
  const json& models = attention_facts().at("models");
  auto found = models.find(model_type);
  if (found == models.end()) return kNone;
  // {"same_as": "bert"}: types that differ in name only.
  while (found->contains("same_as")) found = models.find(found->at("same_as").get<std::string>());
  return *found;
}

const json* layer_type_facts(const std::string& name) {
  const json& types = attention_facts().at("layer_types");
  const auto found = types.find(name);
  return found == types.end() ? nullptr : &*found;
}

std::string known_layer_types() {
  std::string names;
  for (const auto& [name, facts] : attention_facts().at("layer_types").items())
    names += (names.empty() ? "" : ", ") + name;
  return names;
}

FieldKnowledge field_knowledge(const std::string& name, const std::string& model_type) {
  static const std::set<std::string> kHarmless = attention_facts().at("harmless_fields").get<std::set<std::string>>();
  if (kHarmless.count(name) > 0) return FieldKnowledge::kHarmless;
  const json& of_classes = attention_facts().at("fields_of_classes");
  if (const auto types = of_classes.find(name); types != of_classes.end()) {
    const bool has = std::find(types->begin(), types->end(), model_type) != types->end();
    return has ? FieldKnowledge::kHarmless : FieldKnowledge::kUnknown;
  }
  return attention_facts().at("noted_fields").contains(name) ? FieldKnowledge::kNoted : FieldKnowledge::kUnknown;
}

std::string field_note(const std::string& name) {
  return attention_facts().at("noted_fields").at(name).get<std::string>();
}

}  // namespace sextant::model
