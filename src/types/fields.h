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

// The lists: FIELD(name, word) is a member of the struct, INNER(name) one of the struct in it. The C structs have the
// same names flat (c_api/fields.h).
#define SEXTANT_ATTENTION_SPEC(FIELD, INNER)                                                                     \
  FIELD(num_heads, nullptr), FIELD(num_kv_heads, nullptr), FIELD(head_dim, nullptr), FIELD(head_dim_v, nullptr), \
      FIELD(softmax_scale, nullptr), FIELD(causal, "causal"), FIELD(sliding_window, "window"),                   \
      FIELD(window_left, "window to the left"), FIELD(window_right, "window to the right"),                      \
      FIELD(attention_chunk_size, "chunks"), FIELD(max_span_len, "spans"), FIELD(logits_soft_cap, "softcap"),    \
      FIELD(has_sinks, "sinks"), FIELD(has_alibi, "ALiBi"), FIELD(dtype, nullptr), FIELD(query_dtype, nullptr),  \
      INNER(kv_lora_rank), INNER(qk_nope_head_dim), INNER(qk_rope_head_dim), INNER(v_head_dim)
#define SEXTANT_KV_CACHE_SPEC(FIELD, INNER)                                                              \
  FIELD(layout, nullptr), FIELD(dtype, nullptr), FIELD(num_blocks, nullptr), FIELD(block_size, nullptr), \
      FIELD(num_kv_heads, nullptr), FIELD(head_dim, nullptr), FIELD(head_dim_v, nullptr), FIELD(scales, nullptr)
#define SEXTANT_PLAN_OPTIONS(FIELD, INNER)                                                          \
  FIELD(deterministic, nullptr), FIELD(lse_out, nullptr), INNER(max_query_len), INNER(max_seq_len), \
      FIELD(decode_max_query_len, nullptr), FIELD(chunk_workspace_rows, nullptr)

template <class Struct>
constexpr auto fields_of() = delete;

#define SEXTANT_FIELD(name, word) \
  Field { #name, &S::name, word }
#define SEXTANT_INNER_FIELD(name) \
  InnerField { #name, kInner, &Inner::name }
template <>
constexpr auto fields_of<AttentionSpec>() {
  using S = AttentionSpec;
  using Inner = MlaSpec;
  constexpr auto kInner = &S::mla;
  return std::tuple{SEXTANT_ATTENTION_SPEC(SEXTANT_FIELD, SEXTANT_INNER_FIELD)};
}

template <>
constexpr auto fields_of<KvCacheSpec>() {
  using S = KvCacheSpec;
  return std::tuple{SEXTANT_KV_CACHE_SPEC(SEXTANT_FIELD, SEXTANT_INNER_FIELD)};
}

template <>
constexpr auto fields_of<PlanOptions>() {
  using S = PlanOptions;
  using Inner = PlanBounds;
  constexpr auto kInner = &S::bounds;
  return std::tuple{SEXTANT_PLAN_OPTIONS(SEXTANT_FIELD, SEXTANT_INNER_FIELD)};
}
#undef SEXTANT_FIELD
#undef SEXTANT_INNER_FIELD

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
