// The rules that turn a config.json's fields into attention specs. What depends on the model type is data
// (attention_facts.json); these read it.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "model/config_fields.h"
#include "sextant/model.h"

namespace sextant::model {

// A stack of layers: most models have one, encoder-decoder models two.
struct ConfigPart {
  std::string name;                       // "encoder", "decoder" or empty
  nlohmann::json fields;                  // with the part's own numbers under the usual names
  std::string prefix;                     // where they stand: "config.text_config"
  std::string model_type;                 // whose facts apply
  bool cross_attention = false;           // every layer also attends to the other part
  std::set<std::string> by_default = {};  // numbers under the usual names that are the class's and not the config's
};
// The language part of a config, wherever it is nested, in the usual names (Mistral's params.json has names of its
// own).
Result<std::vector<ConfigPart>> config_parts(const nlohmann::json& config, std::vector<std::string>& notes);

// Heads, dtype, causality, softcap, ALiBi: what all layers share. `notes` gets assumptions.
Result<AttentionSpec> base_spec(const ConfigFields& fields, const nlohmann::json& facts,
                                std::vector<std::string>& notes);
// Head counts and sizes.
Status apply_heads(const ConfigFields& fields, const nlohmann::json& facts, std::vector<std::string>& notes,
                   AttentionSpec& spec);
// The softmax scale of a layer (0-based): the model type's rule, after the heads are known.
Status apply_scale(const ConfigFields& fields, const nlohmann::json& facts, int64_t layer, AttentionSpec& spec);

// The same number of a head under the names of projects of different age.
const std::vector<ConfigFields::Names>& head_fields();
bool is_mla(const ConfigFields& fields);
Status apply_mla(const ConfigFields& fields, std::vector<std::string>& notes, AttentionSpec& spec);
// yarn's factor on the softmax scale of DeepSeek's models: (0.1 mscale_all_dim ln(factor) + 1)^2; 1 without yarn.
Result<double> yarn_scale_factor(const ConfigFields& fields, std::vector<std::string>& notes);
double yarn_scale_factor(double factor, double mscale_all_dim);

// The type of every layer ("full_attention", "mamba", ...), from the config's lists or the model type's pattern.
Result<std::vector<std::string>> layer_types(const ConfigFields& fields, const nlohmann::json& facts,
                                             std::vector<std::string>& notes);

// Every layer of a part.
Result<std::vector<ModelLayer>> part_layers(const ConfigPart& part, std::vector<std::string>& notes);

// Notes on the numbers that the config does not say itself: the class's defaults, or the general rule's guesses.
void note_assumed(const ConfigPart& part, const FieldUse& use, const std::vector<ModelLayer>& layers,
                  std::vector<std::string>& notes);
// Notes on fields that sound like attention and are not understood, or that are understood and cannot be expressed.
void note_fields(const ConfigPart& part, std::vector<std::string>& notes);
bool sounds_like_attention(const std::string& name);
// A field of one layer that may differ from the model's and changes no attention ("intermediate_size", "qkv_bias").
bool is_beside_attention(const std::string& name);

}  // namespace sextant::model
