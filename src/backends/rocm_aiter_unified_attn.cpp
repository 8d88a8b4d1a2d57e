// ROCM_AITER_UNIFIED_ATTN: unified attention from tuned kernels over a planned, balanced work list.
//
//   k, v --> reshape_and_cache --> paged cache --> unified_attention over work items --> out
//                                                  {request, head, queries, keys}  \--> partial states --> reduce map
//                                                  --> out
//
// Decode, extend and prefill requests share one launch; the plan gives every compute unit the same amount of work.
#include "backends/registry.h"
#include "backends/unified_path.h"

namespace sextant {
namespace {

class RocmAiterUnifiedAttn final : public MhaBackend {
 public:
  const BackendInfo& info() const override {
    static const BackendInfo kInfo = {
        "ROCM_AITER_UNIFIED_ATTN", BackendCategory::kMha, KernelFamily::kTuned,
        "Unified: cache write, then one attention call for decode, extend and prefill together, over a "
        "planned, balanced work list. Tuned kernels."};
    return kInfo;
  }
  KvLayout preferred_layout(const DeviceInfo& device, DType cache_dtype) const override {
    return tuned_layout(device, cache_dtype);
  }

 protected:
  std::vector<AttentionOp> ops_used() const override { return {AttentionOp::kUnified}; }
  Result<std::unique_ptr<MainPath>> make_main_path(const Ops& ops, const Device&, const PlanRequest& request,
                                                   const MainPathRequest& main,
                                                   WorkspaceLayout& layout) const override {
    return UnifiedPath::make(ops, request, main, SplitPolicy{}, layout);
  }
};

}  // namespace

KvLayout tuned_layout(const DeviceInfo& device, DType cache_dtype) {
  // The CPU's matrix instructions read pairs of bf16, codes of 8 bits become such; packing them at cache write saves
  // packing them at every step.
  const bool pairs = device.kind == DeviceKind::kCpu && device.has_tuned_kernels &&
                     (cache_dtype == DType::kBF16 || size_of(cache_dtype) == 1);
  return pairs ? KvLayout::kPacked : KvLayout::kNHD;
}

const Backend* rocm_aiter_unified_attn() {
  static const RocmAiterUnifiedAttn kBackend;
  return &kBackend;
}

}  // namespace sextant
