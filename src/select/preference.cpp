// The figures behind each line are in docs/performance.md.
#include "select/preference.h"

#include <algorithm>

namespace sextant {
namespace {

std::vector<Preference> mla_order() {
  return {{"ROCM_AITER_MLA", "tuned kernels, V in its own head size and decode from a balanced work list"},
          {"TRITON_MLA", "portable kernels; V padded from 128 to 192 costs 20 % more work in prefill"}};
}

std::vector<Preference> mha_order() {
  return {
      {"ROCM_AITER_UNIFIED_ATTN", "tuned kernels, one launch for decode, extend and prefill, no gather of the context"},
      {"ROCM_AITER_FA",
       "tuned kernels; extends gather their context and merge states, which costs extra memory traffic"},
      {"TRITON_ATTN", "portable kernels, one launch"},
      {"ROCM_ATTN", "portable kernels, fixed partitions of 256 keys in decode"}};
}

}  // namespace

std::vector<Preference> preference_order(const DeviceInfo& device, const SelectRequest& request) {
  if (request.spec.mla.enabled()) return mla_order();
  return mha_order();
}

}  // namespace sextant
