#include <fmt/format.h>

#include <cmath>
#include <set>

#include "model/config_rules.h"

namespace sextant::model {
namespace {

using nlohmann::json;

// Architectures whose attention always has learned sinks; no field says so.
bool has_sinks_by_type(const std::string& model_type) { return model_type == "gpt_oss"; }

Result<DType> dtype_of(const ConfigFields& fields, std::vector<std::string>& notes) {
  std::string name;
  const json* value = fields.find({"dtype", "torch_dtype"}, &name);
  if (value == nullptr) {
    notes.push_back("the config names no dtype: bf16 assumed");
    return DType::kBF16;
  }
  const std::string allowed = "float32, float16, bfloat16";
  if (!value->is_string()) return fields.error(name, *value, allowed);
  auto dtype = parse_dtype(value->get<std::string>());
  if (!dtype || (*dtype != DType::kF32 && *dtype != DType::kF16 && *dtype != DType::kBF16))
    return fields.error(name, *value, allowed);
  return dtype;
}

// Falcon's and MPT's configs keep the number of KV heads behind flags of their own.
Result<int64_t> kv_heads_of(const ConfigFields& fields, const ConfigFields& attention, int64_t num_heads) {
  auto multi_query = fields.flag({"multi_query"}, false);
  auto new_decoder = fields.flag({"new_decoder_architecture"}, false);
  if (!multi_query) return multi_query.status();
  if (!new_decoder) return new_decoder.status();
  if (*multi_query && !*new_decoder) return int64_t{1};
  auto nested = attention.whole({"kv_n_heads"}, 1, num_heads);
  if (!nested) return nested.status();
  return fields.whole({"num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"}, 1, *nested);
}

Status apply_scale(const ConfigFields& fields, const ConfigFields& attention, const std::string& model_type,
                   AttentionSpec& spec) {
  // Gemma scales by a number of its own instead of the head size.
  const bool gemma = model_type.rfind("gemma2", 0) == 0 || model_type == "gemma3" || model_type == "gemma3_text";
  auto scalar = fields.positive({"query_pre_attn_scalar"}, gemma ? 256.0 : spec.head_dim);
  if (!scalar) return scalar.status();
  double scale = 1.0 / std::sqrt(*scalar);
  if (model_type.rfind("gemma4", 0) == 0) scale = 1.0;                 // queries and keys are normalised instead
  auto multiplier = fields.positive({"attention_multiplier"}, scale);  // Granite
  if (!multiplier) return multiplier.status();
  auto explicit_scale = attention.positive({"softmax_scale"}, *multiplier);  // MPT
  if (!explicit_scale) return explicit_scale.status();
  spec.softmax_scale = static_cast<float>(*explicit_scale);
  return Status::ok();
}

Status apply_features(const ConfigFields& fields, const ConfigFields& attention, const std::string& model_type,
                      AttentionSpec& spec) {
  auto cap =
      fields.positive({"attn_logit_softcapping"},
                      model_type == "gemma2" && !fields.object().contains("attn_logit_softcapping") ? 50.0 : 0.0);
  if (!cap) return cap.status();
  spec.logits_soft_cap = static_cast<float>(*cap);
  auto alibi = fields.flag({"alibi"}, model_type == "bloom");
  if (!alibi) return alibi.status();
  auto nested_alibi = attention.flag({"alibi"}, *alibi);
  if (!nested_alibi) return nested_alibi.status();
  spec.has_alibi = *nested_alibi;
  spec.has_sinks = has_sinks_by_type(model_type);
  return Status::ok();
}

}  // namespace

Result<AttentionSpec> base_spec(const ConfigFields& fields, std::vector<std::string>& notes) {
  static const json kEmpty = json::object();
  const json* nested = fields.find({"attn_config"});
  if (nested != nullptr && !nested->is_object()) return fields.error("attn_config", *nested, "an object");
  const ConfigFields attention(nested != nullptr ? *nested : kEmpty, fields.prefix() + ".attn_config");
  auto model_type = fields.text({"model_type"}, "");
  if (!model_type) return model_type.status();
  AttentionSpec spec;
  auto heads = fields.whole({"num_attention_heads", "n_head", "n_heads"}, 1);
  if (!heads) return heads.status();
  spec.num_heads = static_cast<int32_t>(*heads);
  auto dtype = dtype_of(fields, notes);
  if (!dtype) return dtype.status();
  spec.dtype = *dtype;
  if (fields.has("kv_lora_rank")) {
    SEXTANT_RETURN_IF_ERROR(apply_mla(fields, spec));
    return spec;
  }
  auto kv_heads = kv_heads_of(fields, attention, *heads);
  if (!kv_heads) return kv_heads.status();
  spec.num_kv_heads = static_cast<int32_t>(*kv_heads);
  if (*heads % *kv_heads != 0)
    return invalid_argument(fmt::format("{}.num_key_value_heads is {}; allowed: a divisor of num_attention_heads ({})",
                                        fields.prefix(), *kv_heads, *heads));
  auto hidden = fields.whole({"hidden_size", "n_embd", "d_model"}, 1,
                             fields.has("head_dim") ? std::optional<int64_t>(*heads) : std::nullopt);
  if (!hidden) return hidden.status();
  auto head_dim = fields.whole({"head_dim"}, 1, *hidden / *heads);
  if (!head_dim) return head_dim.status();
  if (!fields.has("head_dim") && *hidden % *heads != 0)
    return invalid_argument(
        fmt::format("{}.hidden_size is {}; allowed: a multiple of num_attention_heads ({}), or a head_dim",
                    fields.prefix(), *hidden, *heads));
  spec.head_dim = static_cast<int32_t>(*head_dim);
  spec.head_dim_v = spec.head_dim;
  SEXTANT_RETURN_IF_ERROR(apply_scale(fields, attention, *model_type, spec));
  SEXTANT_RETURN_IF_ERROR(apply_features(fields, attention, *model_type, spec));
  return spec;
}

}  // namespace sextant::model
