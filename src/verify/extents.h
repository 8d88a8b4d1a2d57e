// How many elements a file says that its tensor has.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace sextant::verify {

// Nothing where an extent is negative or the product is more than any file holds.
inline std::optional<int64_t> checked_elements(std::span<const int64_t> extents) {
  int64_t elements = 1;
  for (const int64_t extent : extents)
    if (extent < 0 || __builtin_mul_overflow(elements, extent, &elements) || elements > int64_t{1} << 48) return {};
  return elements;
}

}  // namespace sextant::verify
