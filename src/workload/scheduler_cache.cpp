// The scheduler's prefix caching, and the arrays of a step.
#include <algorithm>
#include <array>

#include "sextant/scheduler.h"

namespace sextant {

// A KV block's content is named by the trace blocks that it touches; the chain covers what is before. Content that the
// trace does not name (no ids, generated tokens) belongs to its request alone.
void Scheduler::extend_hashes(Sequence& s, int64_t blocks) const {
  const TraceRequest& request = request_of(s);
  const int64_t size = trace_->hash_block_size;
  for (int64_t block = static_cast<int64_t>(s.hashes.size()); block < blocks; ++block) {
    BlockHash hash = s.hashes.empty() ? BlockHash{} : s.hashes.back();
    const int64_t first_token = block * options_.block_size, last_token = first_token + options_.block_size - 1;
    if (last_token < request.input_length && !request.hash_ids.empty()) {
      for (int64_t id = first_token / size; id <= last_token / size; ++id)
        hash = chain_hash(hash, static_cast<uint64_t>(request.hash_ids[static_cast<size_t>(id)]));
    } else {
      const std::array<int32_t, 2> own = {s.request, static_cast<int32_t>(block)};
      hash = chain_hash(hash, own);
    }
    s.hashes.push_back(hash);
  }
}

// Blocks that this step fills are findable at once: a step writes the cache before it attends. An unbounded cache never
// preempts, so nobody would look for generated tokens.
void Scheduler::publish_full_blocks(Sequence& s) {
  if (!options_.prefix_caching) return;
  int64_t tokens = static_cast<int64_t>(s.computed) + s.scheduled;
  if (allocator_.unbounded())
    tokens = std::min<int64_t>(tokens, request_of(s).hash_ids.empty() ? 0 : request_of(s).input_length);
  const size_t full = static_cast<size_t>(tokens / options_.block_size);
  if (full <= s.published) return;
  extend_hashes(s, static_cast<int64_t>(full));
  for (; s.published < full; ++s.published) (void)allocator_.publish(s.blocks[s.published], s.hashes[s.published]);
}

void Scheduler::count_admission(const Sequence& s, int64_t cached_tokens, int64_t cached_blocks) {
  const TraceRequest& request = request_of(s);
  stats_.prompt_tokens += request.input_length;
  stats_.cached_prompt_tokens += cached_tokens;
  const int64_t size = trace_->hash_block_size;
  const int64_t blocks = (request.input_length + size - 1) / size;
  stats_.trace_blocks += blocks;
  bool hit = options_.prefix_caching;
  for (size_t i = 0; i < request.hash_ids.size(); ++i) {
    const int64_t end = std::min<int64_t>(static_cast<int64_t>(i + 1) * size, request.input_length);
    hit = hit && seen_ids_.count(request.hash_ids[i]) > 0 && cached_blocks >= end / options_.block_size;
    if (hit) ++stats_.trace_block_hits;
  }
  seen_ids_.insert(request.hash_ids.begin(), request.hash_ids.end());
}

void Scheduler::fill_batch(const Step& step, BatchArrays& batch) const {
  batch.query_start_loc.assign(1, 0);
  batch.seq_lens.clear();
  batch.slot_mapping.clear();
  size_t columns = 0;
  const auto sequence_of = [this](const ScheduledRequest& r) -> const Sequence& {
    return running_[static_cast<size_t>(sequence_of_[static_cast<size_t>(r.request)])];
  };
  for (const ScheduledRequest& r : step.requests) columns = std::max(columns, sequence_of(r).blocks.size());
  batch.max_blocks_per_request = static_cast<int64_t>(columns);
  batch.block_table.assign(step.requests.size() * columns, 0);
  for (size_t i = 0; i < step.requests.size(); ++i) {
    const ScheduledRequest& r = step.requests[i];
    const std::vector<int32_t>& blocks = sequence_of(r).blocks;
    batch.query_start_loc.push_back(batch.query_start_loc.back() + r.query_len);
    batch.seq_lens.push_back(r.context_len + r.query_len);
    std::copy(blocks.begin(), blocks.end(), batch.block_table.begin() + static_cast<int64_t>(i * columns));
    for (int32_t position = r.context_len; position < r.context_len + r.query_len; ++position) {
      const int64_t block = blocks[static_cast<size_t>(position / options_.block_size)];
      batch.slot_mapping.push_back(block * options_.block_size + position % options_.block_size);
    }
  }
}

}  // namespace sextant
