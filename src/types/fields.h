// The fields of the public structs, once each: their name in JSON and Python, the member, and the word for it in texts
// for people where it says what is special about an attention. JSON in and out, texts and the check of Python's
// signatures follow from these tables; defaults are those of the struct itself.
#pragma once

#include <tuple>

#include "sextant/backend.h"

namespace sextant {

template <class Struct, class Value>
struct Field {
  const char* name;
  Value Struct::* member;
  const char* word = nullptr;
  constexpr Value& of(Struct& s) const { return s.*member; }
  constexpr const Value& of(const Struct& s) const { return s.*member; }
};
// Of a struct inside the struct; JSON and Python have it flat.
template <class Struct, class Inner, class Value>
struct InnerField {
  const char* name;
  Inner Struct::* inner;
  Value Inner::* member;
  const char* word = nullptr;
  constexpr Value& of(Struct& s) const { return s.*inner.*member; }
  constexpr const Value& of(const Struct& s) const { return s.*inner.*member; }
};

template <class Struct>
constexpr auto fields_of() = delete;

template <>
constexpr auto fields_of<AttentionSpec>() {
  using S = AttentionSpec;
  return std::tuple{Field{"num_heads", &S::num_heads},
                    Field{"num_kv_heads", &S::num_kv_heads},
                    Field{"head_dim", &S::head_dim},
                    Field{"head_dim_v", &S::head_dim_v},
                    Field{"softmax_scale", &S::softmax_scale},
                    Field{"causal", &S::causal, "causal"},
                    Field{"sliding_window", &S::sliding_window, "window"},
                    Field{"window_left", &S::window_left, "window to the left"},
                    Field{"window_right", &S::window_right, "window to the right"},
                    Field{"attention_chunk_size", &S::attention_chunk_size, "chunks"},
                    Field{"max_span_len", &S::max_span_len, "spans"},
                    Field{"logits_soft_cap", &S::logits_soft_cap, "softcap"},
                    Field{"has_sinks", &S::has_sinks, "sinks"},
                    Field{"has_alibi", &S::has_alibi, "ALiBi"},
                    Field{"dtype", &S::dtype},
                    Field{"query_dtype", &S::query_dtype},
                    InnerField{"kv_lora_rank", &S::mla, &MlaSpec::kv_lora_rank},
                    InnerField{"qk_nope_head_dim", &S::mla, &MlaSpec::qk_nope_head_dim},
                    InnerField{"qk_rope_head_dim", &S::mla, &MlaSpec::qk_rope_head_dim},
                    InnerField{"v_head_dim", &S::mla, &MlaSpec::v_head_dim}};
}

template <>
constexpr auto fields_of<KvCacheSpec>() {
  using S = KvCacheSpec;
  return std::tuple{Field{"layout", &S::layout},
                    Field{"dtype", &S::dtype},
                    Field{"num_blocks", &S::num_blocks},
                    Field{"block_size", &S::block_size},
                    Field{"num_kv_heads", &S::num_kv_heads},
                    Field{"head_dim", &S::head_dim},
                    Field{"head_dim_v", &S::head_dim_v},
                    Field{"scales", &S::scales}};
}

template <>
constexpr auto fields_of<PlanOptions>() {
  using S = PlanOptions;
  return std::tuple{Field{"deterministic", &S::deterministic},
                    Field{"lse_out", &S::lse_out},
                    InnerField{"max_query_len", &S::bounds, &PlanBounds::max_query_len},
                    InnerField{"max_seq_len", &S::bounds, &PlanBounds::max_seq_len},
                    Field{"decode_max_query_len", &S::decode_max_query_len},
                    Field{"chunk_workspace_rows", &S::chunk_workspace_rows}};
}

// visit(field) for each field of the struct, in order.
template <class Struct, class Visit>
constexpr void for_each_field(Visit&& visit) {
  std::apply([&](const auto&... field) { (visit(field), ...); }, fields_of<Struct>());
}

// As JSON has it: numbers and booleans as they are, types and layouts by name; no query_dtype is "".
inline bool json_value(bool value) { return value; }
inline int32_t json_value(int32_t value) { return value; }
inline int64_t json_value(int64_t value) { return value; }
inline float json_value(float value) { return value; }
inline const char* json_value(DType value) { return to_string(value); }
inline const char* json_value(KvLayout value) { return to_string(value); }
inline const char* json_value(KvScales value) { return to_string(value); }
inline const char* json_value(const std::optional<DType>& value) { return value ? to_string(*value) : ""; }

template <class Json, class Struct>
Json fields_to_json(const Struct& from) {
  Json json = Json::object();
  for_each_field<Struct>([&](const auto& field) { json[field.name] = json_value(field.of(from)); });
  return json;
}

}  // namespace sextant
