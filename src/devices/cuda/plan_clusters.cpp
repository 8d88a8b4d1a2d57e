// Estimates what decode by clusters takes, and sizes the clusters.
#include "devices/cuda/plan_clusters.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "devices/cuda/hopper/cluster_launchers.h"
#include "devices/cuda/plan_forward.h"

namespace sextant::cuda {

namespace {

constexpr int64_t kMostBlocks = 65535;  // of a grid's third extent

// Bytes/s that one SM takes: by boxes, or row by row.
double sm_rate_of(const AttentionParams& p, const ChipRates::Cluster& rates) {
  const bool bytes = size_of(p.cache_dtype) == 1;
  if (!cache_has_boxes(p)) return bytes_of_key(p) / (bytes ? rates.row_key_fp8 : rates.row_key);
  if (!bytes) return rates.sm;
  return p.head_dim <= 64 ? rates.sm_fp8_narrow : rates.sm_fp8;
}

// Seconds of single blocks that share the balanced list; `slots` run at once. A block ends and begins anew at each
// request and KV head that it comes to.
double time_by_list(const PartKeys& keys, const AttentionParams& p, double slots, double sm_rate,
                    const ChipLimits& chip) {
  const ChipRates::Cluster& rates = chip.rates.cluster;
  const ChipRates::List& list = chip.rates.list;
  const double all_bytes = keys.sum * bytes_of_key(p) * p.num_kv_heads, pairs = keys.requests * p.num_kv_heads;
  const double parts = slots * keys.longest / (keys.sum * p.num_kv_heads), segments = 1 + pairs / slots;
  const bool alone = p.head_dim > 128;
  const double by_bytes = segments * (alone ? rates.segment_alone : rates.segment) +
                          all_bytes / std::min(rates.list_memory_part * chip.rates.memory, chip.sms * sm_rate);
  const double by_waits = alone ? 0 : segments * rates.block + all_bytes / slots / sm_rate;  // short requests
  return rates.start + rates.merge + std::max(0.0, parts - list.parts_in_start) * list.merge_part +
         std::max(by_bytes, by_waits);
}

// The best shape of clusters that ends before `best`.
bool choose_shape(Clusters& clusters, double* best, const PartKeys& keys, int32_t row_tiles, const AttentionParams& p,
                  const ChipLimits& chip) {
  const ChipRates::Cluster& rates = chip.rates.cluster;
  const double sm_rate = sm_rate_of(p, rates), key_bytes = bytes_of_key(p);
  const double all_bytes = keys.sum * key_bytes * p.num_kv_heads, pairs = keys.requests * p.num_kv_heads * row_tiles;
  const double tile_bytes = cluster_tile_keys(p) * key_bytes;
  bool chosen = false;
  for (int32_t size = 1; size <= kMostClusterBlocks; size *= 2) {
    if (size > 1 && 2 * keys.longest < size * cluster_tile_keys(p)) break;
    const double at_once = size == 1 ? chip.sms : chip.clusters_at_once[static_cast<size_t>(size)];
    if (at_once < 1) continue;
    // One block an SM has all of its shared memory for copies in flight; two hide each other's start and end.
    const bool one_a_sm = pairs <= at_once || p.head_dim > 128;  // two would not fit
    const double slots = at_once * (one_a_sm ? 1.0 : 2.0), waves = std::ceil(pairs / slots);
    // Two blocks share the SM's rate; a short one waits for one thing after the other all the same.
    const auto cluster_seconds = [&](double bytes) {
      double share = bytes / size;
      if (!cache_has_boxes(p)) share = std::ceil(share / tile_bytes) * tile_bytes;  // rows are looked at tile by tile
      const double alone = share / sm_rate;
      return one_a_sm ? alone : std::max(2 * alone, rates.block + alone);
    };
    const double mean_bytes = all_bytes * row_tiles / pairs, mean = cluster_seconds(mean_bytes),
                 longest = cluster_seconds(keys.longest * key_bytes);
    // All clusters at work share the memory: a full wave may wait for it where the last one does not.
    const auto wave_seconds = [&](double clusters_at_work) {
      return std::max(mean, mean_bytes / row_tiles * clusters_at_work / chip.rates.memory);
    };
    // Equal requests go wave by wave; of others the longest may come last.
    const bool ragged = longest > 1.3 * mean;
    const double blocks = !ragged      ? (waves - 1) * wave_seconds(slots) + wave_seconds(pairs - (waves - 1) * slots)
                          : waves == 1 ? longest
                                       : pairs * mean / slots + longest / 2;
    const double next_wave = one_a_sm ? (size > 1 ? rates.next_cluster_alone : rates.next_alone)
                                      : (size > 1 ? rates.next_cluster : rates.next_block);
    const double time = (p.head_dim > 128 ? rates.start_alone : rates.start) +
                        std::max({blocks, longest, all_bytes / chip.rates.memory}) + (waves - 1) * next_wave;
    if (time >= *best) continue;
    *best = time;
    chosen = true;
    clusters.shape.size = size;
    clusters.shape.one_a_sm = one_a_sm;
    clusters.shape.row_tiles = row_tiles;
  }
  return chosen;
}

// Entries that each row of block_table has.
int32_t count_known_blocks(const AttentionPlanArgs& a, const AttentionParams& p) {
  const int64_t most = *std::max_element(a.seq_lens.begin(), a.seq_lens.end());
  return static_cast<int32_t>(ceil_div(most, p.block_size));
}

bool may_cluster(const AttentionPlanArgs& a, const Bounds& n) {
  return a.split.kind == SplitPolicy::Kind::kAuto && !a.deterministic && !a.shared_prefix && n.requests <= kMostBlocks;
}

// Decodes of a mixed batch: clusters need no second kernel, so they run beside the prefills. Whether that ends before
// prefills and then `alone` seconds of decodes do.
bool run_beside(Clusters& clusters, double* seconds, const PartKeys& keys, double alone, const AttentionPlanArgs& a,
                const AttentionParams& p, const Bounds& n, const ChipLimits& chip) {
  double beside = std::numeric_limits<double>::infinity();
  Clusters shape;
  if (!choose_shape(shape, &beside, keys, 1, p, chip)) return false;
  const double prefill = prefill_seconds(a, p, static_cast<int32_t>(n.short_query_len), chip);
  if (seconds_beside(beside, prefill, chip) > prefill + alone) return false;
  clusters = shape;
  *seconds = beside;
  return true;
}

}  // namespace

bool choose_cluster_tiles(PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p, const Bounds& n,
                          double best, const ChipLimits& chip) {
  const int64_t row_tiles = ceil_div(p.group_size * n.query_len, kClusterRows);
  const PartKeys keys = count_keys(a, n, part.min_query_len, part.max_query_len);
  Clusters clusters;
  if (!may_cluster(a, n) || keys.requests == 0 ||
      !choose_shape(clusters, &best, keys, static_cast<int32_t>(row_tiles), p, chip))
    return false;
  part.seconds = best;
  clusters.shape.known_blocks = count_known_blocks(a, p);
  part.division = clusters;
  return true;
}

bool choose_cluster(PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p, const Bounds& n,
                    const ChipLimits& chip) {
  const ChipRates::Cluster& rates = chip.rates.cluster;
  const ChipRates::List& list = chip.rates.list;
  const bool fp8 = size_of(p.cache_dtype) == 1;
  const double sm_rate = sm_rate_of(p, rates);
  const double list_rate = p.head_dim > 128
                               ? list.wide
                               : std::min((fp8 ? list.memory_part_fp8 : list.memory_part) * chip.rates.memory,
                                          chip.sms * (fp8 ? list.sm_fp8 : list.sm));
  if (!may_cluster(a, n) || p.group_size * n.short_query_len > kClusterRows) return false;
  const PartKeys keys = count_keys(a, n, part.min_query_len, part.max_query_len);
  if (keys.requests == 0) return false;
  const double key_bytes = bytes_of_key(p);
  const double all_bytes = keys.sum * key_bytes * p.num_kv_heads, pairs = keys.requests * p.num_kv_heads;
  const double parts = 2.0 * chip.sms * keys.longest / (keys.sum * p.num_kv_heads);
  const double list_slots = chip.sms * (p.head_dim > 128 ? 1.0 : 2.0);
  double best = list.start + pairs / list_slots * list.segment +
                std::max(0.0, parts - list.parts_in_start) * list.merge_part + all_bytes / list_rate;
  Clusters clusters;
  bool chosen = choose_shape(clusters, &best, keys, 1, p, chip);
  // Lengths to come may be of any shape: the list, where there is enough to share.
  const bool one_a_sm = p.head_dim > 128;
  const double slots = chip.sms * (one_a_sm ? 1.0 : 2.0);
  const double by_list = time_by_list(keys, p, slots, sm_rate, chip);
  if (!n.open && n.any_long && run_beside(clusters, &best, keys, std::min(best, by_list), a, p, n, chip)) {
    chosen = true;
  } else if (n.open ? pairs >= chip.sms && cache_has_boxes(p) : by_list < best) {
    part.seconds = by_list;
    part.rows = kClusterRows;
    part.tile_keys = cluster_tile_keys(p);
    set_decode_split(part, a, n, static_cast<int32_t>(n.short_query_len), one_a_sm ? 1 : 2, rates.overhead, chip);
    part.max_query_len = std::min(part.max_query_len, kClusterRows / p.group_size);
    return true;
  }
  part.seconds = best;
  if (!chosen) return false;
  part.max_query_len = std::min(part.max_query_len, kClusterRows / p.group_size);
  clusters.shape.known_blocks = count_known_blocks(a, p);
  part.division = clusters;
  return true;
}

int32_t equal_parts(const AttentionPlanArgs& a, const Bounds& n, const PlanPart& part, const ChipLimits& chip) {
  const PartKeys keys = count_keys(a, n, part.min_query_len, part.max_query_len);
  if (keys.requests == 0 || keys.longest * keys.requests > 1.05 * keys.sum) return 0;
  const double row_tiles = keys.requests * static_cast<double>(ceil_div(a.spec.num_heads * n.query_len, part.rows));
  constexpr double kLeastUse = 0.93;       // of the chip over all waves of blocks
  constexpr double kMostParts = 4;         // more partial results cost more than the list does
  constexpr double kLeastTilesAPart = 16;  // a block's start and end cost about four tiles' time
  for (int32_t parts = 1; parts <= kMostParts; ++parts) {
    const double blocks = row_tiles * parts, waves = std::ceil(blocks / chip.sms);
    if (keys.longest / part.tile_keys / parts < kLeastTilesAPart) return 0;
    if (blocks / (waves * chip.sms) >= kLeastUse) return parts;
  }
  return 0;
}

bool set_mla_clusters(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int32_t equal,
                      const ChipLimits& chip) {
  constexpr int32_t kWide = 8;
  const int32_t at_once = chip.clusters_at_once[kWide];
  if (a.shared_prefix || n.requests > 4096) return false;
  int64_t clusters_a_request = 1;
  Clusters clusters;
  if (std::has_single_bit(static_cast<uint32_t>(equal))) {
    clusters.shape.size = equal;
  } else {
    const PartKeys keys = count_keys(a, n, part.min_query_len, part.max_query_len);
    clusters_a_request = n.requests > 0 ? at_once / n.requests : 0;
    // Each block has two tiles at least; requests of unequal length are better off with the list.
    clusters_a_request =
        std::min<int64_t>(clusters_a_request, static_cast<int64_t>(keys.longest) / (2 * kWide * part.tile_keys));
    if (clusters_a_request < 1 || keys.longest * keys.requests > 1.05 * keys.sum) return false;
    clusters.shape.size = kWide;
  }
  if (clusters_a_request > 1)
    clusters.split = make_fixed_split(part, a, n, 0, static_cast<int32_t>(clusters_a_request), n.query_len,
                                      part.tile_keys, &clusters.num_slots);
  clusters.count = static_cast<int32_t>(n.requests * clusters.split.max_partitions);
  part.division = clusters;
  return true;
}

}  // namespace sextant::cuda
