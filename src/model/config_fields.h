// Typed access to a config.json's fields, with errors that name them.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "sextant/status.h"

namespace sextant::model {

class ConfigFields {
 public:
  explicit ConfigFields(const nlohmann::json& object, std::string prefix = "config")
      : object_(object), prefix_(std::move(prefix)) {}

  // The first of the names that is there and not null: projects of different age name the same thing differently.
  const nlohmann::json* find(std::initializer_list<const char*> names, std::string* found = nullptr) const;
  const nlohmann::json& object() const { return object_; }
  const std::string& prefix() const { return prefix_; }

  // A whole number >= min. Absent: `fallback`, or an error without one.
  Result<int64_t> whole(std::initializer_list<const char*> names, int64_t min,
                        std::optional<int64_t> fallback = {}) const;
  // A finite number > 0. Absent: the fallback.
  Result<double> positive(std::initializer_list<const char*> names, double fallback) const;
  Result<bool> flag(std::initializer_list<const char*> names, bool fallback) const;
  Result<std::string> text(std::initializer_list<const char*> names, std::string fallback) const;
  bool has(const char* name) const { return find({name}) != nullptr; }

  Status error(const std::string& field, const nlohmann::json& value, const std::string& allowed) const;

 private:
  const nlohmann::json& object_;
  std::string prefix_;
};

}  // namespace sextant::model
