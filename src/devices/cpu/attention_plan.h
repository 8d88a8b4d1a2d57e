// The planned form of an attention op: an explicit work list, and a map of the partial results to merge.
#pragma once

#include <string>
#include <vector>

#include "devices/cpu/kernels/kernel_table.h"
#include "devices/cpu/worker_scratch.h"
#include "sextant/ops.h"

namespace sextant::cpu {

// Query rows tokens x heads against keys [key_begin, key_end). Many rows: of one KV head. Few rows (`stream`): of
// several KV heads, which lie together in the cache and are read together.
struct WorkItem {
  int32_t request = 0;
  int32_t kv_head = 0;
  int32_t num_kv_heads = 1;
  bool stream = false;
  int32_t head_begin = 0;  // query heads
  int32_t num_heads = 0;
  int64_t token_begin = 0;  // in the packed batch
  int64_t num_tokens = 0;
  int64_t key_begin = 0;
  int64_t key_end = 0;
  int64_t partial = -1;  // offset in floats of the partial result in the workspace; -1: writes the output itself
  double cost = 0;
};

// Rows whose keys were divided: the partial results of items [first_partial, first_partial + num_partials) of
// `partials`.
struct ReduceEntry {
  int32_t head_begin = 0;
  int32_t num_heads = 0;
  int64_t token_begin = 0;
  int64_t num_tokens = 0;
  size_t first_partial = 0;
  size_t num_partials = 0;
};

class CpuAttentionPlan final : public AttentionPlan {
 public:
  size_t workspace_bytes() const override { return workspace_floats * sizeof(float); }
  std::string describe() const override;

  AttentionPlanArgs args;  // its spans point into the vectors below
  std::vector<int32_t> query_start_loc, seq_lens, key_start_loc;
  // Visible keys of each packed token, and the length of its request's context.
  std::vector<int32_t> key_lo, key_hi, context_len;  // [T]
  std::vector<WorkItem> items;                       // most expensive first
  std::vector<ReduceEntry> reductions;
  std::vector<int64_t> partials;  // workspace offsets, in the order of the keys
  size_t workspace_floats = 0;
  size_t scratch_bytes = 0;  // of a worker, at least
  int32_t tile_keys = 0;
  int64_t item_rows = 0;
  const AttentionKernels* kernels = nullptr;
  const IsaKernels* isa = nullptr;
  std::string kernel_name;
  WorkerScratchPtr scratch;
};

// Everything but kernels, isa, kernel_name and scratch is filled in. `element_bytes`: of the products' operands.
void plan_attention_items(const AttentionPlanArgs& args, const AttentionKernels& kernels, size_t element_bytes,
                          int workers, CpuAttentionPlan& plan);

// Layout of one partial result of `rows` rows: out [rows, Dv], max [rows], sum [rows].
inline int64_t partial_floats(int64_t rows, int64_t head_dim_v) { return (rows * (head_dim_v + 2) + 15) / 16 * 16; }

}  // namespace sextant::cpu
