#include <cmath>

#include "model/config_rules.h"

namespace sextant::model {

double yarn_scale_factor(double factor, double mscale_all_dim) {
  if (factor <= 1 || mscale_all_dim == 0) return 1;
  const double mscale = 0.1 * mscale_all_dim * std::log(factor) + 1;
  return mscale * mscale;  // once for the queries, once for the keys
}

Result<double> yarn_scale_factor(const ConfigFields& fields) {
  std::string name;
  const nlohmann::json* rope = fields.find({"rope_scaling", "rope_parameters"}, &name);
  if (rope == nullptr) return 1.0;
  if (!rope->is_object()) return fields.error(name, *rope, "an object or null");
  const ConfigFields scaling(*rope, fields.prefix() + "." + name);
  auto type = scaling.text({"rope_type", "type"}, "default");
  if (!type) return type.status();
  if (*type == "default") return 1.0;
  const nlohmann::json* all_dim = scaling.find({"mscale_all_dim"});
  if (all_dim == nullptr || (all_dim->is_number() && all_dim->get<double>() == 0)) return 1.0;
  auto mscale = scaling.positive({"mscale_all_dim"}, 1);
  if (!mscale) return mscale.status();
  auto factor = scaling.positive({"factor"}, 1);
  if (!factor) return factor.status();
  return yarn_scale_factor(*factor, *mscale);
}

Status apply_mla(const ConfigFields& fields, AttentionSpec& spec) {
  const auto read = [&fields](const char* name, int32_t& value) {
    auto number = fields.whole({name}, 1);
    if (number) value = static_cast<int32_t>(*number);
    return number.status();
  };
  SEXTANT_RETURN_IF_ERROR(read("kv_lora_rank", spec.mla.kv_lora_rank));
  SEXTANT_RETURN_IF_ERROR(read("qk_nope_head_dim", spec.mla.qk_nope_head_dim));
  SEXTANT_RETURN_IF_ERROR(read("qk_rope_head_dim", spec.mla.qk_rope_head_dim));
  SEXTANT_RETURN_IF_ERROR(read("v_head_dim", spec.mla.v_head_dim));
  spec.num_kv_heads = spec.num_heads;
  spec.head_dim = spec.mla.qk_nope_head_dim + spec.mla.qk_rope_head_dim;
  spec.head_dim_v = spec.mla.v_head_dim;
  auto yarn = yarn_scale_factor(fields);
  if (!yarn) return yarn.status();
  spec.softmax_scale = static_cast<float>(*yarn / std::sqrt(static_cast<double>(spec.head_dim)));
  return Status::ok();
}

}  // namespace sextant::model
