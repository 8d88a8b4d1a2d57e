// What the four MHA backends share: the cache write, the capability check and the shared-prefix cascade around a
// backend's own main path.
//
//             +------------------------+
//   k, v ---> | reshape_and_cache      |
//             +------------------------+
//                         |
//        no shared prefix |                 shared prefix of P tokens
//             +-----------+-----------+-------------------------------+
//             v                       v                               v
//      main path, keys [0, S)    main path, keys [P, S)     unified_attention, keys [0, P)
//             |                       |  fp32 state                   |  all requests at once, fp32 state
//             v                       +---------> merge_attn_states <-+
//            out                                        v
//                                                      out
#pragma once

#include <memory>

#include "backends/plan_parts.h"
#include "sextant/backend.h"

namespace sextant {

// What the main path is asked for. It attends keys at positions >= key_begin and writes out (and lse when asked).
struct MainPathRequest {
  int64_t key_begin = 0;
  bool lse_out = false;
  DType out_dtype = DType::kBF16;
};

class MainPath {
 public:
  virtual ~MainPath() = default;
  // tensors.out / lse may be in the workspace. k and v are absent where the cache holds every key.
  virtual Status launch(const RunTensors& tensors, Stream stream) const = 0;
  std::vector<std::string> steps;
};

class MhaBackend : public Backend {
 public:
  std::vector<std::string> reasons_against(const AttentionSpec& spec, const KvCacheSpec& cache,
                                           const Device& device) const override;

 protected:
  // The ops that the main path is made of, for the capability check.
  virtual std::vector<AttentionOp> ops_used() const = 0;
  virtual Result<std::unique_ptr<MainPath>> make_main_path(const Ops& ops, const Device& device,
                                                           const PlanRequest& request, const MainPathRequest& main,
                                                           WorkspaceLayout& layout) const = 0;
  Result<std::shared_ptr<Plan>> make_plan(const Device& device, const PlanRequest& request) const final;
};

// Attention over requests with longer queries than decode's, every key from the cache: for paths that read the new
// tokens from k and v, where a run brings none. Null when there are no such requests.
Result<AttentionPlanPtr> plan_cached_prefill(const Ops& ops, const PlanRequest& request, const MainPathRequest& main);

// The layout that a device's tuned kernels read best.
KvLayout tuned_layout(const DeviceInfo& device, DType cache_dtype);

// Reasons of the ops of one family against a spec, each once.
std::vector<std::string> op_reasons(const Ops& ops, std::span<const AttentionPlanArgs> uses);

}  // namespace sextant
