// One step's batch as the host sees it.
#pragma once

#include <cstdint>
#include <span>

#include "sextant/kv_cache.h"
#include "sextant/spec.h"

namespace sextant {

// B requests, packed tokens. The spans must outlive the call that takes them, nothing more: a plan keeps copies.
struct BatchMetadata {
  std::span<const int32_t> query_start_loc;  // [B + 1], from 0, not decreasing
  // [B], KV length with the new tokens included. May be shorter than the query (a rank of decode context parallelism,
  // padded rows of a graph): queries at positions < 0 then see nothing, their output is 0 and their LSE -inf.
  std::span<const int32_t> seq_lens;
  // Optional where the device has its own copies; checked when present. Needed on the CPU only by `run`.
  std::span<const int32_t> block_table;   // [B, max_blocks_per_request]
  int64_t max_blocks_per_request = 0;     // columns of the block table, also when block_table is empty
  std::span<const int64_t> slot_mapping;  // [>= query_start_loc[B]]
  // All requests share their first shared_prefix_len tokens, in the same blocks (cascade attention). A hint: results
  // are the same, the shared keys are read once. 0 = none. A multiple of block_size, at most every context_len.
  int32_t shared_prefix_len = 0;
  // Where the spec has spans: of each token, (begin, end) of its span in its request's positions, begin >= end: none
  // (sextant/attention_mask.h). Every token of a span that is in the batch has it. Checked when present.
  std::span<const int32_t> token_spans;  // [>= query_start_loc[B], 2]

  int32_t num_requests() const { return static_cast<int32_t>(seq_lens.size()); }
  int64_t num_tokens() const { return query_start_loc.empty() ? 0 : query_start_loc.back(); }
};

// Checks everything that can be checked on the host; the message names the field, its index, value and what is allowed.
// Of the block table only what can be read counts: blocks that hold a key which some query of `spec` sees.
Status validate(const BatchMetadata& batch, const KvCacheSpec& cache, const AttentionSpec& spec = {});

}  // namespace sextant
