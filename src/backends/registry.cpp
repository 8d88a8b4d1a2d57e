// The six names.
#include "backends/registry.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "types/near_miss.h"

namespace sextant {

std::span<const Backend* const> all_backends() {
  static const std::array<const Backend*, 6> kBackends = {
      triton_attn(), rocm_aiter_unified_attn(), rocm_attn(), rocm_aiter_fa(), triton_mla(), rocm_aiter_mla()};
  return kBackends;
}

Result<const Backend*> find_backend(std::string_view name) {
  std::vector<std::string> names;
  for (const Backend* backend : all_backends()) {
    if (backend->info().name == name) return backend;
    names.push_back(backend->info().name);
  }
  std::string upper(name);
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  const std::optional<std::string> near = nearest(upper, names);
  return Status(StatusCode::kNotFound,
                fmt::format("backend is \"{}\"{}; allowed: {}", name,
                            near ? fmt::format(" (did you mean {}?)", *near) : std::string(), fmt::join(names, ", ")));
}

}  // namespace sextant
