// Counts a batch's keys and divides them over blocks.
#include "devices/cuda/plan_splits.h"

#include <algorithm>

namespace sextant::cuda {

Bounds find_bounds(const AttentionPlanArgs& a, int32_t short_len) {
  Bounds n{sextant::find_bounds(a)};
  for (int32_t query_len : n.query_lens) {
    (query_len <= short_len ? n.any_short : n.any_long) = true;
    if (query_len <= short_len) n.short_query_len = std::max<int64_t>(n.short_query_len, query_len);
  }
  n.active = std::max<int64_t>(1, static_cast<int64_t>(n.query_lens.size()));
  n.short_query_len = std::max<int64_t>(n.short_query_len, std::min(a.bounds.max_query_len, short_len));
  if (n.open) {
    n.any_short = n.any_short || a.filter.min_query_len <= short_len;
    n.any_long = n.any_long || n.query_len > short_len;
  }
  return n;
}

// With bounds lengths of now say nothing about those to come.
PartKeys count_keys(const AttentionPlanArgs& a, const Bounds& n, int64_t min_query_len, int64_t max_query_len) {
  const int32_t left = a.spec.mask().most_left();
  PartKeys part;
  for (size_t b = 0; b < a.seq_lens.size(); ++b) {
    const int64_t query_len = a.query_start_loc[b + 1] - a.query_start_loc[b];
    if (query_len < min_query_len || query_len > max_query_len) continue;
    int64_t most = std::max<int64_t>(1, n.keys);
    if (left != AttentionMask::kUnlimited) most = std::min<int64_t>(most, int64_t{left} + query_len);
    const auto keys = static_cast<double>(
        std::clamp<int64_t>(n.open ? n.keys : a.seq_lens[b] - a.key_begin, 1, std::max<int64_t>(1, most)));
    part.requests += 1;
    part.sum += keys;
    part.longest = std::max(part.longest, keys);
  }
  return part;
}

FixedSplit make_fixed_split(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int32_t partition,
                            int32_t segments, int64_t max_query_len, int32_t granule, int64_t* num_slots) {
  FixedSplit s;
  s.partition = partition;
  s.segments = segments;
  s.granule = granule;
  const int64_t most = partition > 0 ? ceil_div(n.keys, ceil_div(partition, granule) * granule) : segments;
  s.max_partitions = static_cast<int32_t>(std::max<int64_t>(1, most));
  if (s.max_partitions == 1) return s;
  s.max_query_len = static_cast<int32_t>(std::min(max_query_len, n.query_len));
  s.compact_slots = n.requests * s.max_query_len < n.tokens;
  *num_slots = s.compact_slots ? n.requests * s.max_query_len : n.tokens;
  part.reduces = true;
  const auto rows = static_cast<size_t>(*num_slots * a.spec.num_heads * s.max_partitions);
  part.partial_lse_offset = align_workspace(rows * static_cast<size_t>(a.spec.value_head_dim()) * sizeof(float));
  part.workspace_bytes = part.partial_lse_offset + align_workspace(rows * sizeof(float));
  return s;
}

namespace {

RowTiles make_row_tiles(const PlanPart& part, const AttentionPlanArgs& a, const Bounds& n) {
  RowTiles tiles;
  tiles.grid.tiles = static_cast<int32_t>(n.tokens * a.spec.group_size() / part.rows + n.requests);
  return tiles;
}

void add_split(PlanPart& part, RowTiles& tiles, const AttentionPlanArgs& a, const Bounds& n, int32_t partition,
               int32_t segments, int64_t max_query_len, int32_t granule) {
  tiles.split = make_fixed_split(part, a, n, partition, segments, max_query_len, granule, &tiles.num_slots);
  tiles.grid.partitions = tiles.split.max_partitions;
}

// The split that the caller asks for or that fixed bits want; false: none.
bool set_asked_split(PlanPart& part, RowTiles& tiles, const AttentionPlanArgs& a, const Bounds& n, int32_t short_len,
                     int32_t granule) {
  using Kind = SplitPolicy::Kind;
  if (a.split.kind == Kind::kSegments) {
    add_split(part, tiles, a, n, 0, a.split.value, short_len, granule);
  } else if (a.split.kind == Kind::kPartition) {
    add_split(part, tiles, a, n, a.split.value, 1, short_len, granule);
  } else if (a.deterministic && a.split.kind == Kind::kAuto) {
    add_split(part, tiles, a, n, kDeterministicKeys, 1, short_len, granule);
  } else {
    return false;
  }
  return true;
}

void set_balanced(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int blocks_per_sm, int32_t overhead,
                  const ChipLimits& chip) {
  const int64_t row_tiles = n.tokens * a.spec.group_size() / part.rows + n.requests;
  const int64_t most = row_tiles * std::max<int64_t>(1, ceil_div(n.keys, part.tile_keys)), heads = a.spec.num_kv_heads;
  const int64_t shares = std::clamp<int64_t>(most, 1, std::max<int64_t>(1, chip.sms * blocks_per_sm / heads));
  const int64_t blocks = shares * heads;
  const int64_t longest = std::max<int64_t>(1, std::min<int64_t>(n.query_len, part.max_query_len));
  part.division = BalancedList{
      .blocks = static_cast<int32_t>(blocks), .overhead = overhead, .query_len = static_cast<int32_t>(longest)};
  part.reduces = true;
  const auto rows = static_cast<size_t>(2 * blocks * part.rows);
  part.partial_lse_offset = align_workspace(rows * static_cast<size_t>(a.spec.value_head_dim()) * sizeof(float));
  part.tile_starts_offset = part.partial_lse_offset + align_workspace(rows * sizeof(float));
  part.workspace_bytes =
      part.tile_starts_offset + align_workspace(static_cast<size_t>(n.requests + 1) * sizeof(int32_t));
}

}  // namespace

void set_row_tiles(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int32_t short_len,
                   int64_t wanted_blocks) {
  constexpr int64_t kLeastKeys = 256;  // a partition's; fewer cost more to merge than they save
  RowTiles tiles = make_row_tiles(part, a, n);
  if (!set_asked_split(part, tiles, a, n, short_len, 1) && a.split.kind == SplitPolicy::Kind::kAuto) {
    const int64_t blocks =
        std::max(n.active, ceil_div(n.tokens * a.spec.group_size(), part.rows)) * a.spec.num_kv_heads;
    const int64_t wanted = std::min(wanted_blocks / blocks, ceil_div(n.keys, kLeastKeys));
    if (wanted > 1)
      add_split(part, tiles, a, n, static_cast<int32_t>(ceil_div(ceil_div(n.keys, wanted), 64) * 64), 1, n.query_len,
                1);
  }
  part.division = tiles;
}

void split_row_tiles(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int32_t partition,
                     int64_t max_query_len) {
  RowTiles tiles = make_row_tiles(part, a, n);
  add_split(part, tiles, a, n, partition, 1, max_query_len, 1);
  part.division = tiles;
}

void set_decode_split(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int32_t short_len, int blocks_per_sm,
                      int32_t overhead, const ChipLimits& chip) {
  RowTiles tiles = make_row_tiles(part, a, n);
  if (!set_asked_split(part, tiles, a, n, short_len, part.tile_keys) && a.split.kind == SplitPolicy::Kind::kAuto) {
    set_balanced(part, a, n, blocks_per_sm, overhead, chip);
    return;
  }
  part.division = tiles;
}

}  // namespace sextant::cuda
