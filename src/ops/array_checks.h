// Checks of what arrays hold, where the host can read them: a batch at plan time, a device's arrays at run time. They
// allocate nothing.
#pragma once

#include <cstdint>
#include <span>

#include "sextant/batch.h"
#include "sextant/ops.h"

namespace sextant {

// query_start_loc: from 0, not decreasing, one more entry than seq_lens; seq_lens >= 0.
Status check_lengths(std::span<const int32_t> query_start_loc, std::span<const int32_t> seq_lens);

// What of a block table is read: the blocks of keys that some query of the request can see.
struct TableUse {
  std::span<const int32_t> query_start_loc, seq_lens;
  const int32_t* block_table = nullptr;  // [B, stride]
  int64_t stride = 0;
  int32_t shared_prefix_len = 0;         // its blocks are read through row 0 for all requests
  const int32_t* token_spans = nullptr;  // [T, 2]; null: there are none, or the device alone has them
};
// Every request's keys have a column, and each id that is read is a block of the cache.
Status check_capacity(std::span<const int32_t> seq_lens, int64_t columns, const char* columns_name,
                      const KvCacheSpec& cache);
Status check_block_ids(const TableUse& use, const KvCacheSpec& cache, const AttentionSpec& spec);
// A token lies in its span, which no other token of its request contradicts and which is not longer than the spec says.
Status check_token_spans(const TableUse& use, const AttentionSpec& spec);
// The shared prefix is whole blocks, inside every context and, where there is a table, the same blocks in all rows.
Status check_shared_prefix(const TableUse& use, const KvCacheSpec& cache);

// In requests of more than `decode_len` query tokens every token that has a key has a slot too: some backends take
// those keys from k and v and some from the cache, where they are not without a slot.
Status check_keys_have_slots(std::span<const int32_t> query_start_loc, std::span<const int32_t> seq_lens,
                             std::span<const int64_t> slot_mapping, int32_t decode_len);

// A run's lengths against the planned ones: the same tokens, within the bounds, or equal where there are none; and room
// in the block table for every key.
struct PlannedLengths {
  std::span<const int32_t> query_start_loc, seq_lens;
  PlanBounds bounds;
  int64_t block_table_stride = 0;
  const KvCacheSpec* cache = nullptr;  // null: keys are not paged
};
Status check_run_lengths(const PlannedLengths& planned, std::span<const int32_t> query_start_loc,
                         std::span<const int32_t> seq_lens);

// Where the packed keys of each request start, as far as a plan can tell: none before the one before it.
Status check_key_starts(std::span<const int32_t> key_start_loc);
// Packed keys: each request's rows lie in k and v; planned ones are those of the plan.
Status check_packed_keys(const AttentionPlanArgs& planned, const AttentionArgs& args);
// The filter's requests are rows of the states.
Status check_merged(const MergeAttnStatesArgs& args);
// Blocks of the cache; none is written twice, or read and written.
Status check_block_mapping(const CopyBlocksArgs& args);
// Each request's rows lie in k, and its tokens in the table and in the cache.
Status check_gathered(const GatherCacheArgs& args);

// Scales are finite and > 0; null: there are none.
Status check_scales(const char* field, const float* scales, int64_t count);
Status check_scales(const KvCacheView& cache);

}  // namespace sextant
