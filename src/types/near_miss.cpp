// Finds the known name that is closest to a misspelt one.
#include "types/near_miss.h"

#include <algorithm>
#include <vector>

namespace sextant {
namespace {

// ASCII only: names here are ASCII, and the result must not depend on the locale.
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
bool same(char a, char b) { return lower(a) == lower(b); }

}  // namespace

size_t edit_distance(std::string_view a, std::string_view b) {
  // Three rows of the classic table; the third one back is what a swap of neighbours needs.
  std::vector<size_t> two_back(b.size() + 1), previous(b.size() + 1), current(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) previous[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = previous[j - 1] + (same(a[i - 1], b[j - 1]) ? 0 : 1);
      current[j] = std::min({replaced, previous[j] + 1, current[j - 1] + 1});
      if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1]))
        current[j] = std::min(current[j], two_back[j - 2] + 1);
    }
    std::swap(two_back, previous);
    std::swap(previous, current);
  }
  return previous[b.size()];
}

std::optional<std::string> nearest(std::string_view name, std::span<const std::string> candidates) {
  std::optional<std::string> best;
  size_t best_distance = 0;
  for (const std::string& candidate : candidates) {
    const size_t longest = std::max(name.size(), candidate.size());
    const size_t allowed = std::clamp<size_t>(longest / 4, 1, 4);
    const size_t shortest = std::min(name.size(), candidate.size());
    if (longest - shortest > allowed || shortest == 0) continue;
    const size_t distance = edit_distance(name, candidate);
    if (distance > allowed || (best && distance >= best_distance)) continue;
    best = candidate;
    best_distance = distance;
  }
  return best;
}

}  // namespace sextant
