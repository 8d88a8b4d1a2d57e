// MLA decode: the queries are taken into the latent space, so that one latent key serves all heads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/plan_parts.h"

namespace sextant {

class MlaDecodePath {
 public:
  static Result<std::unique_ptr<MlaDecodePath>> make(const Ops& ops, const PlanRequest& request, SplitPolicy split,
                                                     WorkspaceLayout& layout);
  Status launch(const RunTensors& tensors, Stream stream) const;
  std::vector<std::string> steps;

 private:
  Status plan_attention(const PlanRequest& request, SplitPolicy split, WorkspaceLayout& layout);
  Status project_queries(const TensorView& q_latent, const RunTensors& tensors, Stream stream) const;
  Status attend(const TensorView& q_latent, const TensorView& o_latent, const RunTensors& tensors, Stream stream) const;
  Status project_outputs(const TensorView& o_latent, const RunTensors& tensors, Stream stream) const;

  const Ops* ops_ = nullptr;
  AttentionSpec spec_;
  int32_t num_requests_ = 0;
  int64_t num_tokens_ = 0;
  bool lse_out_ = false, deterministic_ = false;
  RequestFilter filter_;
  std::vector<TokenRun> runs_;
  TokenRun tokens_;
  TurnOp attention_, prefix_attention_;  // the second for a shared prefix
  Region q_latent_, o_latent_, op_workspace_, gemm_workspace_;
  StateRegion prefix_state_, suffix_state_;
};

// The attention of MLA decode as an op sees it: one KV head, keys of the latent and rope size, values of the latent
// size.
AttentionPlanArgs mla_decode_args(const PlanRequest& request);

}  // namespace sextant
