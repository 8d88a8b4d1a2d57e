// The table of docs/performance-cuda.md, "Unified against three paths": H100, Llama-3.1-8B, bf16, page 16.
#include "select/extend_profile.h"

#include <array>
#include <cmath>
#include <cstddef>

namespace sextant {
namespace {

constexpr std::array<int64_t, 4> kQueryLens = {128, 512, 2048, 8192};
constexpr std::array<int64_t, 4> kContextLens = {4096, 16384, 65536, 131072};
constexpr double kRatios[4][4] = {
    {1.70, 1.81, 2.29, 2.50}, {1.88, 1.35, 1.43, 1.44}, {1.37, 1.13, 1.13, 1.06}, {1.17, 1.05, 1.02, 1.08}};

// Nearest by ratio, not by difference.
template <size_t kSize>
size_t nearest_index(const std::array<int64_t, kSize>& measured, int64_t value) {
  size_t best = 0;
  const auto distance = [&](size_t i) {
    return std::abs(std::log2(static_cast<double>(measured[i])) - std::log2(static_cast<double>(value)));
  };
  for (size_t i = 1; i < kSize; ++i)
    if (distance(i) < distance(best)) best = i;
  return best;
}

}  // namespace

std::optional<double> three_paths_over_unified(const DeviceInfo& device, int64_t query_len, int64_t context_len) {
  const bool measured = device.kind == DeviceKind::kCuda && device.has_tuned_kernels;
  if (!measured || query_len <= 0 || context_len <= 0) return std::nullopt;
  return kRatios[nearest_index(kQueryLens, query_len)][nearest_index(kContextLens, context_len)];
}

}  // namespace sextant
