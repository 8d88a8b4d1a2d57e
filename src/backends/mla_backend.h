// What the two MLA backends share: everything but how V is laid out in prefill and how decode is split.
//
//   kv_c, k_pe --> concat_and_cache_mla --> latent cache [block, token, 512 + 64]
//
//   prefill, as MHA (query_len > d):
//     kv_c --kv_b_proj--> k_nope, v      k = cat(k_nope, broadcast k_pe)
//     varlen_attention(192 / 128) on the new tokens; context in chunks: gather_cache -> kv_b_proj -> attention -> merge
//     --> out
//
//   decode, as MQA in the latent space (query_len <= d):
//     q_nope --W_UK--> [q_latent | q_pe] --mla_decode(576 / 512)--> o_latent --W_UV--> out
//
// Sources: DeepSeek-V2 (arXiv:2405.04434), section 2.1, and its appendix on absorbing the up-projections.
#pragma once

#include "backends/plan_parts.h"
#include "sextant/backend.h"

namespace sextant {

class MlaBackend : public Backend {
 public:
  std::vector<std::string> reasons_against(const AttentionSpec& spec, const KvCacheSpec& cache,
                                           const Device& device) const override;
  KvLayout preferred_layout(const DeviceInfo&, DType) const override { return KvLayout::kLatent; }

 protected:
  // Head size of V in prefill attention: v_head_dim, or more when V is padded with zeros.
  virtual int32_t prefill_value_dim(const MlaSpec& mla) const = 0;
  virtual SplitPolicy decode_split(const Device& device, const PlanRequest& request) const = 0;

  Result<std::shared_ptr<Plan>> make_plan(const Device& device, const PlanRequest& request) const final;
};

}  // namespace sextant
