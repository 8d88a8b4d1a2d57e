// Typed access to a config.json's fields, with errors that name them.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "sextant/status.h"

namespace sextant::model {

// Which fields made the answer, so that the rest can be said.
struct FieldUse {
  std::set<std::string> read;        // names that were asked for
  std::set<std::string> by_default;  // not in the config: the class's default was taken
};

class ConfigFields {
 public:
  // `defaults`: the values that the model type's class has for fields that the config leaves out. It and `use` must
  // outlive this.
  explicit ConfigFields(const nlohmann::json& object, std::string prefix = "config",
                        const nlohmann::json* defaults = nullptr, FieldUse* use = nullptr)
      : object_(&object), defaults_(defaults), prefix_(std::move(prefix)), use_(use) {}

  using Names = std::vector<std::string>;
  // The first of the names that is there and not null: projects of different age name the same thing differently. The
  // class's default stands in only where none of the names is there: a null says "none".
  const nlohmann::json* find(const Names& names, std::string* found = nullptr) const;
  // The same without the class's defaults.
  const nlohmann::json* given(const Names& names, std::string* found = nullptr) const;
  void mark_read(const Names& names) const;
  const nlohmann::json& object() const { return *object_; }
  const std::string& prefix() const { return prefix_; }

  // A whole number >= min. Absent: `fallback`, or an error without one. Two names with two values are an error.
  Result<int64_t> whole(const Names& names, int64_t min, std::optional<int64_t> fallback = {}) const;
  // The same; a weaker name, which means other things elsewhere, stands in where the config has none of the others,
  // before the class's default.
  Result<int64_t> whole(const Names& names, const Names& weaker, int64_t min,
                        std::optional<int64_t> fallback = {}) const;
  // A finite number > 0. Absent: the fallback.
  Result<double> positive(const Names& names, double fallback) const;
  Result<bool> flag(const Names& names, bool fallback) const;
  Result<std::string> text(const Names& names, std::string fallback) const;
  // An object within, empty where there is none; its fields are named "prefix.name.field".
  Result<ConfigFields> section(const std::string& name) const;
  // A list of whole numbers >= min; empty where there is none.
  Result<std::vector<int64_t>> whole_list(const std::string& name, int64_t min) const;
  bool has(const char* name) const { return find({name}) != nullptr; }

  Status error(const std::string& field, const nlohmann::json& value, const std::string& allowed) const;

 private:
  Status check_agreement(const Names& names) const;

  const nlohmann::json* object_;
  const nlohmann::json* defaults_;
  std::string prefix_;
  FieldUse* use_;
};

}  // namespace sextant::model
