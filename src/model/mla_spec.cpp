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

namespace {

// The section of rope that counts, as in transformers: the older name, where it says anything.
Result<ConfigFields> rope_of(const ConfigFields& fields) {
  auto older = fields.section("rope_scaling");
  if (!older) return older;
  auto newer = fields.section("rope_parameters");
  if (!newer || older->object().empty()) return newer;
  for (const char* name : {"mscale_all_dim", "factor"})
    if (newer->has(name) && newer->object().at(name) != older->object().value(name, nlohmann::json()))
      return newer->error(name, newer->object().at(name), fmt::format("what {} says", older->prefix()));
  return older;
}

// mscale_all_dim within {"sliding_attention": {...}}: no model is known that has it there.
bool has_nested_scale(const ConfigFields& rope) {
  for (const auto& [name, value] : rope.object().items())
    if (value.is_object() && value.contains("mscale_all_dim")) return true;
  return false;
}

}  // namespace

Result<double> yarn_scale_factor(const ConfigFields& fields, std::vector<std::string>& notes) {
  auto rope = rope_of(fields);
  if (!rope) return rope.status();
  if (has_nested_scale(*rope))
    notes.push_back(rope->prefix() + " has an mscale_all_dim for some layers: not taken into account");
  const nlohmann::json* all_dim = rope->find({"mscale_all_dim"});
  if (all_dim == nullptr || (all_dim->is_number() && all_dim->get<double>() == 0)) return 1.0;
  auto mscale = rope->positive({"mscale_all_dim"}, 1);
  if (!mscale) return mscale.status();
  const std::string types = "deepseek_yarn, default, dynamic, linear, llama3, longrope, proportional, su, yarn";
  auto type = rope->text({"rope_type", "type"}, "");
  if (!type) return type.status();
  if (type->empty())
    return invalid_argument(
        fmt::format("{}.rope_type is missing; allowed: {}, as mscale_all_dim is {}", rope->prefix(), types, *mscale));
  if ((", " + types + ", ").find(", " + *type + ", ") == std::string::npos)
    return rope->error("rope_type", *type, types);
  if (*type == "default") {
    notes.push_back(fmt::format("{}.mscale_all_dim is {}: without a rope_type that scales it changes nothing",
                                rope->prefix(), *mscale));
    return 1.0;
  }
  if (rope->find({"factor"}) == nullptr)
    return invalid_argument(fmt::format("{}.factor is missing; allowed: a finite number > 0, as mscale_all_dim is {}",
                                        rope->prefix(), *mscale));
  auto factor = rope->positive({"factor"}, 1);
  if (!factor) return factor.status();
  return yarn_scale_factor(*factor, *mscale);
}

bool is_mla(const ConfigFields& fields) {
  // DeepSeek-OCR and DeepSeek-VL2's smallest have the fields and switch it off.
  const nlohmann::json* rank = fields.find({"kv_lora_rank"});
  const nlohmann::json* on = fields.find({"use_mla"});
  return rank != nullptr && *rank != 0 && (on == nullptr || *on != false);
}

Status apply_mla(const ConfigFields& fields, std::vector<std::string>& notes, AttentionSpec& spec) {
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
  auto yarn = yarn_scale_factor(fields, notes);
  if (!yarn) return yarn.status();
  spec.softmax_scale = static_cast<float>(*yarn / std::sqrt(static_cast<double>(spec.head_dim)));
  return Status::ok();
}

}  // namespace sextant::model
