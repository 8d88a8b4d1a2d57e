// A continuous-batching scheduler with chunked prefill and prefix caching: turns a trace into the batches that a
// serving engine would run. It knows lengths and blocks, never tensors, so it also runs alone (`sextant replay
// --dry-run`).
//
//   auto scheduler = Scheduler::make(trace, options).value();
//   Step step;
//   while (scheduler.next(step).value()) {
//     scheduler.fill_batch(step, batch);   // query_start_loc, seq_lens, block_table, slot_mapping
//     ...
//   }
#pragma once

#include <cstdint>
#include <deque>
#include <unordered_set>
#include <vector>

#include "sextant/block_allocator.h"
#include "sextant/trace.h"
#include "sextant/workload.h"

namespace sextant {

struct SchedulerOptions {
  int32_t max_num_batched_tokens = 2048;  // token budget of a step
  int32_t max_num_seqs = 128;             // requests running at once
  int32_t block_size = 16;                // tokens a KV block
  int64_t num_blocks = 0;                 // 0: unbounded
  bool prefix_caching = true;
  // The groups of layers that keep blocks of their own, as in an engine: 0 for layers that see every key, W for layers
  // with a sliding window of W keys, which give back the blocks that no later token sees. All draw on one pool.
  std::vector<int32_t> windows = {0};
};

// A request's part of a step.
struct ScheduledRequest {
  int32_t request = 0;      // index in the trace
  int32_t query_len = 0;    // tokens to run
  int32_t context_len = 0;  // tokens already in the cache
};

// Decodes first (one token after a context), then extends (several after a context), then prefills (no context).
struct Step {
  std::vector<ScheduledRequest> requests;
  int64_t num_tokens() const;
};

// Requests and tokens of one kind over all steps.
struct StepShare {
  int64_t requests = 0;
  int64_t tokens = 0;
};

struct SchedulerStats {
  int64_t steps = 0;
  int64_t finished_requests = 0;
  int64_t scheduled_tokens = 0;
  int64_t generated_tokens = 0;
  int64_t prompt_tokens = 0;         // of admitted requests
  int64_t cached_prompt_tokens = 0;  // of these, not run because the cache held them
  // Blocks of Trace::hash_block_size tokens. A block hits when its id came in an earlier request and all its full KV
  // blocks are still cached at the request's first admission; the partial last block counts as one. With an unbounded
  // cache that is the share of ids seen before.
  int64_t trace_blocks = 0;
  int64_t trace_block_hits = 0;
  int64_t preemptions = 0;
  int64_t peak_used_blocks = 0;
  int64_t window_blocks_freed = 0;  // given back before their request ended: outside of every later token's window
  StepShare decode, extend, prefill;

  double block_hit_rate() const;
  double token_hit_rate() const;
};

class Scheduler {
 public:
  // Keeps a reference to the trace. Every request is taken to be waiting from the start, in arrival order: the replay
  // measures throughput, so it never idles. kResourceExhausted names a request that can never fit num_blocks.
  static Result<Scheduler> make(const Trace& trace, const SchedulerOptions& options);

  // The next step; false when all requests have finished. The last step counts as done when this is called.
  Result<bool> next(Step& step);
  // The step that next() gave last, as arrays, for one group of SchedulerOptions::windows. Valid until next() is called
  // again. Entries of blocks that a window has left behind are 0: a kernel has no business there.
  void fill_batch(const Step& step, BatchArrays& batch, size_t group = 0) const;

  const SchedulerStats& stats() const { return stats_; }
  const BlockAllocator& allocator() const { return allocator_; }
  const SchedulerOptions& options() const { return options_; }
  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }

 private:
  struct Sequence {
    int32_t request = 0;
    int32_t computed = 0;   // tokens whose keys are in the cache
    int32_t scheduled = 0;  // tokens of the current step
    int32_t generated = 0;
    int32_t preempted = 0;                     // times
    std::vector<std::vector<int32_t>> blocks;  // [groups]; kFreed where a window has left a block behind
    std::vector<BlockHash> hashes;             // of full blocks, made when needed
    size_t published = 0;
  };

  static constexpr int32_t kFreed = -1;

  Scheduler(const Trace& trace, const SchedulerOptions& options, BlockAllocator allocator);
  const TraceRequest& request_of(const Sequence& s) const { return trace_->requests[static_cast<size_t>(s.request)]; }
  int32_t known_tokens(const Sequence& s) const { return request_of(s).input_length + s.generated; }
  void finish_step();
  void extend_hashes(Sequence& sequence, int64_t blocks) const;
  bool reserve(Sequence& sequence, int32_t tokens);
  void release(Sequence& sequence);
  void free_passed_blocks(Sequence& sequence);
  BlockHash group_hash(const Sequence& sequence, size_t block, size_t group) const;
  int64_t first_seen_block(size_t group, int64_t tokens) const;
  bool is_cached(const Sequence& sequence, int64_t block, size_t group) const;
  int64_t cached_by_all(const Sequence& sequence, int64_t most) const;
  int64_t acquire_cached(Sequence& sequence);
  void publish_full_blocks(Sequence& sequence);
  void schedule(Sequence& sequence, int32_t tokens, Step& step);
  Status schedule_running(int32_t& budget, Step& step);
  void admit(int32_t& budget, Step& step);
  bool start(Sequence& sequence, int32_t budget, Step& step);
  void count_admission(const Sequence& sequence, int64_t cached_tokens, int64_t cached_blocks);
  void preempt_last();

  const Trace* trace_;
  SchedulerOptions options_;
  BlockAllocator allocator_;
  std::deque<Sequence> waiting_;
  std::vector<Sequence> running_;     // in order of admission
  std::vector<int32_t> sequence_of_;  // [requests] index in running_, or -1
  std::unordered_set<int64_t> seen_ids_;
  SchedulerStats stats_;
};

}  // namespace sextant
