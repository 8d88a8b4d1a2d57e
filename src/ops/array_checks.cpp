// Checks what arrays hold: lengths, block ids, slots, spans.
#include "ops/array_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "sextant/ops.h"
#include "types/ceil_div.h"

namespace sextant {
namespace {

// A set of slots on the stack. Where the slots are more than it holds, they are looked at in rounds, each with those
// whose hash falls into it.
class SlotSet {
 public:
  static constexpr size_t kMost = 1024;
  explicit SlotSet(size_t slots) {
    while (mask_ + 1 < 2 * std::min(slots, kMost)) mask_ = 2 * mask_ + 1;
  }
  void clear() {
    std::fill_n(places_.begin(), mask_ + 1, -1);
    size_ = 0;
  }
  enum class Added { kNew, kTwice, kFull };
  Added add(int64_t slot) {
    for (size_t at = hash(slot) & mask_;; at = (at + 1) & mask_) {
      if (places_[at] == slot) return Added::kTwice;
      if (places_[at] >= 0) continue;
      if (size_++ == kMost) return Added::kFull;
      places_[at] = slot;
      return Added::kNew;
    }
  }
  bool holds(int64_t slot) const {
    for (size_t at = hash(slot) & mask_;; at = (at + 1) & mask_)
      if (places_[at] == slot || places_[at] < 0) return places_[at] == slot;
  }
  static uint64_t hash(int64_t slot) {
    const uint64_t x = static_cast<uint64_t>(slot) * 0x9e3779b97f4a7c15u;
    return x ^ (x >> 29);
  }
  static uint64_t round_of(int64_t slot, uint64_t rounds) { return (hash(slot) >> 32) % rounds; }

 private:
  std::array<int64_t, 2 * kMost> places_;  // -1: free
  size_t mask_ = 15, size_ = 0;
};

// The second place of a slot that stands there twice; `count` when there is none. `look(set, in_round)` sees the slots
// of each round, and which slots belong to it.
template <class SlotAt, class Look>
size_t find_repeated(size_t count, const SlotAt& slot_at, const Look& look) {
  SlotSet seen(count);
  uint64_t rounds = (count + SlotSet::kMost / 2 - 1) / (SlotSet::kMost / 2);
  for (uint64_t round = 0; round < rounds; ++round) {
    seen.clear();
    const auto in_round = [&](int64_t slot) { return rounds == 1 || SlotSet::round_of(slot, rounds) == round; };
    bool full = false;
    for (size_t t = 0; t < count && !full; ++t) {
      const int64_t slot = slot_at(t);
      if (slot < 0 || !in_round(slot)) continue;
      const SlotSet::Added added = seen.add(slot);
      if (added == SlotSet::Added::kTwice) return t;
      full = added == SlotSet::Added::kFull;
    }
    if (!full) {
      look(seen, in_round);
      continue;
    }
    rounds *= 2;  // an uneven share: start again with more rounds
    round = std::numeric_limits<uint64_t>::max();
  }
  return count;
}

size_t find_repeated(std::span<const int64_t> slots) {
  return find_repeated(slots.size(), [&](size_t t) { return slots[t]; }, [](const SlotSet&, const auto&) {});
}

int64_t context_len(const TableUse& use, size_t b) {
  return int64_t{use.seq_lens[b]} - (use.query_start_loc[b + 1] - use.query_start_loc[b]);
}

TokenSpan span_of(const TableUse& use, int32_t token) {
  if (use.token_spans == nullptr) return {};
  return {use.token_spans[2 * int64_t{token}], use.token_spans[2 * int64_t{token} + 1]};
}

Status check_ids(const TableUse& use, size_t row, int64_t first, int64_t last, const KvCacheSpec& cache) {
  for (int64_t i = first; i < last; ++i) {
    const int32_t block = use.block_table[static_cast<int64_t>(row) * use.stride + i];
    if (block < 0 || block >= cache.num_blocks)
      return invalid_argument(fmt::format("block_table[{}][{}] is {}; allowed: 0..{} (num_blocks {})", row, i, block,
                                          cache.num_blocks - 1, cache.num_blocks));
  }
  return Status::ok();
}

}  // namespace

Status check_lengths(std::span<const int32_t> query_start_loc, std::span<const int32_t> seq_lens) {
  if (query_start_loc.size() != seq_lens.size() + 1)
    return invalid_argument(fmt::format("query_start_loc has {} entries; allowed: {} (len(seq_lens) + 1)",
                                        query_start_loc.size(), seq_lens.size() + 1));
  if (query_start_loc[0] != 0)
    return invalid_argument(fmt::format("query_start_loc[0] is {}; allowed: 0", query_start_loc[0]));
  for (size_t b = 0; b < seq_lens.size(); ++b) {
    if (query_start_loc[b + 1] < query_start_loc[b])
      return invalid_argument(fmt::format("query_start_loc[{}] is {}; allowed: >= {} (query_start_loc[{}])", b + 1,
                                          query_start_loc[b + 1], query_start_loc[b], b));
    if (seq_lens[b] < 0) return invalid_argument(fmt::format("seq_lens[{}] is {}; allowed: >= 0", b, seq_lens[b]));
  }
  return Status::ok();
}

Status check_capacity(std::span<const int32_t> seq_lens, int64_t columns, const char* columns_name,
                      const KvCacheSpec& cache) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  const int64_t capacity = columns > kMost / cache.block_size ? kMost : columns * cache.block_size;
  for (size_t b = 0; b < seq_lens.size(); ++b)
    if (seq_lens[b] > capacity)
      return invalid_argument(fmt::format("seq_lens[{}] is {}; allowed: <= {} ({} {} x block_size {})", b, seq_lens[b],
                                          capacity, columns_name, columns, cache.block_size));
  return Status::ok();
}

Status check_block_ids(const TableUse& use, const KvCacheSpec& cache, const AttentionSpec& spec) {
  const AttentionMask mask = spec.mask();
  const int64_t shared = use.shared_prefix_len / cache.block_size;
  int64_t first_shared = shared;
  for (size_t b = 0; b < use.seq_lens.size(); ++b) {
    if (use.query_start_loc[b + 1] == use.query_start_loc[b]) continue;
    const TokenSpan span = span_of(use, use.query_start_loc[b]);
    const int64_t first = std::max<int64_t>(0, mask.first_key(context_len(use, b), span)) / cache.block_size;
    const int64_t last = ceil_div(int64_t{use.seq_lens[b]}, cache.block_size);
    first_shared = std::min(first_shared, first);
    SEXTANT_RETURN_IF_ERROR(check_ids(use, b, std::max(first, shared), last, cache));
  }
  return check_ids(use, 0, first_shared, shared, cache);
}

Status check_token_spans(const TableUse& use, const AttentionSpec& spec) {
  if (use.token_spans == nullptr || !spec.has_spans()) return Status::ok();
  for (size_t b = 0; b < use.seq_lens.size(); ++b) {
    TokenSpan before;  // of the token before, without one where the two have nothing to do with each other
    int64_t position = context_len(use, b);
    for (int32_t t = use.query_start_loc[b]; t < use.query_start_loc[b + 1]; ++t, ++position) {
      const TokenSpan span = span_of(use, t);
      const bool none = span.begin >= span.end;
      if (!none && (!span.holds(position) || span.begin < 0))
        return invalid_argument(
            fmt::format("token_spans[{}] is [{}, {}); allowed: begin >= end (none), or one from 0 "
                        "on that holds the token's position {} in request {}",
                        t, span.begin, span.end, position, b));
      if (!none && int64_t{span.end} - span.begin > spec.max_span_len)
        return invalid_argument(fmt::format("token_spans[{}] is [{}, {}), {} long; allowed: <= {} (spec.max_span_len)",
                                            t, span.begin, span.end, span.end - span.begin, spec.max_span_len));
      const bool first = t == use.query_start_loc[b];
      const bool joined = before.holds(position) || (!none && !first && span.begin < position);
      if (joined && !(span == before))
        return invalid_argument(
            fmt::format("token_spans[{}] is [{}, {}); allowed: what its span's tokens all have "
                        "(token_spans[{}] is [{}, {}))",
                        t, span.begin, span.end, t - 1, before.begin, before.end));
      before = span;
    }
  }
  return Status::ok();
}

Status check_shared_prefix(const TableUse& use, const KvCacheSpec& cache) {
  const int32_t shared = use.shared_prefix_len;
  if (shared == 0) return Status::ok();
  if (shared < 0 || shared % cache.block_size != 0)
    return invalid_argument(
        fmt::format("shared_prefix_len is {}; allowed: a multiple of block_size ({}), >= 0", shared, cache.block_size));
  for (size_t b = 0; b < use.seq_lens.size(); ++b) {
    if (context_len(use, b) < shared)
      return invalid_argument(fmt::format("shared_prefix_len is {}; allowed: <= {} (context of request {})", shared,
                                          context_len(use, b), b));
    if (use.block_table == nullptr) continue;  // the device's alone
    const int32_t* row = use.block_table + static_cast<int64_t>(b) * use.stride;
    for (int64_t j = 0; j < shared / cache.block_size; ++j)
      if (row[j] != use.block_table[j])
        return invalid_argument(
            fmt::format("block_table[{}][{}] is {}; shared_prefix_len {} allows {} (the block of request 0)", b, j,
                        row[j], shared, use.block_table[j]));
  }
  return Status::ok();
}

Status check_key_starts(std::span<const int32_t> key_start_loc) {
  int32_t before = 0;
  for (size_t b = 0; b < key_start_loc.size(); before = key_start_loc[b++])
    if (key_start_loc[b] < before)
      return invalid_argument(fmt::format("key_start_loc[{}] is {}; allowed: >= {}", b, key_start_loc[b], before));
  return Status::ok();
}

Status check_packed_keys(const AttentionPlanArgs& planned, const AttentionArgs& a) {
  const int64_t rows = std::min(a.k.shape[0], a.v.shape[0]);
  int32_t before = 0;
  for (size_t b = 0; b < planned.query_start_loc.size(); ++b) {
    const int32_t start = a.key_start_loc[b];
    if (start < before || start > rows)
      return invalid_argument(
          fmt::format("key_start_loc[{}] is {}; allowed: {}..{} (the rows of k and v)", b, start, before, rows));
    if (!planned.bounds.open() && !planned.key_start_loc.empty() && start != planned.key_start_loc[b])
      return invalid_argument(
          fmt::format("key_start_loc[{}] is {}; allowed: {}, as planned (a plan with bounds takes "
                      "others)",
                      b, start, planned.key_start_loc[b]));
    before = start;
  }
  return Status::ok();
}

Status check_merged(const MergeAttnStatesArgs& a) {
  if (a.query_start_loc == nullptr || a.num_requests <= 0) return Status::ok();
  const auto requests = static_cast<size_t>(a.num_requests);
  SEXTANT_RETURN_IF_ERROR(check_lengths({a.query_start_loc, requests + 1}, {a.seq_lens, requests}));
  if (a.query_start_loc[requests] <= a.out.shape[0]) return Status::ok();
  return invalid_argument(fmt::format("query_start_loc[{}] is {}; allowed: at most {} (the rows of out)", requests,
                                      a.query_start_loc[requests], a.out.shape[0]));
}

Status check_block_mapping(const CopyBlocksArgs& a) {
  const int64_t num_blocks = a.cache.spec.num_blocks;
  for (int64_t i = 0; i < 2 * a.num_pairs; ++i)
    if (a.mapping[i] < 0 || a.mapping[i] >= num_blocks)
      return invalid_argument(fmt::format("mapping[{}][{}] is {}; allowed: 0..{} (num_blocks {})", i / 2, i % 2,
                                          a.mapping[i], num_blocks - 1, num_blocks));
  // Pairs are copied in any order.
  const auto pairs = static_cast<size_t>(a.num_pairs);
  const auto target = [&](size_t i) { return a.mapping[2 * i + 1]; };
  size_t read = pairs;
  const size_t twice = find_repeated(pairs, target, [&](const SlotSet& targets, auto&& in_round) {
    for (size_t i = 0; i < pairs; ++i)
      if (in_round(a.mapping[2 * i]) && targets.holds(a.mapping[2 * i])) read = std::min(read, i);
  });
  if (twice < pairs)
    return invalid_argument(
        fmt::format("mapping[{}][1] is {}; allowed: a block that no other pair writes", twice, target(twice)));
  if (read < pairs)
    return invalid_argument(
        fmt::format("mapping[{}][0] is {}; allowed: a block that no pair writes", read, a.mapping[2 * read]));
  return Status::ok();
}

Status check_gathered(const GatherCacheArgs& a) {
  const KvCacheSpec& cache = a.cache.spec;
  if (a.key_start_loc[0] != 0)
    return invalid_argument(fmt::format("key_start_loc[0] is {}; allowed: 0", a.key_start_loc[0]));
  for (int32_t b = 0; b < a.num_requests; ++b) {
    const int64_t first = a.key_start_loc[b], last = a.key_start_loc[b + 1];
    if (last < first || last > a.max_rows)
      return invalid_argument(
          fmt::format("key_start_loc[{}] is {}; allowed: {}..{} (the rows of k)", b + 1, last, first, a.max_rows));
    if (first == last) continue;
    if (a.seq_lens != nullptr && a.seq_lens[b] < 0)
      return invalid_argument(fmt::format("seq_lens[{}] is {}; allowed: >= 0", b, a.seq_lens[b]));
    const int64_t asked = a.seq_lens != nullptr ? a.seq_lens[b] - (last - first) : a.chunk_begin;
    constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
    const int64_t begin = std::max<int64_t>(0, asked), end = asked > kMost - last ? kMost : asked + last - first;
    const int64_t capacity = std::min<int64_t>(a.block_table_stride, INT32_MAX) * cache.block_size;
    if (end > capacity)
      return invalid_argument(
          fmt::format("request {} ends at token {}; allowed: at most {} (the row of block_table)", b, end, capacity));
    SEXTANT_RETURN_IF_ERROR(check_ids({{}, {}, a.block_table, a.block_table_stride, 0}, static_cast<size_t>(b),
                                      begin / cache.block_size, ceil_div(end, cache.block_size), cache));
  }
  return Status::ok();
}

Status check_keys_have_slots(std::span<const int32_t> query_start_loc, std::span<const int32_t> seq_lens,
                             std::span<const int64_t> slot_mapping, int32_t decode_len) {
  for (size_t b = 0; b < seq_lens.size(); ++b) {
    const int32_t query_len = query_start_loc[b + 1] - query_start_loc[b];
    if (query_len <= decode_len) continue;
    for (int32_t row = std::max(0, query_len - seq_lens[b]); row < query_len; ++row) {
      const size_t token = static_cast<size_t>(query_start_loc[b]) + static_cast<size_t>(row);
      if (slot_mapping[token] < 0)
        return invalid_argument(fmt::format(
            "slot_mapping[{}] is {}; allowed: a slot, as request {} has {} query tokens and this one has a key "
            "(decode_max_query_len {}); without slots for all, slot_mapping is null",
            token, slot_mapping[token], b, query_len, decode_len));
    }
  }
  return Status::ok();
}

Status check_slot_mapping(std::span<const int64_t> slot_mapping, const KvCacheSpec& cache) {
  const int64_t num_slots = cache.num_blocks * cache.block_size;
  bool ascending = true;
  int64_t before = -1;
  for (size_t t = 0; t < slot_mapping.size(); ++t) {
    if (slot_mapping[t] >= num_slots)
      return invalid_argument(
          fmt::format("slot_mapping[{}] is {}; allowed: < {} (num_blocks {} x block_size {}), or negative for padding",
                      t, slot_mapping[t], num_slots, cache.num_blocks, cache.block_size));
    if (slot_mapping[t] < 0) continue;
    ascending = ascending && slot_mapping[t] > before;
    before = slot_mapping[t];
  }
  const size_t second = ascending ? slot_mapping.size() : find_repeated(slot_mapping);
  if (second == slot_mapping.size()) return Status::ok();
  const auto first = std::find(slot_mapping.begin(), slot_mapping.end(), slot_mapping[second]);
  return invalid_argument(
      fmt::format("slot_mapping[{}] is {}; allowed: a slot of its own (slot_mapping[{}] is the same)", second,
                  slot_mapping[second], first - slot_mapping.begin()));
}

Status check_run_lengths(const PlannedLengths& planned, std::span<const int32_t> query_start_loc,
                         std::span<const int32_t> seq_lens) {
  const bool same = std::equal(seq_lens.begin(), seq_lens.end(), planned.seq_lens.begin()) &&
                    std::equal(query_start_loc.begin(), query_start_loc.end(), planned.query_start_loc.begin());
  if (!same) {
    SEXTANT_RETURN_IF_ERROR(check_lengths(query_start_loc, seq_lens));
    if (query_start_loc.back() != planned.query_start_loc.back())
      return invalid_argument(fmt::format("query_start_loc ends with {}; allowed: {}, as planned",
                                          query_start_loc.back(), planned.query_start_loc.back()));
    const PlanBounds& bounds = planned.bounds;
    int32_t max_query_len = bounds.max_query_len, max_seq_len = bounds.max_seq_len;
    for (size_t b = 0; b < seq_lens.size(); ++b) {
      max_seq_len = std::max(max_seq_len, planned.seq_lens[b]);
      max_query_len = std::max(max_query_len, planned.query_start_loc[b + 1] - planned.query_start_loc[b]);
    }
    for (size_t b = 0; b < seq_lens.size(); ++b) {
      const int32_t query_len = query_start_loc[b + 1] - query_start_loc[b],
                    planned_len = planned.query_start_loc[b + 1] - planned.query_start_loc[b];
      if (!bounds.open() && (seq_lens[b] != planned.seq_lens[b] || query_len != planned_len))
        return invalid_argument(
            fmt::format("seq_lens[{}] is {} with {} query tokens; allowed: {} with {}, as planned (a plan with bounds "
                        "takes others)",
                        b, seq_lens[b], query_len, planned.seq_lens[b], planned_len));
      if (seq_lens[b] > max_seq_len)
        return invalid_argument(
            fmt::format("seq_lens[{}] is {}; allowed: <= {} (bounds.max_seq_len or the longest planned)", b,
                        seq_lens[b], max_seq_len));
      if (query_len > max_query_len)
        return invalid_argument(
            fmt::format("query_start_loc[{}] makes a query of {} tokens; allowed: <= {} (bounds.max_query_len or the "
                        "longest planned)",
                        b + 1, query_len, max_query_len));
    }
  }
  if (planned.cache == nullptr) return Status::ok();
  return check_capacity(seq_lens, planned.block_table_stride, "block_table_stride", *planned.cache);
}

Status check_scales(const char* field, const float* scales, int64_t count) {
  for (int64_t i = 0; scales != nullptr && i < count; ++i)
    if (!std::isfinite(scales[i]) || scales[i] <= 0)
      return invalid_argument(fmt::format("{}[{}] is {}; allowed: finite, > 0", field, i, scales[i]));
  return Status::ok();
}

Status check_scales(const KvCacheView& cache) {
  if (!is_fp8(cache.spec.dtype) || cache.spec.has_token_scales()) return Status::ok();  // those are its own
  SEXTANT_RETURN_IF_ERROR(check_scales("cache.k_scale", cache.k_scale, cache.num_scales));
  return check_scales("cache.v_scale", cache.v_scale, cache.num_scales);
}

}  // namespace sextant
