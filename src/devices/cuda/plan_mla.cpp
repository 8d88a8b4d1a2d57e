// Divides MLA decode among blocks, kernel by kernel.
#include "devices/cuda/plan_mla.h"

#include <algorithm>
#include <cmath>

#include "devices/cuda/plan_clusters.h"
#include "devices/cuda/portable/mla_launchers.h"

namespace sextant::cuda {
namespace {

int64_t rows_of_request(const PlanInput& in) { return in.args.spec.num_heads * in.bounds.query_len; }

// `parts` of each request as equal_parts() gives them: equal parts, or the list where they are worse.
void divide(PlanPart& part, const PlanInput& in, int32_t parts, const ChipRates::Mla& rates) {
  AttentionPlanArgs args = in.args;
  if (parts == 1) args.split.kind = SplitPolicy::Kind::kNone;
  if (parts > 1) args.split = {SplitPolicy::Kind::kSegments, parts};
  const auto longest = static_cast<int32_t>(in.bounds.query_len);  // all of a request's tokens are rows of its tiles
  set_decode_split(part, args, in.bounds, std::max(in.short_len, longest), 1, rates.overhead, in.chip);
}

// A batch in tiles, and what each way to divide it takes. `sms`: blocks that run at once.
struct MlaWork {
  const ChipRates::Mla& rates;
  double requests, row_tiles, tiles, longest;  // row tiles of a request; tiles of all, of the longest
  double partial;                              // seconds that a row tile's partial result takes to write and to read
  int32_t sms;

  MlaWork(const PlanPart& part, const PlanInput& in, const ChipRates::Mla& kernel) : rates(kernel), sms(in.chip.sms) {
    const PartKeys keys = count_keys(in.args, in.bounds, part.min_query_len, part.max_query_len);
    requests = keys.requests;
    row_tiles = static_cast<double>(ceil_div(rows_of_request(in), part.rows));
    tiles = keys.sum / part.tile_keys * row_tiles;
    longest = std::ceil(keys.longest / part.tile_keys);
    partial = 2.0 * part.rows * in.args.spec.value_head_dim() * sizeof(float) / rates.partial_bytes;
  }
  // Seconds of a tile where so many blocks are at work.
  double tile_among(double blocks) const {
    return blocks > sms / 2.0 ? std::max(rates.tile, rates.shared_tile) : rates.tile;
  }
  // A block of the list begins anew with each row tile that it comes to.
  double by_list() const {
    const double all = tiles + rates.overhead * requests * row_tiles;
    return rates.start + (std::ceil(all / sms) + 1) * tile_among(sms) + rates.merge + 1.5 * sms * partial +
           rates.part * std::min(longest, longest * row_tiles * sms / std::max(tiles, 1.0));
  }
  // Equal parts of every request.
  double by_parts(int32_t parts) const {
    const double blocks = requests * row_tiles * parts, a_block = std::ceil(longest / parts);
    return std::ceil(blocks / sms) * (rates.start + a_block * tile_among(blocks)) +
           (parts > 1 ? merge_of(blocks, parts) : 0);
  }
  double merge_of(double blocks, int32_t parts) const { return rates.merge + rates.part * parts + blocks * partial; }
  // `count` clusters of `size` blocks a request; `slots`: clusters that run at once.
  double by_clusters(int32_t size, int32_t count, double slots) const {
    const double clusters = requests * count, waves = std::ceil(clusters / slots);
    const double a_cluster = std::ceil(longest / (size * count)), mean = tiles / (clusters * size);
    const bool ragged = a_cluster > 1.3 * mean + 1;
    const double all = ragged && waves > 1 ? clusters * mean / slots + a_cluster / 2 : waves * a_cluster;
    return waves * (rates.start + rates.cluster) + std::max(all, a_cluster) * tile_among(clusters * size) +
           (count > 1 ? merge_of(clusters, count) : 0);
  }
};

// Equal parts of every request where that ends sooner than the list; 0: it does not. `best`: the estimate.
int32_t few_parts(const PlanInput& in, const MlaWork& work, double* best) {
  if (!in.knows_lengths() || in.args.shared_prefix || work.requests == 0) return 0;
  *best = work.by_list();
  int32_t chosen = 0;
  for (const int32_t parts : {1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 44, 66}) {
    if (parts > work.longest) break;
    const double time = work.by_parts(parts);
    if (time >= (parts == 1 ? 1.05 : 1.0) * *best) continue;  // nothing to merge: no second launch
    *best = time;
    chosen = parts;
  }
  return chosen;
}

// Clusters, where they end before `best`; else the part is left as it is.
bool few_clusters(PlanPart& part, const PlanInput& in, const MlaWork& work, double best) {
  constexpr int32_t kMostClusters = 16, kMostRequests = 4096;  // of a request; of a batch
  if (!in.knows_lengths() || in.args.shared_prefix || work.requests == 0 || work.row_tiles > 1 ||
      in.bounds.requests > kMostRequests)
    return false;
  Clusters clusters;
  int32_t count = 0;
  for (int32_t size = 2; size <= 8; size *= 2)
    for (int32_t n = 1; n <= kMostClusters && size * n <= work.longest; n *= 2) {
      const int at_once = in.chip.clusters_at_once[static_cast<size_t>(size)];
      const double time = at_once < 1 ? best : work.by_clusters(size, n, at_once);
      if (time >= best) continue;
      best = time;
      clusters.shape.size = size;
      count = n;
    }
  if (count == 0) return false;
  if (count > 1)
    clusters.split =
        make_fixed_split(part, in.args, in.bounds, 0, count, in.bounds.query_len, part.tile_keys, &clusters.num_slots);
  clusters.count = static_cast<int32_t>(in.bounds.requests * clusters.split.max_partitions);
  part.division = clusters;
  return true;
}

// Two blocks of 16 rows share an SM.
bool is_few_rows(const PlanInput& in) { return rows_of_request(in) <= kMlaBytesRows / 2; }
ChipLimits shares_of_mla_bytes(const PlanInput& in) {
  ChipLimits shares = in.chip;
  if (!is_few_rows(in)) return shares;
  shares.sms *= 2;
  for (int& clusters : shares.clusters_at_once) clusters *= 2;
  return shares;
}
bool set_mla_bytes_tile(PlanPart& part, const PlanInput& in) {
  const bool few = is_few_rows(in);
  if (rows_of_request(in) > kMlaBytesRows || (!few && in.chip.shared_bytes < kMlaBytesSharedBytes)) return false;
  part.rows = few ? kMlaBytesRows / 2 : kMlaBytesRows;
  part.tile_keys = kMlaBytesTileKeys;
  part.max_query_len = std::min(part.max_query_len, kMlaBytesRows / in.args.spec.num_heads);
  return true;
}

// Every request has rows for two row tiles of 64. In deterministic mode one token's rows decide: how rows are laid out
// over blocks must not depend on the other requests.
bool has_two_row_tiles(const PlanInput& in) {
  const int32_t heads = in.args.spec.num_heads;
  if (heads % (2 * kMlaWgmmaRows) == 0) return true;
  return in.knows_lengths() && std::all_of(in.bounds.query_lens.begin(), in.bounds.query_lens.end(), [&](int32_t len) {
           return heads * len > kMlaWgmmaRows && heads * len % (2 * kMlaWgmmaRows) == 0;
         });
}

int32_t free_parts(const PlanPart& part, const PlanInput& in) {
  return in.free_choice() ? equal_parts(in.args, in.bounds, part, in.chip) : 0;
}

}  // namespace

bool plan_mla_transposed(PlanPart& part, const PlanInput& in) {
  if (rows_of_request(in) > kMlaTransposedRows) return false;
  part.rows = kMlaTransposedRows;
  part.tile_keys = kMlaWgmmaTileKeys;
  part.max_query_len = std::min(part.max_query_len, kMlaTransposedRows / in.args.spec.num_heads);
  const int32_t parts = free_parts(part, in);
  if (in.free_choice() && parts != 1 && set_mla_clusters(part, in.args, in.bounds, parts, in.chip)) return true;
  double estimate = 0;
  divide(part, in, parts > 0 ? parts : few_parts(in, MlaWork(part, in, in.chip.rates.mla), &estimate),
         in.chip.rates.mla);
  return true;
}

bool plan_mla_bytes_clusters(PlanPart& part, const PlanInput& in) {
  const ChipLimits shares = shares_of_mla_bytes(in);
  const PlanInput blocks = {in.args, in.params, in.bounds, in.short_len, shares};
  if (!set_mla_bytes_tile(part, in)) return false;
  const MlaWork work(part, blocks, in.chip.rates.mla_bytes);
  double estimate = 0;
  few_parts(blocks, work, &estimate);
  return few_clusters(part, blocks, work, estimate);
}

bool plan_mla_bytes(PlanPart& part, const PlanInput& in) {
  const ChipLimits shares = shares_of_mla_bytes(in);
  const PlanInput blocks = {in.args, in.params, in.bounds, in.short_len, shares};
  if (!set_mla_bytes_tile(part, in)) return false;
  double estimate = 0;
  divide(part, blocks, few_parts(blocks, MlaWork(part, blocks, in.chip.rates.mla_bytes), &estimate),
         in.chip.rates.mla_bytes);
  return true;
}

bool plan_mla_wgmma(PlanPart& part, const PlanInput& in) {
  // Two row tiles of the same keys, side by side: those keys are then read once. Half as many shares of twice the rows.
  const int32_t group = has_two_row_tiles(in) ? 2 : 1;
  ChipLimits shares = in.chip;
  shares.sms /= group;
  const PlanInput grouped = {in.args, in.params, in.bounds, in.short_len, shares};
  part.rows = group * kMlaWgmmaRows;
  part.tile_keys = kMlaWgmmaTileKeys;
  const int32_t parts = in.bounds.open ? free_parts(part, grouped) : 0;
  double estimate = 0;
  divide(part, grouped, parts > 0 ? parts : few_parts(grouped, MlaWork(part, grouped, in.chip.rates.mla), &estimate),
         in.chip.rates.mla);
  if (auto* list = std::get_if<BalancedList>(&part.division)) list->group = group;
  if (auto* tiles = std::get_if<RowTiles>(&part.division)) tiles->group = group;
  return true;
}

bool plan_mla(PlanPart& part, const PlanInput& in) {
  const int64_t rows = rows_of_request(in);
  part.rows = std::min(rows <= 16 ? 16 : rows <= 32 ? 32 : 64, mla_most_rows(in.chip.room()));
  part.tile_keys = kMlaTileKeys;
  divide(part, in, free_parts(part, in), in.chip.rates.mla);
  return true;
}

}  // namespace sextant::cuda
