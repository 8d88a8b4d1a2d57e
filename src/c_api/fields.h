// The C structs' fields: the lists of types/fields.h once more, so that a field that the C++ struct has and the C
// struct lacks does not compile.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string_view>
#include <tuple>

#include "sextant/sextant.h"
#include "types/fields.h"

namespace sextant {

#define SEXTANT_C_FIELD(name, word) \
  Field { #name, &S::name }
#define SEXTANT_C_INNER_FIELD(name) \
  Field { #name, &S::name }

template <>
constexpr auto fields_of<sextant_attention_spec>() {
  using S = sextant_attention_spec;
  return std::tuple{SEXTANT_ATTENTION_SPEC(SEXTANT_C_FIELD, SEXTANT_C_INNER_FIELD)};
}

template <>
constexpr auto fields_of<sextant_kv_cache_spec>() {
  using S = sextant_kv_cache_spec;
  return std::tuple{SEXTANT_KV_CACHE_SPEC(SEXTANT_C_FIELD, SEXTANT_C_INNER_FIELD)};
}

template <>
constexpr auto fields_of<sextant_plan_options>() {
  using S = sextant_plan_options;
  return std::tuple{SEXTANT_PLAN_OPTIONS(SEXTANT_C_FIELD, SEXTANT_C_INNER_FIELD)};
}
#undef SEXTANT_C_FIELD
#undef SEXTANT_C_INNER_FIELD

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
