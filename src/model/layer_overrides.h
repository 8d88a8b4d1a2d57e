// What single layers, or the layers of one type, say instead of the model's own numbers.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "model/config_fields.h"

namespace sextant::model {

// Values by the first name of each number (head_fields); a null says "none".
using LayerOverrides = nlohmann::json;

// The config's few fields that a layer's shape comes from: copied for layers that differ, so they must stay few.
nlohmann::json shape_fields(const nlohmann::json& config);
// The same with these in place of every name of the same number.
nlohmann::json apply_overrides(const LayerOverrides& overrides, const nlohmann::json& shape);

// Where layers stand in the stack, and what the config says of single ones.
class LayerSources {
 public:
  static Result<LayerSources> make(const ConfigFields& fields, const nlohmann::json& facts,
                                   const std::vector<std::string>& types);
  // Of one layer; its type may turn out to be another ("no_attention").
  Result<LayerOverrides> overrides_of(size_t layer, std::string& type) const;

 private:
  LayerSources(const ConfigFields& fields, const nlohmann::json& facts, size_t num_layers)
      : fields_(fields), facts_(facts), num_layers_(num_layers) {}

  ConfigFields fields_;
  const nlohmann::json& facts_;
  size_t num_layers_;
  std::map<size_t, ConfigFields> layer_configs_;  // per_layer_config, by layer
  std::vector<nlohmann::json> windows_;           // of the class's sliding layers, where they differ by place
};

}  // namespace sextant::model
