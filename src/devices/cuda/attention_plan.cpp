#include "devices/cuda/attention_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "devices/cuda/kernels/cache_kernels.h"

namespace sextant::cuda {
namespace {

constexpr int32_t kMaxStreamRows = 32;        // query rows that a decode kernel's matrix tile holds
constexpr int32_t kDeterministicKeys = 1024;  // keys of a partition when bits must not depend on the machine
constexpr int64_t kTileSharedBytes = 132 * 1024, kStreamSharedBytes = 114 * 1024, kWideStreamSharedBytes = 225 * 1024,
                  kMlaSharedBytes = 212 * 1024;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
size_t align(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Largest lengths that the plan serves.
struct Bounds {
  int64_t tokens = 0, requests = 0;
  int64_t query_len = 0;        // of requests that may pass the filter
  int64_t short_query_len = 0;  // of those no longer than a decode kernel takes
  int64_t keys = 0;             // that one request may see
  bool any_short = false, any_long = false;
};

Bounds find_bounds(const AttentionPlanArgs& a, int32_t short_len) {
  Bounds n;
  n.requests = static_cast<int64_t>(a.seq_lens.size());
  n.tokens = a.query_start_loc.empty() ? 0 : a.query_start_loc.back();
  int64_t seq_len = a.bounds.max_seq_len, packed = 0;
  for (size_t b = 0; b < a.seq_lens.size(); ++b) {
    const int32_t query_len = a.query_start_loc[b + 1] - a.query_start_loc[b];
    if (!a.key_start_loc.empty()) packed = std::max<int64_t>(packed, a.key_start_loc[b + 1] - a.key_start_loc[b]);
    seq_len = std::max<int64_t>(seq_len, a.seq_lens[b]);
    n.query_len = std::max<int64_t>(n.query_len, query_len);
    if (query_len < a.filter.min_query_len || query_len > a.filter.max_query_len) continue;
    (query_len <= short_len ? n.any_short : n.any_long) = true;
    if (query_len <= short_len) n.short_query_len = std::max<int64_t>(n.short_query_len, query_len);
  }
  n.short_query_len = std::max<int64_t>(n.short_query_len, std::min(a.bounds.max_query_len, short_len));
  n.query_len = std::min<int64_t>(std::max<int64_t>(n.query_len, a.bounds.max_query_len), a.filter.max_query_len);
  if (a.op == AttentionOp::kVarlen) {
    const bool bounded = !a.key_start_loc.empty() && a.bounds.max_seq_len == 0;
    n.keys = bounded ? packed : (a.max_packed_keys > 0 ? a.max_packed_keys : seq_len);
  } else {
    n.keys = std::max<int64_t>(0, std::min(seq_len, a.key_end) - a.key_begin);
  }
  if (a.spec.sliding_window > 0) n.keys = std::min(n.keys, a.spec.sliding_window + n.query_len);
  if (a.bounds.max_query_len > 0 || a.bounds.max_seq_len > 0) {
    n.any_short = n.any_short || a.filter.min_query_len <= short_len;
    n.any_long = n.any_long || n.query_len > short_len;
  }
  return n;
}

// Adds the partial results of a fixed split to a part.
void set_fixed_split(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int32_t partition, int32_t segments,
                     int64_t max_query_len, int32_t granule) {
  FixedSplit& s = part.split;
  s.partition = partition;
  s.segments = segments;
  s.granule = granule;
  const int64_t most = partition > 0 ? ceil_div(n.keys, ceil_div(partition, granule) * granule) : segments;
  s.max_partitions = static_cast<int32_t>(std::max<int64_t>(1, most));
  if (s.max_partitions == 1) return;
  s.max_query_len = static_cast<int32_t>(std::min(max_query_len, n.query_len));
  s.compact_slots = n.requests * s.max_query_len < n.tokens;
  part.num_slots = s.compact_slots ? n.requests * s.max_query_len : n.tokens;
  part.grid.partitions = s.max_partitions;
  part.reduces = true;
  const auto rows = static_cast<size_t>(part.num_slots * a.spec.num_heads * s.max_partitions);
  part.partial_lse_offset = align(rows * static_cast<size_t>(a.spec.value_head_dim()) * sizeof(float));
  part.workspace_bytes = part.partial_lse_offset + align(rows * sizeof(float));
}

void set_balanced(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int blocks_per_sm,
                  const ChipLimits& chip) {
  const int64_t row_tiles = n.tokens * a.spec.group_size() / part.stream.rows + n.requests;
  const int64_t most = row_tiles * a.spec.num_kv_heads * std::max<int64_t>(1, ceil_div(n.keys, part.tile_keys));
  const int64_t blocks = std::clamp<int64_t>(most, 1, static_cast<int64_t>(chip.sms) * blocks_per_sm);
  part.balanced = true;
  part.reduces = true;
  part.stream.grid = dim3(static_cast<unsigned>(blocks));
  const auto rows = static_cast<size_t>(2 * blocks * part.stream.rows);
  part.partial_lse_offset = align(rows * static_cast<size_t>(a.spec.value_head_dim()) * sizeof(float));
  part.tile_starts_offset = part.partial_lse_offset + align(rows * sizeof(float));
  part.workspace_bytes = part.tile_starts_offset + align(static_cast<size_t>(n.requests + 1) * sizeof(int32_t));
}

// Decode kernels: the balanced list, or a fixed split when one is asked for.
void set_decode_split(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int32_t short_len, int blocks_per_sm,
                      const ChipLimits& chip) {
  using Kind = SplitPolicy::Kind;
  if (a.split.kind == Kind::kAuto && !a.deterministic) {
    set_balanced(part, a, n, blocks_per_sm, chip);
    return;
  }
  part.grid.tiles = static_cast<int32_t>(n.tokens * a.spec.group_size() / part.stream.rows + n.requests);
  if (a.split.kind == Kind::kSegments) {
    set_fixed_split(part, a, n, 0, a.split.value, short_len, part.tile_keys);
  } else if (a.split.kind == Kind::kPartition) {
    set_fixed_split(part, a, n, a.split.value, 1, short_len, part.tile_keys);
  } else if (a.split.kind == Kind::kAuto) {
    set_fixed_split(part, a, n, kDeterministicKeys, 1, short_len, part.tile_keys);
  }
  part.stream.grid = dim3(part.grid.tiles, a.spec.num_kv_heads, part.grid.partitions);
}

constexpr double kMemoryRate = 3.0e12;  // bytes/s, H100

// Keys that the requests of one part see, all heads alike.
struct PartKeys {
  double requests = 0, sum = 0, longest = 0;
};
PartKeys count_keys(const AttentionPlanArgs& a, const Bounds& n, int64_t min_query_len, int64_t max_query_len) {
  const bool graph = a.bounds.max_seq_len > 0;  // lengths of now say nothing about those to come
  PartKeys part;
  for (size_t b = 0; b < a.seq_lens.size(); ++b) {
    const int64_t query_len = a.query_start_loc[b + 1] - a.query_start_loc[b];
    if (query_len < min_query_len || query_len > max_query_len) continue;
    const auto keys = static_cast<double>(
        std::clamp<int64_t>(graph ? n.keys : a.seq_lens[b] - a.key_begin, 1, std::max<int64_t>(1, n.keys)));
    part.requests += 1;
    part.sum += keys;
    part.longest = std::max(part.longest, keys);
  }
  return part;
}

// Decode by clusters where its blocks, all about equally long, fill the chip as well as the balanced list does: what it
// saves is the search in that list and the second kernel.
bool choose_cluster(PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p, const Bounds& n,
                    const ChipLimits& chip) {
  // Measured on H100: what one SM takes by tensor-map copies (bytes/s); what does not shrink with the keys (s); and the
  // rate of the balanced list.
  constexpr double kSmRate = 4.6e10, kClusterStart = 5e-6, kBalancedStart = 12e-6, kBalancedRate = 2.88e12;
  constexpr int64_t kBlockShared = 226 * 1024, kMostRequests = 65535;
  if (a.split.kind != SplitPolicy::Kind::kAuto || a.deterministic || a.shared_prefix || !cluster_serves(p) ||
      p.group_size * n.short_query_len > kClusterRows || n.requests > kMostRequests || chip.shared_bytes < kBlockShared)
    return false;
  const PartKeys keys = count_keys(a, n, part.min_query_len, part.max_query_len);
  if (keys.requests == 0) return false;
  const double key_bytes = static_cast<double>(p.head_dim + p.head_dim_v) * static_cast<double>(size_of(p.cache_dtype));
  const double all_bytes = keys.sum * key_bytes * p.num_kv_heads, pairs = keys.requests * p.num_kv_heads;
  double best = kBalancedStart + all_bytes / kBalancedRate;
  bool chosen = false;
  for (int32_t size = 1; size <= kMostClusterBlocks; size *= 2) {
    if (size > 1 && keys.longest < size * kClusterTileKeys / 2) break;
    const double at_once = size == 1 ? chip.sms : chip.clusters_at_once[static_cast<size_t>(size)];
    if (at_once < 1) continue;
    // One block an SM has all of its shared memory for copies in flight; two hide each other's start and end.
    const bool one_a_sm = pairs <= at_once || p.head_dim > 128;
    const double slots = at_once * (one_a_sm ? 1.0 : 2.0), full_waves = std::floor(pairs / slots);
    const double rest = pairs - full_waves * slots, block_rate = one_a_sm ? kSmRate : kSmRate / 2;
    const double pair_bytes = all_bytes / pairs, longest_bytes = keys.longest * key_bytes;
    const auto wave = [&](double clusters, double bytes) {
      return std::max(clusters * bytes / kMemoryRate, bytes / size / block_rate);
    };
    double time = kClusterStart + full_waves * wave(slots, pair_bytes);
    if (rest > 0) time += wave(rest, pair_bytes);
    time += std::max(0.0, longest_bytes - pair_bytes) / size / block_rate;
    if (time >= best) continue;
    best = time;
    chosen = true;
    part.cluster.size = size;
    part.cluster.one_a_sm = one_a_sm;
  }
  if (!chosen) return false;
  part.kind = KernelKind::kCluster;
  part.max_query_len = std::min(part.max_query_len, kClusterRows / p.group_size);
  const int64_t most = *std::max_element(a.seq_lens.begin(), a.seq_lens.end());
  part.cluster.known_blocks = static_cast<int32_t>(ceil_div(most, p.block_size));
  return true;
}

// Row-tile kernels: split only where the rows alone do not fill the chip.
void set_tile_split(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int32_t short_len, int32_t rows,
                    int64_t wanted_blocks) {
  using Kind = SplitPolicy::Kind;
  constexpr int64_t kLeastKeys = 256;  // a partition's; fewer cost more to merge than they save
  part.grid.tiles = static_cast<int32_t>(n.tokens * a.spec.group_size() / rows + n.requests);
  if (a.split.kind == Kind::kSegments) {
    set_fixed_split(part, a, n, 0, a.split.value, short_len, 1);
  } else if (a.split.kind == Kind::kPartition) {
    set_fixed_split(part, a, n, a.split.value, 1, short_len, 1);
  } else if (a.deterministic && a.split.kind == Kind::kAuto) {
    set_fixed_split(part, a, n, kDeterministicKeys, 1, short_len, 1);
  } else if (a.split.kind == Kind::kAuto) {
    const int64_t blocks = std::max<int64_t>(1, ceil_div(n.tokens * a.spec.group_size(), rows)) * a.spec.num_kv_heads;
    const int64_t wanted = std::min(wanted_blocks / blocks, ceil_div(n.keys, kLeastKeys));
    if (wanted > 1)
      set_fixed_split(part, a, n, static_cast<int32_t>(ceil_div(ceil_div(n.keys, wanted), 64) * 64), 1, n.query_len, 1);
  }
}

// Requests of about equal length need no balanced list when an equal number of parts of each fills the chip: fewer rows
// are then split, or none, and less is written and merged. The number of parts; 0: the list is better.
int32_t equal_parts(const AttentionPlanArgs& a, const Bounds& n, const PlanPart& part, const ChipLimits& chip) {
  const PartKeys keys = count_keys(a, n, part.min_query_len, part.max_query_len);
  if (keys.requests == 0 || keys.longest * keys.requests > 1.05 * keys.sum) return 0;
  const double row_tiles =
      keys.requests * static_cast<double>(ceil_div(a.spec.num_heads * n.query_len, part.stream.rows));
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

// Clusters for the kernel of few rows: one a request where that fills the chip, else several of eight blocks, whose
// results the reduce kernel merges: fewer than the balanced list leaves.
bool set_mla_clusters(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int32_t equal,
                      const ChipLimits& chip) {
  constexpr int32_t kWide = 8;
  const int32_t at_once = chip.clusters_at_once[kWide];
  if (a.shared_prefix || n.requests > 4096) return false;
  int64_t clusters_a_request = 1;
  if (std::has_single_bit(static_cast<uint32_t>(equal))) {
    part.stream.cluster = equal;
  } else {
    const PartKeys keys = count_keys(a, n, part.min_query_len, part.max_query_len);
    clusters_a_request = n.requests > 0 ? at_once / n.requests : 0;
    // Each block has two tiles at least; requests of unequal length are better off with the list.
    clusters_a_request =
        std::min<int64_t>(clusters_a_request, static_cast<int64_t>(keys.longest) / (2 * kWide * part.tile_keys));
    if (clusters_a_request < 1 || keys.longest * keys.requests > 1.05 * keys.sum) return false;
    part.stream.cluster = kWide;
  }
  if (clusters_a_request > 1)
    set_fixed_split(part, a, n, 0, static_cast<int32_t>(clusters_a_request), n.query_len, part.tile_keys);
  part.stream.grid = dim3(static_cast<unsigned>(part.stream.cluster), 1,
                          static_cast<unsigned>(n.requests * part.split.max_partitions));
  return true;
}

std::vector<PlanPart> plan_mla(const AttentionPlanArgs& a, const AttentionParams& p, const Bounds& n, int32_t short_len,
                               const ChipLimits& chip, KernelFamily family) {
  PlanPart part;
  part.min_query_len = a.filter.min_query_len;
  part.max_query_len = a.filter.max_query_len;
  const int64_t rows = a.spec.num_heads * n.query_len;
  part.kind = KernelKind::kMla;
  part.stream.rows = rows <= 16 ? 16 : rows <= 32 ? 32 : 64;
  part.tile_keys = kMlaTileKeys;
  if (family == KernelFamily::kTuned && chip.compute_capability == 90 && mla_wgmma_serves(p)) {
    part.kind = KernelKind::kMlaWgmma;
    part.stream.rows = rows <= kMlaTransposedRows ? kMlaTransposedRows : kMlaWgmmaRows;
    part.tile_keys = kMlaWgmmaTileKeys;
    if (part.stream.rows == kMlaTransposedRows)
      part.max_query_len = std::min(part.max_query_len, kMlaTransposedRows / a.spec.num_heads);
  }
  AttentionPlanArgs args = a;
  if (a.split.kind == SplitPolicy::Kind::kAuto && !a.deterministic) {
    const int32_t parts = equal_parts(a, n, part, chip);
    if (parts != 1 && part.stream.rows == kMlaTransposedRows && set_mla_clusters(part, a, n, parts, chip))
      return {part};
    if (parts == 1) args.split.kind = SplitPolicy::Kind::kNone;
    if (parts > 1) args.split = {SplitPolicy::Kind::kSegments, parts};
  }
  set_decode_split(part, args, n, short_len, 1, chip);
  return {part};
}

// `vectors`: tensors are known to be aligned for 16-byte copies.
std::vector<PlanPart> plan_parts(const AttentionPlanArgs& a, const ChipLimits& chip, KernelFamily family,
                                 bool vectors) {
  AttentionParams p = planned_params(a);
  const int32_t group = a.spec.group_size();
  const int32_t short_len = std::max(1, std::min(8, kMaxStreamRows / group));
  const Bounds n = find_bounds(a, short_len);
  if (vectors && chip.shared_bytes >= kMlaSharedBytes && mla_serves(p))
    return plan_mla(a, p, n, short_len, chip, family);

  const bool wide = std::max(p.head_dim, p.head_dim_v) > 128;
  // Values by runs of tokens are served at some block sizes only, and deterministic bits must not depend on those.
  const bool streams = vectors && stream_serves(p) && !(a.deterministic && stream_key_align(p) > 1) &&
                       chip.shared_bytes >= (wide ? kWideStreamSharedBytes : kStreamSharedBytes);
  const bool hopper = family == KernelFamily::kTuned && chip.compute_capability == 90;
  const bool forward = vectors && hopper && forward_serves(p);
  std::vector<PlanPart> parts;
  if (streams && n.any_short) {
    PlanPart part;
    part.kind = KernelKind::kStream;
    part.min_query_len = a.filter.min_query_len;
    part.max_query_len = n.any_long ? std::min(short_len, a.filter.max_query_len) : a.filter.max_query_len;
    const int64_t rows = group * n.short_query_len;
    part.stream.rows = rows <= 16 || wide ? 16 : 32;
    part.tile_keys = stream_tile_keys(p);
    if (!hopper || !choose_cluster(part, a, p, n, chip))
      set_decode_split(part, a, n, short_len, stream_blocks_per_sm(p, part.stream.rows), chip);
    parts.push_back(part);
  }
  if (!parts.empty() && !n.any_long) return parts;
  PlanPart part;
  part.min_query_len = parts.empty() ? a.filter.min_query_len : std::max(a.filter.min_query_len, short_len + 1);
  part.max_query_len = a.filter.max_query_len;
  part.max_keys = n.keys;
  part.sms = chip.sms;
  if (forward) {
    part.kind = KernelKind::kForward;
    set_tile_split(part, a, n, short_len, kForwardRows, chip.sms);
    part.next_item_offset = align(part.workspace_bytes);
    part.workspace_bytes = part.next_item_offset + align(sizeof(int32_t));
  } else if (tile_serves(p) && chip.shared_bytes >= kTileSharedBytes) {
    part.kind = KernelKind::kTile;
    set_tile_split(part, a, n, short_len, kTileRows, 2 * chip.sms);
  } else {
    part.kind = KernelKind::kSimt;
    set_tile_split(part, a, n, short_len, kSimtTileRows, 2 * chip.sms);
  }
  // The cluster kernel may start while the last blocks of the forward kernel run: neither reads what the other writes.
  if (!parts.empty() && parts[0].kind == KernelKind::kCluster && part.kind == KernelKind::kForward && !part.reduces) {
    parts[0].cluster.beside_previous = true;
    parts.insert(parts.begin(), part);
  } else {
    parts.push_back(part);
  }
  return parts;
}

const char* kernel_name(KernelKind kind) {
  switch (kind) {
    case KernelKind::kStream:
      return "stream_attention";
    case KernelKind::kCluster:
      return "cluster_decode";
    case KernelKind::kMla:
      return "mla_attention";
    case KernelKind::kMlaWgmma:
      return "mla_wgmma";
    case KernelKind::kForward:
      return "forward";
    case KernelKind::kTile:
      return "tile_attention";
    case KernelKind::kSimt:
      return "simt_attention";
  }
  return "";
}

std::string describe(const PlanPart& part, int32_t num_kv_heads) {
  if (part.kind == KernelKind::kCluster)
    return fmt::format("cluster_decode (clusters of {}, {} an SM)", part.cluster.size,
                       part.cluster.one_a_sm ? "one block" : "two blocks");
  if (part.stream.cluster > 0)
    return fmt::format("{} ({} rows, {} clusters of {}, {}-key tiles){}", kernel_name(part.kind), part.stream.rows,
                       part.stream.grid.z, part.stream.cluster, part.tile_keys, part.reduces ? " + reduce" : "");
  if (part.balanced)
    return fmt::format("{} ({} rows, balanced over {} blocks, {}-key tiles) + reduce", kernel_name(part.kind),
                       part.stream.rows, part.stream.grid.x, part.tile_keys);
  return fmt::format("{} ({} x {} blocks{}){}", kernel_name(part.kind), part.grid.tiles, num_kv_heads,
                     part.grid.partitions > 1 ? fmt::format(" x {} partitions", part.grid.partitions) : "",
                     part.reduces ? " + reduce" : "");
}

}  // namespace

AttentionParams planned_params(const AttentionPlanArgs& a) {
  AttentionParams p;
  const AttentionSpec& s = a.spec;
  p.num_heads = s.num_heads;
  p.num_kv_heads = s.num_kv_heads;
  p.group_size = s.group_size();
  p.head_dim = s.head_dim;
  p.head_dim_v = s.value_head_dim();
  p.softmax_scale = s.softmax_scale;
  p.soft_cap = s.logits_soft_cap;
  p.window = s.sliding_window;
  p.causal = s.causal;
  p.dtype = s.dtype;
  p.out_f32 = a.out_dtype == DType::kF32;
  p.values_in_keys = a.op == AttentionOp::kMlaDecode;
  p.origin = a.op == AttentionOp::kVarlen          ? KeyOrigin::kPacked
             : a.op == AttentionOp::kPrefixPrefill ? KeyOrigin::kCacheThenPacked
                                                   : KeyOrigin::kCache;
  p.key_begin = a.key_begin;
  p.key_end = a.key_end;
  p.num_requests = static_cast<int32_t>(a.seq_lens.size());
  p.num_tokens = a.query_start_loc.empty() ? 0 : a.query_start_loc.back();
  p.context_filter = static_cast<int8_t>(a.filter.context);
  p.cache_dtype = p.origin == KeyOrigin::kPacked ? s.dtype : a.cache.dtype;
  p.q_aligned = p.packed_aligned = true;
  if (p.origin == KeyOrigin::kPacked) return p;
  p.block_size = a.cache.block_size;
  p.num_blocks = static_cast<int32_t>(a.cache.num_blocks);
  p.block_shift = std::has_single_bit(static_cast<uint32_t>(p.block_size))
                      ? std::countr_zero(static_cast<uint32_t>(p.block_size))
                      : -1;
  p.k_addr = k_addressing(a.cache);
  p.v_addr = v_addressing(a.cache);
  const size_t element = size_of(a.cache.dtype);
  p.k_chunk_stride = chunk_stride(p.k_addr, p.head_dim, nullptr, element);
  p.v_chunk_stride = chunk_stride(p.v_addr, p.head_dim_v, nullptr, element);
  return p;
}

Status supports_attention(const AttentionPlanArgs& args, const ChipLimits& chip) {
  const AttentionParams p = planned_params(args);
  const bool mla = mla_serves(p) && chip.shared_bytes >= kMlaSharedBytes;
  const bool tile = tile_serves(p) && chip.shared_bytes >= kTileSharedBytes;
  if (mla || tile || simt_serves(p)) return Status::ok();
  return unsupported(fmt::format("head_dim {} and head_dim_v {} in {} do not fit the shared memory of a CUDA block",
                                 p.head_dim, p.head_dim_v, to_string(p.dtype)));
}

Result<AttentionPlanPtr> plan_attention(const AttentionPlanArgs& args, const ChipLimits& chip, KernelFamily family) {
  SEXTANT_RETURN_IF_ERROR(supports_attention(args, chip));
  auto plan = std::make_shared<CudaAttentionPlan>();
  plan->args = args;
  plan->num_requests = static_cast<int32_t>(args.seq_lens.size());
  plan->num_tokens = args.query_start_loc.empty() ? 0 : args.query_start_loc.back();
  if (plan->num_tokens > 0) {
    plan->parts = plan_parts(args, chip, family, true);
    plan->unaligned_parts = plan_parts(args, chip, family, false);
  }
  for (const auto* parts : {&plan->parts, &plan->unaligned_parts})
    for (const PlanPart& part : *parts) plan->workspace = std::max(plan->workspace, part.workspace_bytes);
  for (const PlanPart& part : plan->parts)
    plan->text += (plan->text.empty() ? "" : "; ") + describe(part, args.spec.num_kv_heads);
  if (plan->text.empty()) plan->text = "nothing to do";
  plan->args.query_start_loc = plan->args.seq_lens = plan->args.key_start_loc = {};
  return AttentionPlanPtr(std::move(plan));
}

}  // namespace sextant::cuda
