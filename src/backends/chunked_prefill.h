// Prefill and extend over packed keys, as ROCM_AITER_FA and the MLA backends do it.
//
//   requests without context:  varlen_attention(new tokens, causal) ------------------------------------------> out
//   requests with context:     varlen_attention(new tokens, causal) -> new state -------------------+
//                              for each chunk of the context:                                       |
//                                context_chunk_offsets -> load keys -> varlen_attention -> chunk state
//                                merge_attn_states(context state, chunk state) -> context state     |
//                              merge_attn_states(context state, new state) <------------------------+ --------> out
//
// Where the keys of a chunk come from is the caller's: gathered K and V, or an up-projected latent.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "backends/plan_parts.h"

namespace sextant {

// Keys and values of a step, packed.
struct PackedKeys {
  TensorView k;  // [rows, Hkv, D]
  TensorView v;  // [rows, Hkv, Dv]
};

struct ContextChunk {
  int64_t begin = 0;                       // first key position of the chunk, in every request
  int64_t rows = 0;                        // keys of the chunk, all requests together, at most
  const int32_t* key_start_loc = nullptr;  // device [B + 1]
};
using LoadChunk = std::function<Result<PackedKeys>(const ContextChunk&)>;

struct ChunkedPrefillConfig {
  int64_t key_begin = 0;  // context keys from here on (a shared prefix is somebody else's)
  bool lse_out = false;
  DType out_dtype = DType::kBF16;
  int64_t workspace_rows = 0;  // keys of a chunk, all requests together
  SplitPolicy split;
};

class ChunkedPrefill {
 public:
  // `request.spec` gives heads and head sizes as varlen_attention sees them (after an up-projection).
  static Result<ChunkedPrefill> make(const Ops& ops, const PlanRequest& request, const ChunkedPrefillConfig& config,
                                     WorkspaceLayout& layout);

  bool empty() const { return !direct_ && !new_tokens_; }
  int64_t chunk_rows() const { return chunk_rows_; }  // rows that load_chunk must provide for at most
  const std::vector<std::string>& steps() const { return steps_; }

  // `new_keys` are indexed by token of the batch. `tensors.out` / `lse` are written for the prefill requests only.
  Status run(const RunTensors& tensors, const PackedKeys& new_keys, const LoadChunk& load_chunk, Stream stream) const;

 private:
  struct Chunk {
    int64_t begin;
    int64_t rows;
    AttentionPlanPtr plan;
  };
  Status plan_new_tokens(const PlanRequest& request, const ChunkedPrefillConfig& config);
  Status plan_chunks(const PlanRequest& request, const ChunkedPrefillConfig& config);
  Status run_chunk(const Chunk& chunk, const StateRegion& state, const RunTensors& tensors, const LoadChunk& load_chunk,
                   Stream stream) const;
  Status merge(const StateRegion& prefix, const StateRegion& suffix, const TensorView& out, const TensorView& lse,
               const RunTensors& tensors, Stream stream) const;

  const Ops* ops_ = nullptr;
  int32_t num_requests_ = 0;
  bool lse_out_ = false;
  RequestFilter extend_filter_;
  AttentionPlanPtr direct_;      // requests whose new tokens are all they see
  AttentionPlanPtr new_tokens_;  // new tokens of requests with context
  std::vector<Chunk> chunks_;
  int64_t chunk_len_ = 0;
  int64_t chunk_rows_ = 0;
  Region op_workspace_, key_start_loc_;
  StateRegion new_state_, context_state_, chunk_state_;
  std::vector<std::string> steps_;
};

}  // namespace sextant
