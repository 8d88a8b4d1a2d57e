// Prefill and extend over packed keys, as ROCM_AITER_FA and the MLA backends do it.
//
//   requests without context:  varlen_attention(new tokens, causal) ------------------------------------------> out
//   requests with context:     varlen_attention(new tokens, causal) -> state
//                              for each chunk of the context:
//                                load keys -> varlen_attention, not causal -> chunk state
//                                merge_attn_states(state, chunk state) -> state, or after the last chunk ------> out
//
// Where the ops merge in attention's epilogue, the chunk state and the merge's passes are saved. Where ops overlap,
// keys are loaded into two buffers in turn: those of the next chunk while this one's attention ends.
//
// Where the keys of a chunk come from is the caller's: gathered K and V, or an up-projected latent.
#pragma once

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
  int buffer = 0;                          // 0 or 1
  bool beside_previous = false;            // the gather may overlap the op before it
};
class ChunkLoader {
 public:
  virtual ~ChunkLoader() = default;
  virtual Status gather(const ContextChunk& chunk) const = 0;            // out of the cache, into chunk.buffer
  virtual Result<PackedKeys> keys(const ContextChunk& chunk) const = 0;  // of a gathered chunk
};

struct ChunkedPrefillConfig {
  int64_t key_begin = 0;  // context keys from here on (a shared prefix is somebody else's)
  bool lse_out = false;
  DType out_dtype = DType::kBF16;
  int64_t workspace_rows = 0;  // keys of a chunk, all requests together
  bool shares_rows = true;     // with two buffers each takes half of them; no: buffers are small beside their keys
  // Of a request; 0: what workspace_rows leaves each. In deterministic mode the ends of chunks must not depend on the
  // batch.
  int64_t keys_a_chunk = 0;
  SplitPolicy split;
};

class ChunkedPrefill {
 public:
  // `request.spec` gives heads and head sizes as varlen_attention sees them (after an up-projection).
  static Result<ChunkedPrefill> make(const Ops& ops, const PlanRequest& request, const ChunkedPrefillConfig& config,
                                     WorkspaceLayout& layout);

  bool empty() const { return !direct_ && !new_tokens_; }
  int64_t chunk_rows() const { return chunk_rows_; }  // rows of a buffer that the loader must provide for at most
  int buffers() const { return buffers_; }
  const std::vector<std::string>& steps() const { return steps_; }

  // `new_keys` are indexed by token of the batch. `tensors.out` / `lse` are written for the prefill requests only.
  Status run(const RunTensors& tensors, const PackedKeys& new_keys, const ChunkLoader& loader, Stream stream) const;

 private:
  struct Chunk {
    int64_t begin;
    int64_t len;   // keys of a request, at most
    int64_t rows;  // of all requests, at most
    TurnOp op;
  };
  Status plan_new_tokens(const PlanRequest& request, const ChunkedPrefillConfig& config);
  Status plan_chunks(const PlanRequest& request, const ChunkedPrefillConfig& config);
  ContextChunk context_chunk(size_t index, const RunTensors& tensors) const;
  Status find_offsets(const RunTensors& tensors, Stream stream) const;
  Status attend_chunk(size_t index, const RunTensors& tensors, const ChunkLoader& loader, Stream stream) const;
  Status merge(const StateRegion& chunk, bool last, const RunTensors& tensors, Stream stream) const;
  TensorView final_out(const RunTensors& tensors) const;
  TensorView final_lse(const RunTensors& tensors) const;

  const Ops* ops_ = nullptr;
  int32_t num_requests_ = 0;
  bool lse_out_ = false;
  RequestFilter extend_filter_;
  TurnOp direct_;      // requests whose new tokens are all they see
  TurnOp new_tokens_;  // new tokens of requests with context
  std::vector<Chunk> chunks_;
  int64_t chunk_rows_ = 0;
  int buffers_ = 1;
  bool merges_ = false;  // attention merges in its epilogue
  Region op_workspace_, key_start_loc_;
  StateRegion state_, chunk_state_;  // with merges_: by turns the state so far and the state with one more chunk
  std::vector<std::string> steps_;
};

}  // namespace sextant
