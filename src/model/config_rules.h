// The rules that turn a config.json's fields into attention specs.
#pragma once

#include <string>
#include <vector>

#include "model/config_fields.h"
#include "sextant/model.h"

namespace sextant::model {

// Heads, head sizes, scale, softcap, sinks, ALiBi, dtype: what all layers share. `notes` gets assumptions.
Result<AttentionSpec> base_spec(const ConfigFields& fields, std::vector<std::string>& notes);

// MLA's part of it; called when the config has kv_lora_rank.
Status apply_mla(const ConfigFields& fields, AttentionSpec& spec);

// yarn's factor on the softmax scale of DeepSeek's models: (0.1 mscale_all_dim ln(factor) + 1)^2; 1 without yarn.
Result<double> yarn_scale_factor(const ConfigFields& fields);
double yarn_scale_factor(double factor, double mscale_all_dim);

// Copies `base` to every layer and gives each its window (and, where full layers have other head sizes, those).
Result<std::vector<AttentionSpec>> layer_specs(const ConfigFields& fields, const AttentionSpec& base,
                                               std::vector<std::string>& notes);

}  // namespace sextant::model
