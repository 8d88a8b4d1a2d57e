// "Did you mean": the known name that a misspelt one is closest to.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace sextant {

// Inserted, deleted, replaced characters and swapped neighbours, letter case ignored (optimal string alignment).
size_t edit_distance(std::string_view a, std::string_view b);

// The closest candidate when it is close enough to be a slip: at most a quarter of the name, never more than four
// edits.
std::optional<std::string> nearest(std::string_view name, std::span<const std::string> candidates);

}  // namespace sextant
