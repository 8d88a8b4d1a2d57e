// Estimates when the forward kernel is the better one for short queries.
#include "devices/cuda/plan_forward.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "devices/cuda/hopper/forward_launchers.h"
#include "devices/cuda/kernels/vector_strides.h"

namespace sextant::cuda {
namespace {

bool may_copy(const AttentionPlanArgs& a, const AttentionParams& p) {
  return p.origin == KeyOrigin::kCache && a.split.kind == SplitPolicy::Kind::kAuto && !a.deterministic &&
         !a.shared_prefix;
}
bool plain_cache(const AttentionPlanArgs& a, const AttentionParams& p) {
  return may_copy(a, p) && p.cache_dtype == p.dtype && cache_has_boxes(p);
}

// The row tiles of a batch as they are divided over the chip, in key tiles.
struct RowTileWork {
  double work = 0, pieces = 0, longest = 0;

  // Of the chip, each piece costing `start` more. Pieces are taken longest first; those of like length end together,
  // so that a last wave which is not full counts whole.
  double makespan(double start, int sms) const {
    const double all = work + pieces * start, mean = all / pieces, last = longest + start;
    const double waves = last < 1.3 * mean ? std::ceil(pieces / sms) * mean : all / sms + 0.3 * mean;
    return std::max(waves, last);
  }
};

// `partition`: keys; 0: requests are whole.
RowTileWork count_row_tiles(const PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p,
                            int32_t partition) {
  constexpr double kTileKeys = 128;
  RowTileWork w;
  for (size_t b = 0; b < a.seq_lens.size(); ++b) {
    const int32_t queries = a.query_start_loc[b + 1] - a.query_start_loc[b];
    if (queries < 1 || !part.takes(queries)) continue;
    const double query_len = queries, seq_len = a.seq_lens[b];
    const double tiles = std::ceil(query_len * p.group_size / part.rows), tile_queries = query_len / tiles;
    const double context = seq_len - query_len;
    double range = seq_len, mean = p.causal ? context + (query_len + tile_queries) / 2 : seq_len, longest = seq_len;
    if (p.window > 0) {
      range = std::min(range, p.window + query_len);
      mean = std::min(mean, p.window + tile_queries);
      longest = std::min(longest, p.window + tile_queries);
    }
    const double parts = partition > 0 ? std::max(1.0, std::ceil(range / partition)) : 1;
    w.pieces += tiles * parts * p.num_kv_heads;
    w.work += tiles * p.num_kv_heads * (mean / kTileKeys + 0.5);
    w.longest = std::max(w.longest, (partition > 0 ? std::min<double>(partition, longest) : longest) / kTileKeys + 0.5);
  }
  return w;
}

// 128 keys' time for one row tile. `cold`: no other row tile reads the keys, so they come from memory; what copies
// or converts them row by row then waits for it.
double tile_seconds(const AttentionParams& planned, int32_t rows, bool cold, const ChipLimits& chip) {
  AttentionParams p = planned;
  set_vector_strides(p);
  const ChipRates::Forward& rates = chip.rates.forward;
  const double products = 2.0 * rows * 128 * (p.head_dim + p.head_dim_v) / (rates.products / chip.sms) *
                          (rows == kForwardTallRows ? rates.tall_part(std::max(p.head_dim, p.head_dim_v)) : 1.0);
  const KeySource source = forward_source(p);
  if (forward_brings_boxes(p, source)) return products;
  if (converts_keys(source))
    return std::max(products / (source == KeySource::kFp16 ? rates.fp16(p.head_dim) : rates.convert),
                    cold ? rates.converted_tile * p.head_dim / 128.0 : 0.0);
  return std::max(products / (source == KeySource::kExact ? rates.exact_rows : rates.rows),
                  cold ? rates.cold_rows : 0.0);
}

}  // namespace

int32_t choose_forward_rows(const PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p, const Bounds& n,
                            const ChipLimits& chip) {
  // Tiles of other keys have other bits. Decodes beside prefills leave two of three consumers idle.
  if (a.deterministic || !forward_may_be_tall(p) || (part.whole && p.head_dim > 64)) return kForwardRows;
  if (n.open) return n.query_len * p.group_size >= 8 * kForwardTallRows ? kForwardTallRows : kForwardRows;
  const auto seconds = [&](int32_t rows) {
    PlanPart of = part;
    of.rows = rows;
    const double tile = tile_seconds(p, rows, false, chip);
    return tile * count_row_tiles(of, a, p, 0).makespan(chip.rates.forward.item / tile, chip.sms);
  };
  return seconds(kForwardTallRows) < seconds(kForwardRows) ? kForwardTallRows : kForwardRows;
}

int32_t choose_forward_partition(const PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p,
                                 const ChipLimits& chip) {
  // In the time of a key tile: what an item costs beside its tiles, and with partial results to write; the merge.
  const ChipRates::Forward& rates = chip.rates.forward;
  const bool cold = a.query_start_loc.back() <= static_cast<int64_t>(a.seq_lens.size()) * part.rows / p.group_size;
  const double tile = tile_seconds(p, part.rows, cold, chip);
  const double converts = converts_keys(forward_source(p)) ? chip.rates.copy.converted(p.head_dim) : 0;
  const double start = (rates.item + converts) / tile, split_start = (rates.split_item + converts) / tile,
               merge = rates.merge / tile;
  constexpr double kMostBytes = 256 << 20;
  constexpr int32_t kLeastKeys = 512;
  const RowTileWork whole = count_row_tiles(part, a, p, 0);
  if (whole.pieces == 0) return 0;
  double best = 0.93 * whole.makespan(start, chip.sms);
  int32_t chosen = 0;
  const double longest = whole.longest * 128, row_bytes = 4.0 * p.num_heads * p.head_dim_v * a.query_start_loc.back();
  for (int parts : {2, 3, 4, 6, 8, 12, 16, 24, 32}) {
    const auto partition = static_cast<int32_t>(ceil_div(static_cast<int64_t>(longest / parts), 128) * 128);
    if (partition < kLeastKeys || row_bytes * parts > kMostBytes) break;
    const RowTileWork split = count_row_tiles(part, a, p, partition);
    const double time = split.makespan(split_start, chip.sms) + merge + row_bytes * parts / rates.merge_bytes / tile;
    if (time >= best) continue;
    best = time;
    chosen = partition;
  }
  return chosen;
}

std::shared_ptr<const RequestOrder> order_requests(const PlanPart& part, const AttentionPlanArgs& a,
                                                   const AttentionParams& p, const Bounds& n, int32_t short_len) {
  struct Entry {
    int64_t tiles, keys;  // keys that the first row tile sees
    uint8_t request;
    bool decode;
  };
  if (n.open || a.seq_lens.size() > RequestOrder::kMost) return nullptr;
  std::vector<Entry> entries;
  const int32_t tile_queries = std::max(1, part.rows / p.group_size);
  for (size_t b = 0; b < a.seq_lens.size(); ++b) {
    const int32_t query_len = a.query_start_loc[b + 1] - a.query_start_loc[b], seq_len = a.seq_lens[b];
    if (query_len < 1 || !part.takes(query_len)) continue;
    int64_t keys = seq_len;
    if (p.causal) keys -= query_len - std::min(query_len, tile_queries);
    if (p.window > 0) keys = std::min<int64_t>(keys, int64_t{p.window} + tile_queries);
    entries.push_back({ceil_div(int64_t{query_len} * p.group_size, int64_t{part.rows}), keys, static_cast<uint8_t>(b),
                       part.front_sms > 0 && query_len <= short_len});
  }
  if (entries.size() < 2) return nullptr;
  std::ranges::stable_sort(entries, [](const Entry& x, const Entry& y) {
    if (x.decode != y.decode) return y.decode;
    return x.decode ? x.keys < y.keys : x.keys > y.keys;
  });
  auto order = std::make_shared<RequestOrder>();
  int64_t tiles = 0;
  for (const Entry& entry : entries) {
    order->request[order->count++] = entry.request;
    tiles += entry.tiles;
    if (tiles > std::numeric_limits<uint16_t>::max()) return nullptr;
    order->first[order->count] = static_cast<uint16_t>(tiles);
  }
  return order;
}

double prefill_seconds(const AttentionPlanArgs& a, const AttentionParams& p, int32_t short_len,
                       const ChipLimits& chip) {
  double pairs = 0;
  for (size_t b = 0; b < a.seq_lens.size(); ++b) {
    const double query_len = a.query_start_loc[b + 1] - a.query_start_loc[b], seq_len = a.seq_lens[b];
    double seen = a.spec.causal ? seq_len - query_len / 2 : seq_len;
    if (p.window > 0) seen = std::min<double>(seen, p.window);
    if (query_len > short_len) pairs += query_len * seen;
  }
  return 2 * pairs * p.num_heads * (p.head_dim + p.head_dim_v) / chip.rates.forward.products;
}

double seconds_beside(double decodes, double prefills, const ChipLimits& chip) {
  return std::max(decodes, prefills) + chip.rates.forward.beside * std::min(decodes, prefills);
}

double forward_seconds_of_few(const AttentionParams& p, const PartKeys& keys, const ChipLimits& chip) {
  constexpr double kLeastKeys = 512, kMostParts = 32;  // of a partition
  const ChipRates::Forward& rates = chip.rates.forward;
  const double items = keys.requests * p.num_kv_heads;
  const double parts = std::clamp(std::min(std::floor(chip.sms / items), keys.longest / kLeastKeys), 1.0, kMostParts);
  const double waves = std::ceil(items * parts / chip.sms), part_keys = keys.longest / parts;
  // One tile after the other: little is under way at once where a block has few.
  const bool converts = p.cache_dtype != p.dtype;
  const double width = std::max(1.0, p.head_dim / 128.0);
  const double chain = part_keys / 128 * (converts ? rates.converted_tile : rates.tile) * width +
                       (converts ? chip.rates.copy.convert_queries : 0);
  const double all_bytes = keys.sum * bytes_of_key(p) * p.num_kv_heads;
  return rates.start + (parts > 1 ? rates.reduce : 0) +
         std::max({all_bytes / (rates.memory_part * chip.rates.memory), waves * chain,
                   waves * part_keys * bytes_of_key(p) / rates.sm}) +
         (waves - 1) * rates.item;
}

bool forward_beats_stream(const AttentionPlanArgs& a, const AttentionParams& p, const Bounds& n, int32_t short_len,
                          bool fp8_products, const ChipLimits& chip) {
  const bool wide = std::max(p.head_dim, p.head_dim_v) > 128;
  const bool few_rows = p.group_size * n.short_query_len <= kClusterRows;
  const bool plain = fp8_products ? may_copy(a, p) : plain_cache(a, p),
             copied = !plain && !fp8_products && may_copy(a, p);
  if (n.any_long || (few_rows && (!wide || cluster_serves(p))) || !(plain || copied)) return false;
  const PartKeys keys = count_keys(a, n, a.filter.min_query_len, short_len);
  if (keys.requests == 0) return false;
  const double all_bytes = keys.sum * bytes_of_key(p) * p.num_kv_heads;
  const double items = keys.requests * p.num_kv_heads, parts = std::max(1.0, std::floor(chip.sms / items));
  const double item_bytes = keys.longest * bytes_of_key(p) / parts, waves = std::ceil(items * parts / chip.sms);
  const double widened = 2.0 / static_cast<double>(size_of(p.cache_dtype));  // bytes of a copy for each of the cache
  const ChipRates::Forward& rates = chip.rates.forward;
  const ChipRates::List& list = chip.rates.list;
  const double copy = copied ? chip.rates.copy.decode_start + all_bytes * (1 + 2 * widened) / chip.rates.copy.bytes : 0;
  const double seconds = rates.start + copy + (parts > 1 ? rates.reduce : 0) +
                         std::max(all_bytes / (rates.memory_part * chip.rates.memory),
                                  waves * item_bytes * (copied ? widened : 1) / rates.sm);
  const int64_t rows = p.group_size * n.short_query_len, tile_rows = wide || rows <= 16 ? 16 : 32;
  const double row_tiles = items * static_cast<double>(ceil_div(rows, tile_rows)) / (chip.sms * (wide ? 1 : 2));
  const double converts = fp8_products ? chip.rates.copy.decode_start : 0;  // the list's kernel takes no fp8 queries
  return seconds < converts + list.start + row_tiles * list.row_tile + all_bytes / (wide ? list.wide : list.rows_32);
}

bool forward_joins(const PlanPart& decode, const AttentionPlanArgs& a, const AttentionParams& p, const Bounds& n,
                   int32_t short_len, const ChipLimits& chip) {
  if (decode.seconds == 0 || !plain_cache(a, p)) return false;
  const ChipRates::Forward& rates = chip.rates.forward;
  const PartKeys keys = count_keys(a, n, a.filter.min_query_len, short_len);
  const double prefill = prefill_seconds(a, p, short_len, chip);
  const double all_bytes = keys.sum * bytes_of_key(p) * p.num_kv_heads;
  const double longest = keys.longest * bytes_of_key(p) / rates.sm;
  const double joined = std::max({all_bytes / (rates.memory_part * chip.rates.memory),
                                  prefill + all_bytes / rates.sm / chip.sms, longest}) +
                        longest / 4;
  const bool beside = std::holds_alternative<Clusters>(decode.division);
  return joined < (beside ? seconds_beside(decode.seconds, prefill, chip) : decode.seconds + prefill);
}

}  // namespace sextant::cuda
