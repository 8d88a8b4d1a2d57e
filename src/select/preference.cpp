// The figures behind each line are in docs/performance.md and its parts.
#include "select/preference.h"

#include <fmt/format.h>

#include <algorithm>

#include "select/extend_profile.h"

namespace sextant {
namespace {

std::vector<Preference> mla_order(const AttentionSpec& spec) {
  const int32_t k = spec.head_dim, v = spec.value_head_dim();
  std::string padded;
  if (v < k)
    padded = fmt::format("; V padded from {} to {} costs {:.0f} % more work in prefill", v, k,
                         100.0 * (2.0 * k / (k + v) - 1));
  return {{"ROCM_AITER_MLA", "tuned kernels, V in its own head size and decode from a balanced work list"},
          {"TRITON_MLA", "portable kernels" + padded}};
}

std::vector<Preference> mha_order(const DeviceInfo& device, const SelectRequest& request) {
  Preference unified = {"ROCM_AITER_UNIFIED_ATTN",
                        "tuned kernels, one launch for decode, extend and prefill, no gather of the context"};
  Preference three_paths = {
      "ROCM_AITER_FA",
      "tuned kernels; extends gather their context and merge states, which costs extra memory traffic"};
  const auto ratio = three_paths_over_unified(device, request.typical_query_len, request.typical_context_len);
  if (ratio) {
    const std::string measured = fmt::format(
        "measured about {} new tokens over {} of context: ROCM_AITER_FA takes {:.2f} times as long as "
        "ROCM_AITER_UNIFIED_ATTN",
        request.typical_query_len, request.typical_context_len, *ratio);
    unified.why = three_paths.why = "tuned kernels; " + measured;
  }
  const bool unified_first = !ratio || *ratio >= 1;
  return {unified_first ? unified : three_paths,
          unified_first ? three_paths : unified,
          {"TRITON_ATTN", "portable kernels, one launch"},
          {"ROCM_ATTN", "portable kernels, fixed partitions of 256 keys in decode"}};
}

}  // namespace

std::vector<Preference> preference_order(const DeviceInfo& device, const SelectRequest& request) {
  if (request.spec.mla.enabled()) return mla_order(request.spec);
  return mha_order(device, request);
}

}  // namespace sextant
