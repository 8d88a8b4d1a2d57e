// MLA prefill: keys and values are up-projected from the latent, then attended as ordinary heads of sizes 192 / 128.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/chunked_prefill.h"

namespace sextant {

class MlaPrefillPath {
 public:
  // value_dim > mla.v_head_dim pads V with zeros and slices the output back.
  static Result<std::unique_ptr<MlaPrefillPath>> make(const Ops& ops, const PlanRequest& request, int32_t value_dim,
                                                      WorkspaceLayout& layout);
  Status launch(const RunTensors& tensors, Stream stream) const;
  std::vector<std::string> steps;

 private:
  class Loader;
  bool pads_values() const { return value_dim_ > spec_.mla.v_head_dim; }
  // Up-projects `latent` [rows, rank] and joins `k_pe` [rows, rope]; rows land at `first` of the packed workspace
  // tensors.
  Status up_project(const TensorView& latent, const TensorView& k_pe, const PackedKeys& keys,
                    const TensorView& projected, const RunTensors& tensors, Stream stream) const;
  // Views of the workspace: `rows` rows, of which those of `run` exist.
  TensorView projected_view(const RunTensors& tensors, TokenRun run, int64_t rows) const;  // [rows, N, nope + v]
  PackedKeys keys_view(const RunTensors& tensors, TokenRun run, int64_t rows) const;
  TensorView latent_view(int buffer, int64_t rows, const RunTensors& tensors) const;  // [rows, 1, rank + rope]
  struct Latents {
    TensorView kv_c;  // [rows, rank]
    TensorView k_pe;  // [rows, rope]
  };
  // Of the new tokens: the caller's, or without slots what the cache holds.
  Result<Latents> new_latents(const RunTensors& tensors, Stream stream) const;
  Latents split_latents(const TensorView& rows) const;
  GatherCacheArgs gather_args(const RunTensors& tensors) const;
  Status gather_chunk(const ContextChunk& chunk, const RunTensors& tensors, Stream stream) const;
  Result<PackedKeys> project_chunk(const ContextChunk& chunk, const RunTensors& tensors, Stream stream) const;
  Status copy_outputs(const TensorView& padded, const RunTensors& tensors, Stream stream) const;

  const Ops* ops_ = nullptr;
  AttentionSpec spec_;
  int32_t value_dim_ = 0;
  bool deterministic_ = false;
  int32_t num_requests_ = 0;
  int64_t num_tokens_ = 0;
  std::vector<TokenRun> runs_;
  TokenRun tokens_;
  ChunkedPrefill attention_;
  Region projected_, k_, v_padded_, latent_[2], out_padded_, gemm_workspace_;
};

// varlen_attention's view of an MLA request: N KV heads of sizes nope + rope and value_dim.
PlanRequest mla_prefill_request(const PlanRequest& request, int32_t value_dim);

}  // namespace sextant
