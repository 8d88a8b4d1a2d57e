// The spec of MLA layers.
#include <fmt/format.h>

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
  if (scaling.find({"factor"}) == nullptr)
    return invalid_argument(fmt::format("{}.factor is missing; allowed: a finite number > 0, as mscale_all_dim is {}",
                                        scaling.prefix(), *mscale));
  auto factor = scaling.positive({"factor"}, 1);
  if (!factor) return factor.status();
  return yarn_scale_factor(*factor, *mscale);
}

bool is_mla(const ConfigFields& fields) {
  // DeepSeek-OCR and DeepSeek-VL2's smallest have the fields and switch it off.
  const nlohmann::json* rank = fields.find({"kv_lora_rank"});
  const nlohmann::json* on = fields.find({"use_mla"});
  return rank != nullptr && *rank != 0 && (on == nullptr || *on != false);
}

Status apply_mla(const ConfigFields& fields, AttentionSpec& spec) {
  const auto read = [&fields](const char* name, int32_t& value, int64_t min = 1) {
    constexpr int64_t kMost = 1 << 20;  // beyond any model, and their sum would overflow
    auto number = fields.whole({name}, min);
    if (!number) return number.status();
    if (*number > kMost)
      return invalid_argument(fmt::format("{}.{} is {}; allowed: {}..{}", fields.prefix(), name, *number, min, kMost));
    value = static_cast<int32_t>(*number);
    return Status::ok();
  };
  SEXTANT_RETURN_IF_ERROR(read("kv_lora_rank", spec.mla.kv_lora_rank));
  SEXTANT_RETURN_IF_ERROR(read("qk_nope_head_dim", spec.mla.qk_nope_head_dim));
  SEXTANT_RETURN_IF_ERROR(read("qk_rope_head_dim", spec.mla.qk_rope_head_dim, 0));
  SEXTANT_RETURN_IF_ERROR(read("v_head_dim", spec.mla.v_head_dim));
  // Configs repeat the number of heads there, or leave a 1: the latent belongs to all heads either way.
  auto kv_heads = fields.whole({"num_key_value_heads"}, 1, spec.num_heads);
  if (!kv_heads) return kv_heads.status();
  spec.num_kv_heads = spec.num_heads;
  spec.head_dim = spec.mla.qk_nope_head_dim + spec.mla.qk_rope_head_dim;
  spec.head_dim_v = spec.mla.v_head_dim;
  auto yarn = yarn_scale_factor(fields);
  if (!yarn) return yarn.status();
  spec.softmax_scale = static_cast<float>(*yarn / std::sqrt(static_cast<double>(spec.head_dim)));
  return Status::ok();
}

}  // namespace sextant::model
