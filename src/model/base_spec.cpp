// The attention spec that all layers of a model start from.
#include <fmt/format.h>

#include <cmath>

#include "model/config_rules.h"
#include "types/json_text.h"

namespace sextant::model {
namespace {

using nlohmann::json;

Result<DType> dtype_of(const ConfigFields& fields, std::vector<std::string>& notes) {
  std::string name;
  const json* value = fields.find({"dtype", "torch_dtype"}, &name);
  if (value == nullptr || *value == "auto") {
    notes.push_back(fields.has("model_type")
                        ? "the config names no dtype: bf16 assumed"
                        : "the config names no dtype and no model_type: bf16 assumed, read by the general rule");
    return DType::kBF16;
  }
  const std::string allowed = "float32, float16, bfloat16";
  if (!value->is_string()) return fields.error(name, *value, allowed);
  std::string text = value->get<std::string>();
  if (text.rfind("torch.", 0) == 0) text = text.substr(6);  // PyTorch's own spelling
  auto dtype = parse_dtype(text);
  if (!dtype || (*dtype != DType::kF32 && *dtype != DType::kF16 && *dtype != DType::kBF16))
    return fields.error(name, *value, allowed);
  return dtype;
}

// Falcon's, ChatGLM's and MPT's configs keep the number of KV heads behind flags of their own.
const ConfigFields::Names kKvHeadNames = {"num_key_value_heads",  "num_kv_heads",         "n_head_kv",
                                          "n_kv_heads",           "num_attention_groups", "multi_query_group_num",
                                          "num_multi_query_heads"};

Result<int64_t> kv_heads_of(const ConfigFields& fields, const ConfigFields& attention, int64_t num_heads) {
  auto multi_query = fields.flag({"multi_query"}, false);
  if (!multi_query) return multi_query.status();
  auto new_decoder = fields.flag({"new_decoder_architecture"}, false);
  if (!new_decoder) return new_decoder.status();
  if (*multi_query && !*new_decoder) return int64_t{1};
  auto groups = fields.flag({"multi_query_attention"}, true);
  if (!groups) return groups.status();
  if (!*groups) return num_heads;
  const json* said = fields.given({"multi_query_attention"});
  if (said != nullptr && *said == true && fields.find(kKvHeadNames) == nullptr)
    return invalid_argument(fmt::format(
        "{}.multi_query_group_num is missing; allowed: a whole number >= 1, as multi_query_attention is true",
        fields.prefix()));
  auto sharing = fields.whole({"n_shared_head"}, 1, 0);  // PLaMo: heads that share one
  if (!sharing) return sharing.status();
  if (*sharing > 0 && fields.find(kKvHeadNames) == nullptr) {
    if (num_heads % *sharing != 0)
      return fields.error("n_shared_head", *sharing, fmt::format("a divisor of num_attention_heads ({})", num_heads));
    return num_heads / *sharing;
  }
  auto type = attention.text({"attn_type"}, "");
  if (!type) return type.status();
  if (!type->empty() && *type != "multihead_attention" && *type != "multiquery_attention" &&
      *type != "grouped_query_attention")
    return attention.error("attn_type", *type, "multihead_attention, multiquery_attention, grouped_query_attention");
  if (*type == "multiquery_attention") return int64_t{1};
  auto nested = attention.whole({"kv_n_heads"}, 1, num_heads);
  if (!nested) return nested.status();
  return fields.whole(kKvHeadNames, 1, *nested);
}

Result<int64_t> hidden_of(const ConfigFields& fields, std::optional<int64_t> fallback) {
  // Weaker names: they mean other things beside a hidden_size.
  return fields.whole({"hidden_size", "n_embd", "n_embed"}, {"d_model", "model_dim", "emb_dim", "embed_dim", "dim"}, 1,
                      fallback);
}

Result<int64_t> head_dim_of(const ConfigFields& fields, const json& facts, int64_t heads) {
  // Older names, the surer ones first: Zamba has an attention_head_dim, and kv_channels for something else.
  const ConfigFields::Names weaker = {
      "attention_head_dim", "hidden_size_per_head", "d_kv", "d_head", "attention_head_size", "dim_head", "kv_channels"};
  for (const std::string& name : weaker) {  // wrong ones are refused, also where another counts
    auto named = fields.whole({name}, 1, 0);
    if (!named) return named;
  }
  const json *one = fields.given({"head_dim"}), *other = fields.given({"attention_head_dim"});
  if (one != nullptr && other != nullptr && *one != *other)
    return fields.error("attention_head_dim", *other,
                        fmt::format("{} (what {}.head_dim says)", shown_json(*one), fields.prefix()));
  auto head_dim = fields.whole({"head_dim"}, weaker, 1, 0);
  if (!head_dim || *head_dim > 0) return head_dim;
  const int64_t times = facts.value("hidden_times", int64_t{1});
  auto hidden = facts.contains("hidden_from") ? fields.whole({facts.at("hidden_from").get<std::string>()}, 1)
                                              : hidden_of(fields, {});
  if (!hidden) return hidden;
  if (*hidden * times % heads != 0)
    return invalid_argument(
        fmt::format("{}.hidden_size is {}; allowed: a multiple of num_attention_heads ({}), or a head_dim",
                    fields.prefix(), *hidden, heads));
  return *hidden * times / heads;
}

// GPT-2's and Jais's switches.
Status apply_switches(const ConfigFields& fields, int64_t layer, int32_t head_dim, double& scale) {
  auto scaled = fields.flag({"scale_attn_weights"}, true);
  if (!scaled) return scaled.status();
  if (!*scaled) scale = 1;
  auto by_layer = fields.flag({"scale_attn_by_inverse_layer_idx"}, false);
  if (!by_layer) return by_layer.status();
  if (*by_layer) scale /= static_cast<double>(layer + 1);
  auto by_size = fields.flag({"mup_scale_qk_dot_by_d", "scale_qk_dot_by_d"}, false);
  if (!by_size) return by_size.status();
  if (*by_size && *scaled) scale = 1.0 / head_dim;
  auto mup = fields.positive({"mup_attn_multiplier"}, 0);  // Phi-3-small
  if (!mup) return mup.status();
  auto use_mup = fields.flag({"mup_use_scaling"}, true);
  if (!use_mup) return use_mup.status();
  if (*mup > 0 && *use_mup) scale = *mup / head_dim;
  return Status::ok();
}

// Encoders see both ways; some types say it by a field.
Status apply_causality(const ConfigFields& fields, const json& facts, std::vector<std::string>& notes,
                       AttentionSpec& spec) {
  spec.causal = facts.value("causal", true);
  // BERT's family becomes a decoder, XLM a causal one, by a field.
  auto decoder = fields.flag({"is_decoder"}, false);
  if (!decoder) return decoder.status();
  if (*decoder && facts.contains("causal")) spec.causal = true;
  auto xlm = fields.flag({"causal"}, spec.causal);
  if (!xlm) return xlm.status();
  spec.causal = *xlm;
  auto causal = fields.flag({"is_causal"}, spec.causal);
  if (!causal) return causal.status();
  spec.causal = *causal;
  std::string name;
  const json* both = fields.find({"use_bidirectional_attention"}, &name);
  if (both == nullptr) return Status::ok();
  if (*both == true || *both == "all")
    spec.causal = false;
  else if (*both == "vision")
    notes.push_back(
        "tokens of one image see each other (use_bidirectional_attention): select and replay look at text, which is "
        "causal; plans take spans (max_span_len)");
  else if (*both != false)
    return fields.error(name, *both, "true, false, \"all\", \"vision\"");
  return Status::ok();
}

Status apply_alibi(const ConfigFields& fields, const ConfigFields& attention, const json& facts, AttentionSpec& spec) {
  bool known = facts.value("alibi", false);
  if (facts.contains("alibi_if"))  // by size: {"hidden_size": 5120}
    for (const auto& [field, value] : facts.at("alibi_if").items()) {
      const json* given = fields.find({field});
      known = given != nullptr && *given == value;
    }
  auto position = fields.text({"position_embedding_type", "position_embedding"}, "");
  if (!position) return position.status();
  auto alibi = fields.flag({"alibi", "use_alibi"}, known || *position == "alibi" || *position == "ALIBI");
  if (!alibi) return alibi.status();
  auto nested = attention.flag({"alibi"}, *alibi);
  if (!nested) return nested.status();
  spec.has_alibi = *nested;
  return Status::ok();
}

}  // namespace

namespace {

// Sizes beyond any model would overflow later on.
Status check_size(const ConfigFields& fields, const char* name, int64_t value) {
  constexpr int64_t kMost = 1 << 20;
  if (value <= kMost) return Status::ok();
  return invalid_argument(fmt::format("{}.{} is {}; allowed: up to {}", fields.prefix(), name, value, kMost));
}

// A model of latent attention that says null or 0 for it would be read as one of plain heads.
Status check_no_latent(const ConfigFields& fields, const json& facts, bool switched_off) {
  const auto rank = fields.object().find("kv_lora_rank");
  if (rank == fields.object().end() || switched_off) return Status::ok();
  const bool usual = facts.contains("defaults") && facts.at("defaults").contains("kv_lora_rank");
  const json* nope = fields.given({"qk_nope_head_dim"});
  if (!usual && (nope == nullptr || *nope == 0)) return Status::ok();
  return fields.error("kv_lora_rank", *rank, "a whole number >= 1, or use_mla false for heads without a latent");
}

}  // namespace

Status apply_heads(const ConfigFields& fields, const json& facts, std::vector<std::string>& notes,
                   AttentionSpec& spec) {
  auto attention = fields.section("attn_config");
  if (!attention) return attention.status();
  // T5's num_heads; elsewhere it may count heads of something else.
  auto heads = fields.whole({"num_attention_heads", "n_head", "n_heads"},
                            {"num_heads", "encoder_attention_heads", "attention_heads"}, 1);
  if (!heads) return heads.status();
  SEXTANT_RETURN_IF_ERROR(check_size(fields, "num_attention_heads", *heads));
  spec.num_heads = static_cast<int32_t>(*heads);
  if (is_mla(fields)) return apply_mla(fields, notes, spec);
  auto latent = fields.flag({"use_mla"}, false);
  if (!latent) return latent.status();
  const json* switched = fields.given({"use_mla"});
  const bool off = switched != nullptr && *switched == false;  // as DeepSeek-VL2's smallest says it, beside zeros
  SEXTANT_RETURN_IF_ERROR(check_no_latent(fields, facts, off));
  if (*latent)
    return invalid_argument(
        fmt::format("{}.kv_lora_rank is missing; allowed: a whole number >= 1, as use_mla is true", fields.prefix()));
  auto kv_heads = kv_heads_of(fields, *attention, *heads);
  if (!kv_heads) return kv_heads.status();
  // A class's default is for its own number of heads; a config of a smaller model may leave it out.
  if (*heads % *kv_heads != 0 && fields.given(kKvHeadNames) == nullptr && fields.find(kKvHeadNames) != nullptr) {
    notes.push_back(fmt::format("the class's {} KV heads do not divide {} heads: as many KV heads as heads assumed",
                                *kv_heads, *heads));
    *kv_heads = *heads;
  }
  spec.num_kv_heads = static_cast<int32_t>(*kv_heads);
  if (*heads % *kv_heads != 0)
    return invalid_argument(fmt::format("{}.num_key_value_heads is {}; allowed: a divisor of num_attention_heads ({})",
                                        fields.prefix(), *kv_heads, *heads));
  auto head_dim = head_dim_of(fields, facts, *heads);
  if (!head_dim) return head_dim.status();
  auto value_dim = fields.whole({"v_head_dim"}, off ? 0 : 1, 0);
  if (!value_dim) return value_dim.status();
  SEXTANT_RETURN_IF_ERROR(check_size(fields, "head_dim", *head_dim));
  SEXTANT_RETURN_IF_ERROR(check_size(fields, "v_head_dim", *value_dim));
  spec.head_dim = static_cast<int32_t>(*head_dim);
  spec.head_dim_v = *value_dim > 0 ? static_cast<int32_t>(*value_dim) : spec.head_dim;
  return Status::ok();
}

Status apply_scale(const ConfigFields& fields, const json& facts, int64_t layer, AttentionSpec& spec) {
  if (spec.mla.enabled()) return Status::ok();
  auto attention = fields.section("attn_config");
  if (!attention) return attention.status();
  const std::string rule = facts.value("scale", std::string("head_dim"));
  double scale = 1.0 / std::sqrt(static_cast<double>(spec.head_dim));
  if (rule == "head_dim") {
    auto scalar = fields.positive({"query_pre_attn_scalar"}, spec.head_dim);  // Gemma's own number
    if (!scalar) return scalar.status();
    scale = 1.0 / std::sqrt(*scalar);
  } else if (rule == "one") {
    scale = 1;
  } else if (rule == "1 / head_dim") {
    scale = 1.0 / spec.head_dim;
  } else if (rule == "sqrt(2 / head_dim)") {
    scale = std::sqrt(2.0 / spec.head_dim);
  }
  SEXTANT_RETURN_IF_ERROR(apply_switches(fields, layer, spec.head_dim, scale));
  auto multiplier = fields.positive({"attention_multiplier", "attn_output_multiplier"}, scale);  // Granite; Grok
  if (!multiplier) return multiplier.status();
  auto named = attention->positive({"softmax_scale"}, *multiplier);  // MPT
  if (!named) return named.status();
  spec.softmax_scale = static_cast<float>(*named);
  return Status::ok();
}

Result<AttentionSpec> base_spec(const ConfigFields& fields, const json& facts, std::vector<std::string>& notes) {
  auto attention = fields.section("attn_config");
  if (!attention) return attention.status();
  AttentionSpec spec;
  auto dtype = dtype_of(fields, notes);
  if (!dtype) return dtype.status();
  spec.dtype = *dtype;
  SEXTANT_RETURN_IF_ERROR(apply_causality(fields, facts, notes, spec));
  auto cap = fields.positive({"attn_logit_softcapping", "attn_logit_softcap", "max_attn_value"}, 0.0);
  if (!cap) return cap.status();
  spec.logits_soft_cap = static_cast<float>(*cap);
  SEXTANT_RETURN_IF_ERROR(apply_alibi(fields, *attention, facts, spec));
  return spec;
}

}  // namespace sextant::model
