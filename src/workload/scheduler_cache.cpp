// The scheduler's prefix caching, and the arrays of a step.
#include <algorithm>
#include <array>

#include "sextant/scheduler.h"
#include "types/ceil_div.h"

namespace sextant {

// A KV block's content is named by the trace blocks that it touches; the chain covers what is before. Content that the
// trace does not name (no ids, generated tokens) belongs to its request alone.
void Scheduler::extend_hashes(Sequence& s, int64_t blocks) const {
  const TraceRequest& request = request_of(s);
  const int64_t size = trace_->hash_block_size;
  const BlockHasher& hasher = BlockHasher::of_process();
  for (int64_t block = static_cast<int64_t>(s.hashes.size()); block < blocks; ++block) {
    BlockHash hash = s.hashes.empty() ? BlockHash{} : s.hashes.back();
    const int64_t first_token = block * options_.block_size, last_token = first_token + options_.block_size - 1;
    if (last_token < request.input_length && !request.hash_ids.empty()) {
      for (int64_t id = first_token / size; id <= last_token / size; ++id)
        hash = hasher.chain(hash, static_cast<uint64_t>(request.hash_ids[static_cast<size_t>(id)]));
    } else {
      const std::array<int32_t, 2> own = {s.request, static_cast<int32_t>(block)};
      hash = hasher.chain(hash, own);
    }
    s.hashes.push_back(hash);
  }
}

// Groups keep different layers' keys of the same tokens: the same content, another block.
BlockHash Scheduler::group_hash(const Sequence& s, size_t block, size_t group) const {
  return group == 0 ? s.hashes[block] : BlockHasher::of_process().chain(s.hashes[block], static_cast<uint64_t>(group));
}

// The first block that the token after `tokens` tokens still sees.
int64_t Scheduler::first_seen_block(size_t group, int64_t tokens) const {
  const int64_t window = options_.windows[group];
  return window == 0 ? 0 : std::max<int64_t>(tokens - window + 1, 0) / options_.block_size;
}

bool Scheduler::is_cached(const Sequence& s, int64_t block, size_t group) const {
  const BlockHash hash = group_hash(s, static_cast<size_t>(block), group);
  return allocator_.cached_prefix({&hash, 1}) == 1;
}

// The longest prefix of at most `most` blocks that every group has: groups that see everything need all of its blocks,
// groups with a window those that its next token still sees.
int64_t Scheduler::cached_by_all(const Sequence& s, int64_t most) const {
  int64_t found = most;
  for (bool shorter = true; shorter;) {  // one group's miss may cost another its hit
    shorter = false;
    for (size_t group = 0; group < options_.windows.size(); ++group)
      for (int64_t block = first_seen_block(group, found * options_.block_size); block < found;) {
        if (is_cached(s, block, group)) {
          ++block;
          continue;
        }
        found = block;  // full: the prefix ends here; a window: try those that end before this block
        shorter = true;
        block = first_seen_block(group, found * options_.block_size);
      }
  }
  return found;
}

// References what the cache has of a prefix and gives how many blocks that is; one token at least is left to run, as
// its output is the next token.
int64_t Scheduler::acquire_cached(Sequence& s) {
  extend_hashes(s, known_tokens(s) / options_.block_size);
  int64_t found = cached_by_all(s, static_cast<int64_t>(s.hashes.size()));
  const bool whole = found > 0 && found * options_.block_size == known_tokens(s);
  const int64_t used = whole ? cached_by_all(s, found - 1) : found;
  for (size_t group = 0; group < options_.windows.size(); ++group) {
    std::vector<int32_t>& blocks = s.blocks[group];
    blocks.assign(static_cast<size_t>(used), kFreed);
    for (int64_t block = first_seen_block(group, used * options_.block_size); block < used; ++block) {
      const BlockHash hash = group_hash(s, static_cast<size_t>(block), group);
      blocks[static_cast<size_t>(block)] = allocator_.acquire_prefix({&hash, 1}).front();
    }
  }
  return found;
}

void Scheduler::release(Sequence& s) {
  for (std::vector<int32_t>& blocks : s.blocks) {
    std::erase(blocks, kFreed);
    (void)allocator_.release(blocks);  // our own references: cannot fail
    blocks.clear();
  }
}

// A window's blocks that the next token no longer sees. They stay findable until their memory is needed.
void Scheduler::free_passed_blocks(Sequence& s) {
  for (size_t group = 0; group < s.blocks.size(); ++group) {
    const int64_t first_seen = first_seen_block(group, s.computed);
    std::vector<int32_t>& blocks = s.blocks[group];
    for (int64_t block = std::min(first_seen, static_cast<int64_t>(blocks.size())) - 1; block >= 0; --block) {
      int32_t& passed = blocks[static_cast<size_t>(block)];
      if (passed == kFreed) break;  // those before it went earlier
      (void)allocator_.release(passed);
      passed = kFreed;
      ++stats_.window_blocks_freed;
    }
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
  for (; s.published < full; ++s.published)
    for (size_t group = 0; group < s.blocks.size(); ++group)
      if (s.blocks[group][s.published] != kFreed)
        (void)allocator_.publish(s.blocks[group][s.published], group_hash(s, s.published, group));
}

void Scheduler::count_admission(const Sequence& s, int64_t cached_tokens, int64_t cached_blocks) {
  const TraceRequest& request = request_of(s);
  stats_.prompt_tokens += request.input_length;
  stats_.cached_prompt_tokens += cached_tokens;
  const int64_t size = trace_->hash_block_size;
  const int64_t blocks = ceil_div(request.input_length, size);
  stats_.trace_blocks += blocks;
  bool hit = options_.prefix_caching;
  for (size_t i = 0; i < request.hash_ids.size(); ++i) {
    const int64_t end = std::min<int64_t>(static_cast<int64_t>(i + 1) * size, request.input_length);
    hit = hit && seen_ids_.count(request.hash_ids[i]) > 0 && cached_blocks >= end / options_.block_size;
    if (hit) ++stats_.trace_block_hits;
  }
  seen_ids_.insert(request.hash_ids.begin(), request.hash_ids.end());
}

void Scheduler::fill_batch(const Step& step, BatchArrays& batch, size_t group) const {
  batch.query_start_loc.assign(1, 0);
  batch.seq_lens.clear();
  batch.slot_mapping.clear();
  size_t columns = 0;
  const auto sequence_of = [this](const ScheduledRequest& r) -> const Sequence& {
    return running_[static_cast<size_t>(sequence_of_[static_cast<size_t>(r.request)])];
  };
  for (const ScheduledRequest& r : step.requests) columns = std::max(columns, sequence_of(r).blocks[group].size());
  batch.max_blocks_per_request = static_cast<int64_t>(columns);
  batch.block_table.assign(step.requests.size() * columns, 0);
  for (size_t i = 0; i < step.requests.size(); ++i) {
    const ScheduledRequest& r = step.requests[i];
    const std::vector<int32_t>& blocks = sequence_of(r).blocks[group];
    batch.query_start_loc.push_back(batch.query_start_loc.back() + r.query_len);
    batch.seq_lens.push_back(r.context_len + r.query_len);
    for (size_t block = 0; block < blocks.size(); ++block)
      batch.block_table[i * columns + block] = std::max(blocks[block], 0);
    for (int32_t position = r.context_len; position < r.context_len + r.query_len; ++position) {
      const int64_t block = blocks[static_cast<size_t>(position / options_.block_size)];
      batch.slot_mapping.push_back(block * options_.block_size + position % options_.block_size);
    }
  }
}

}  // namespace sextant
