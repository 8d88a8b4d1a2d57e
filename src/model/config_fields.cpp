// Reads fields of a config, remembers which were read, and names those of a wrong type.
#include "model/config_fields.h"

#include <fmt/format.h>

#include <cmath>

#include "types/json_text.h"

namespace sextant::model {

using nlohmann::json;

namespace {

const json* first_of(const json& object, const ConfigFields::Names& names, std::string* found) {
  for (const std::string& name : names) {
    const auto entry = object.find(name);
    if (entry == object.end() || entry->is_null()) continue;
    if (found != nullptr) *found = name;
    return &*entry;
  }
  return nullptr;
}

}  // namespace

const json* ConfigFields::given(const Names& names, std::string* found) const {
  mark_read(names);
  return first_of(*object_, names, found);
}

void ConfigFields::mark_read(const Names& names) const {
  if (use_ != nullptr) use_->read.insert(names.begin(), names.end());
}

const json* ConfigFields::find(const Names& names, std::string* found) const {
  if (const json* value = given(names, found)) return value;
  for (const std::string& name : names)
    if (object_->contains(name)) return nullptr;
  if (defaults_ == nullptr) return nullptr;
  std::string name;
  const json* value = first_of(*defaults_, names, &name);
  if (value == nullptr) return nullptr;
  if (use_ != nullptr) use_->by_default.insert(name);
  if (found != nullptr) *found = name;
  return value;
}

Status ConfigFields::error(const std::string& field, const json& value, const std::string& allowed) const {
  return invalid_argument(fmt::format("{}.{} is {}; allowed: {}", prefix_, field, shown_json(value), allowed));
}

Status ConfigFields::check_agreement(const Names& names) const {
  std::string first_name, name;
  const json* first = given(names, &first_name);
  for (size_t i = 0; first != nullptr && i < names.size(); ++i) {
    const json* other = given({names[i]}, &name);
    if (other != nullptr && *other != *first)
      return error(name, *other, fmt::format("{} (what {}.{} says)", shown_json(*first), prefix_, first_name));
  }
  return Status::ok();
}

Result<int64_t> ConfigFields::whole(const Names& names, int64_t min, std::optional<int64_t> fallback) const {
  constexpr int64_t kMax = int64_t{1} << 31;
  const std::string allowed = fmt::format("a whole number, {}..{}", min, kMax - 1);
  std::string name = names.front();
  const json* value = find(names, &name);
  if (value == nullptr) {
    if (fallback) return *fallback;
    return invalid_argument(fmt::format("{}.{} is missing; allowed: {}", prefix_, name, allowed));
  }
  // Some exporters write whole numbers as 256.0.
  double number = value->is_number() ? value->get<double>() : NAN;
  if (!(number >= static_cast<double>(min) && number < static_cast<double>(kMax)) || number != std::floor(number))
    return error(name, *value, allowed);
  SEXTANT_RETURN_IF_ERROR(check_agreement(names));
  return static_cast<int64_t>(number);
}

Result<int64_t> ConfigFields::whole(const Names& names, const Names& weaker, int64_t min,
                                    std::optional<int64_t> fallback) const {
  if (given(names) != nullptr) return whole(names, min, fallback);
  std::string name;
  if (given(weaker, &name) != nullptr) return whole({name}, min);
  if (find(names) != nullptr) return whole(names, min, fallback);
  if (find(weaker, &name) != nullptr) return whole({name}, min);
  return whole(names, min, fallback);
}

Result<double> ConfigFields::positive(const Names& names, double fallback) const {
  std::string name;
  const json* value = find(names, &name);
  if (value == nullptr) return fallback;
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (!std::isfinite(number) || number <= 0) return error(name, *value, "a finite number > 0");
  if (number < 1e-15 || number > 1e15) return error(name, *value, "1e-15..1e15");  // fits a float, and so do its roots
  return number;
}

Result<bool> ConfigFields::flag(const Names& names, bool fallback) const {
  std::string name;
  const json* value = find(names, &name);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return error(name, *value, "true or false");
  return value->get<bool>();
}

Result<std::string> ConfigFields::text(const Names& names, std::string fallback) const {
  std::string name;
  const json* value = find(names, &name);
  if (value == nullptr) return fallback;
  if (!value->is_string()) return error(name, *value, "a string");
  return value->get<std::string>();
}

Result<ConfigFields> ConfigFields::section(const std::string& name) const {
  static const json kEmpty = json::object();
  const json* value = find({name});
  if (value == nullptr) value = &kEmpty;
  if (!value->is_object()) return error(name, *value, "an object");
  const json* defaults = defaults_ != nullptr && defaults_->contains(name) ? &defaults_->at(name) : nullptr;
  return ConfigFields(*value, prefix_ + "." + name, defaults);
}

Result<std::vector<int64_t>> ConfigFields::whole_list(const std::string& name, int64_t min) const {
  const json* value = find({name});
  std::vector<int64_t> numbers;
  if (value == nullptr) return numbers;
  const std::string allowed = fmt::format("a list of whole numbers >= {}", min);
  if (!value->is_array()) return error(name, *value, allowed);
  constexpr int64_t kMax = int64_t{1} << 31;
  for (const json& entry : *value) {
    const bool fits = entry.is_number_integer() && entry >= min && entry < kMax;
    if (!fits)
      return error(fmt::format("{}[{}]", name, numbers.size()), entry, fmt::format("a whole number >= {}", min));
    numbers.push_back(entry.get<int64_t>());
  }
  return numbers;
}

}  // namespace sextant::model
