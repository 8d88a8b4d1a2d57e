// The planned form of an attention op: an explicit work list, and a map of the partial results to merge.
#pragma once

#include <algorithm>
#include <memory_resource>
#include <span>
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

// Lengths of a batch: the plan's own, or a run's.
struct BatchLengths {
  std::span<const int32_t> query_start_loc;  // [B + 1]
  std::span<const int32_t> seq_lens;         // [B]
  std::span<const int32_t> key_start_loc;    // [B + 1], kVarlen; may be empty
  const int32_t* token_spans = nullptr;      // [T, 2]; null: none, or not known yet
};

// The work that follows from the lengths.
struct WorkList {
  explicit WorkList(std::pmr::memory_resource* memory)
      : key_lo(memory), key_hi(memory), context_len(memory), items(memory), reductions(memory), partials(memory) {}
  BatchLengths lengths;
  // Visible keys of each packed token, and the length of its request's context.
  std::pmr::vector<int32_t> key_lo, key_hi, context_len;  // [T]
  std::pmr::vector<WorkItem> items;                       // most expensive first
  std::pmr::vector<ReduceEntry> reductions;
  std::pmr::vector<int64_t> partials;  // workspace offsets, in the order of the keys
  size_t partial_floats = 0;
};

// What the work of a plan with bounds takes at most, so that a run with other lengths finds room in the workspace.
struct WorkLimits {
  size_t items = 0, runs = 0, parts = 0;  // parts: of divided items
  size_t partial_floats = 0;
  size_t list_bytes = 0;
};

class CpuAttentionPlan final : public AttentionPlan {
 public:
  // The partial results, then the work list of a run with other lengths.
  size_t workspace_bytes() const override { return list_offset() + limits.list_bytes; }
  std::string describe() const override;
  size_t list_offset() const {
    const size_t floats = std::max(work.partial_floats, limits.partial_floats);
    return (floats * sizeof(float) + 63) / 64 * 64;
  }
  // Whether a run makes a work list of its own: its lengths may differ, or its spans say who sees what.
  bool open() const { return args.bounds.open() || args.spec.has_spans(); }

  AttentionPlanArgs args;  // its spans point into the vectors below
  std::vector<int32_t> query_start_loc, seq_lens, key_start_loc;
  WorkList work{std::pmr::new_delete_resource()};  // for the planned lengths; empty where spans decide
  WorkLimits limits;                               // zero unless open()
  size_t scratch_bytes = 0;                        // of a worker, at least
  int32_t tile_keys = 0;
  int64_t item_rows = 0;
  int workers = 1;
  const AttentionKernels* kernels = nullptr;
  const IsaKernels* isa = nullptr;
  std::string kernel_name;
  WorkerScratchPtr scratch;
};

// Everything but kernels, isa, kernel_name and scratch is filled in. `element_bytes`: of the products' operands.
void plan_attention_items(const AttentionPlanArgs& args, const AttentionKernels& kernels, size_t element_bytes,
                          int workers, CpuAttentionPlan& plan);
// The work list of an open plan for a run's lengths, made in `list`, whose memory the limits allow for.
void plan_run_items(const CpuAttentionPlan& plan, const BatchLengths& lengths, WorkList& list);

// Layout of one partial result of `rows` rows: out [rows, Dv], max [rows], sum [rows].
inline int64_t partial_floats(int64_t rows, int64_t head_dim_v) { return (rows * (head_dim_v + 2) + 15) / 16 * 16; }

}  // namespace sextant::cpu
