#include "model/config_fields.h"

#include <fmt/format.h>

#include <cmath>

namespace sextant::model {

using nlohmann::json;

const json* ConfigFields::find(std::initializer_list<const char*> names, std::string* found) const {
  for (const char* name : names) {
    const auto entry = object_.find(name);
    if (entry == object_.end() || entry->is_null()) continue;
    if (found != nullptr) *found = name;
    return &*entry;
  }
  return nullptr;
}

Status ConfigFields::error(const std::string& field, const json& value, const std::string& allowed) const {
  constexpr size_t kLongest = 60;
  std::string shown = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (shown.size() > kLongest) shown = shown.substr(0, kLongest) + "...";
  return invalid_argument(fmt::format("{}.{} is {}; allowed: {}", prefix_, field, shown, allowed));
}

Result<int64_t> ConfigFields::whole(std::initializer_list<const char*> names, int64_t min,
                                    std::optional<int64_t> fallback) const {
  constexpr int64_t kMax = int64_t{1} << 31;
  const std::string allowed = fmt::format("a whole number, {}..{}", min, kMax - 1);
  std::string name = *names.begin();
  const json* value = find(names, &name);
  if (value == nullptr) {
    if (fallback) return *fallback;
    return invalid_argument(fmt::format("{}.{} is missing; allowed: {}", prefix_, name, allowed));
  }
  // Some exporters write whole numbers as 256.0.
  double number = value->is_number() ? value->get<double>() : NAN;
  if (!(number >= static_cast<double>(min) && number < static_cast<double>(kMax)) || number != std::floor(number))
    return error(name, *value, allowed);
  return static_cast<int64_t>(number);
}

Result<double> ConfigFields::positive(std::initializer_list<const char*> names, double fallback) const {
  std::string name;
  const json* value = find(names, &name);
  if (value == nullptr) return fallback;
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (!std::isfinite(number) || number <= 0) return error(name, *value, "a finite number > 0");
  return number;
}

Result<bool> ConfigFields::flag(std::initializer_list<const char*> names, bool fallback) const {
  std::string name;
  const json* value = find(names, &name);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return error(name, *value, "true or false");
  return value->get<bool>();
}

Result<std::string> ConfigFields::text(std::initializer_list<const char*> names, std::string fallback) const {
  std::string name;
  const json* value = find(names, &name);
  if (value == nullptr) return fallback;
  if (!value->is_string()) return error(name, *value, "a string");
  return value->get<std::string>();
}

}  // namespace sextant::model
