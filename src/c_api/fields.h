// The C structs' fields, under the names that types/fields.h gives the C++ ones. A field that the C++ struct has and
// the C struct lacks does not compile.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string_view>
#include <tuple>

#include "sextant/sextant.h"
#include "types/fields.h"

namespace sextant {

#define SEXTANT_C_FIELD(name) \
  Field { #name, &S::name }

template <>
constexpr auto fields_of<sextant_attention_spec>() {
  using S = sextant_attention_spec;
  return std::tuple{SEXTANT_C_FIELD(num_heads),
                    SEXTANT_C_FIELD(num_kv_heads),
                    SEXTANT_C_FIELD(head_dim),
                    SEXTANT_C_FIELD(head_dim_v),
                    SEXTANT_C_FIELD(softmax_scale),
                    SEXTANT_C_FIELD(causal),
                    SEXTANT_C_FIELD(sliding_window),
                    SEXTANT_C_FIELD(window_left),
                    SEXTANT_C_FIELD(window_right),
                    SEXTANT_C_FIELD(attention_chunk_size),
                    SEXTANT_C_FIELD(max_span_len),
                    SEXTANT_C_FIELD(logits_soft_cap),
                    SEXTANT_C_FIELD(has_sinks),
                    SEXTANT_C_FIELD(has_alibi),
                    SEXTANT_C_FIELD(dtype),
                    SEXTANT_C_FIELD(query_dtype),
                    SEXTANT_C_FIELD(kv_lora_rank),
                    SEXTANT_C_FIELD(qk_nope_head_dim),
                    SEXTANT_C_FIELD(qk_rope_head_dim),
                    SEXTANT_C_FIELD(v_head_dim)};
}

template <>
constexpr auto fields_of<sextant_kv_cache_spec>() {
  using S = sextant_kv_cache_spec;
  return std::tuple{SEXTANT_C_FIELD(layout),     SEXTANT_C_FIELD(dtype),        SEXTANT_C_FIELD(num_blocks),
                    SEXTANT_C_FIELD(block_size), SEXTANT_C_FIELD(num_kv_heads), SEXTANT_C_FIELD(head_dim),
                    SEXTANT_C_FIELD(head_dim_v), SEXTANT_C_FIELD(scales)};
}

template <>
constexpr auto fields_of<sextant_plan_options>() {
  using S = sextant_plan_options;
  return std::tuple{SEXTANT_C_FIELD(deterministic),        SEXTANT_C_FIELD(lse_out),
                    SEXTANT_C_FIELD(max_query_len),        SEXTANT_C_FIELD(max_seq_len),
                    SEXTANT_C_FIELD(decode_max_query_len), SEXTANT_C_FIELD(chunk_workspace_rows)};
}
#undef SEXTANT_C_FIELD

namespace c_api {

struct FieldName {
  const char* owner;  // "spec"
  const char* field;
};
template <class Enum>
Status assign_enum(FieldName name, int32_t from, Enum first, Enum last, const char* type, Enum& to) {
  if (from < static_cast<int32_t>(first) || from > static_cast<int32_t>(last))
    return invalid_argument(fmt::format("{}.{} is {}; allowed: {}..{} ({})", name.owner, name.field, from,
                                        static_cast<int32_t>(first), static_cast<int32_t>(last), type));
  to = static_cast<Enum>(from);
  return Status::ok();
}
inline Status assign(FieldName name, int32_t from, DType& to) {
  return assign_enum(name, from, DType::kF32, DType::kI8, "sextant_dtype", to);
}
inline Status assign(FieldName name, int32_t from, KvLayout& to) {
  return assign_enum(name, from, KvLayout::kPreferred, KvLayout::kLatent, "sextant_kv_layout", to);
}
inline Status assign(FieldName name, int32_t from, KvScales& to) {
  return assign_enum(name, from, KvScales::kShared, KvScales::kTokenHead, "sextant_kv_scales", to);
}
inline Status assign(FieldName name, int32_t from, std::optional<DType>& to) {
  return from == 0 ? Status::ok() : assign(name, from, to.emplace());
}
inline Status assign(FieldName, int32_t from, bool& to) {
  to = from != 0;
  return Status::ok();
}
// A zero means the default of the C++ struct.
template <class Number>
  requires std::is_arithmetic_v<Number>
Status assign(FieldName, Number from, Number& to) {
  if (from != 0) to = from;
  return Status::ok();
}

template <class Struct>
constexpr size_t index_of_field(std::string_view name) {
  size_t index = 0, found = std::tuple_size_v<decltype(fields_of<Struct>())>;
  for_each_field<Struct>([&](const auto& field) {
    if (name == field.name) found = index;
    ++index;
  });
  return found;
}

template <class To, class From, size_t I = 0>
Status copy_fields(const char* owner, const From& from, To& to) {
  if constexpr (I == std::tuple_size_v<decltype(fields_of<To>())>) {
    return Status::ok();
  } else {
    constexpr auto field = std::get<I>(fields_of<To>());
    constexpr size_t source = index_of_field<From>(field.name);
    static_assert(source < std::tuple_size_v<decltype(fields_of<From>())>, "the C struct has no field of this name");
    constexpr auto c_field = std::get<source>(fields_of<From>());
    SEXTANT_RETURN_IF_ERROR(assign({owner, field.name}, c_field.of(from), field.of(to)));
    return copy_fields<To, From, I + 1>(owner, from, to);
  }
}

}  // namespace c_api
}  // namespace sextant
