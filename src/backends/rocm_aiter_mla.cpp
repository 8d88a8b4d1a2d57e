// ROCM_AITER_MLA: prefill attention with native different head sizes (192 / 128); decode over a planned, balanced work
// list, with any head count and any block size. Tuned kernels.
#include "backends/mla_backend.h"
#include "backends/registry.h"

namespace sextant {
namespace {

class RocmAiterMla final : public MlaBackend {
 public:
  const BackendInfo& info() const override {
    static const BackendInfo kInfo = {
        "ROCM_AITER_MLA", BackendCategory::kMla, KernelFamily::kTuned,
        "MLA: prefill with native different head sizes; decode by weight absorption over a planned, "
        "balanced work list, any head count. Tuned kernels."};
    return kInfo;
  }

 protected:
  int32_t prefill_value_dim(const MlaSpec& mla) const override { return mla.v_head_dim; }
  SplitPolicy decode_split(const Device&, const PlanRequest&) const override { return {}; }
};

}  // namespace

const Backend* rocm_aiter_mla() {
  static const RocmAiterMla kBackend;
  return &kBackend;
}

}  // namespace sextant
