// What config.json does not say: the attention facts of each model type (attention_facts.json, compiled in).
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace sextant::model {

// The facts of a model type; an empty object when the table does not have it. Keys: docs/dev/model-facts.md.
const nlohmann::json& facts_of(const std::string& model_type);

// What a layer type's name means ("sliding_attention", "mamba", ...); null when it is unknown.
// {"as": "full" | "sliding" | "chunked" | "sparse" | "cross" | "none", "name": "linear attention"}.
const nlohmann::json* layer_type_facts(const std::string& name);
std::string known_layer_types();  // "attention, full_attention, ..."

// Fields whose names sound like attention.
enum class FieldKnowledge { kHarmless, kNoted, kUnknown };
// Some change attention in the types of the table that have them, and are read there; of others nobody knows.
FieldKnowledge field_knowledge(const std::string& name, const std::string& model_type);
// What a noted field changes, in words.
std::string field_note(const std::string& name);

const nlohmann::json& attention_facts();  // the whole table

}  // namespace sextant::model
