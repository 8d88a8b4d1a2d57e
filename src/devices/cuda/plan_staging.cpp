// Decides on the copy of keys for long queries, and sizes it.
#include "devices/cuda/plan_staging.h"

#include <algorithm>

#include "devices/cuda/hopper/forward_launchers.h"
#include "devices/cuda/kernel_table.h"
#include "devices/cuda/kernels/vector_strides.h"

namespace sextant::cuda {
namespace {

// Of a graph's workspace, whose lengths are only bounded, and of a batch of known lengths.
constexpr int64_t kMostOpenBytes = int64_t{256} << 20, kMostBytes = int64_t{1} << 30;

KvCacheSpec staged_spec(const AttentionParams& p, int64_t blocks, bool bytes) {
  KvCacheSpec spec;
  spec.layout = KvLayout::kHND;
  spec.dtype = bytes ? p.cache_dtype : p.dtype;
  spec.num_blocks = blocks;
  spec.block_size = kStagedTokens;
  spec.num_kv_heads = p.num_kv_heads;
  spec.head_dim = p.head_dim;
  spec.head_dim_v = p.head_dim_v;
  return spec;
}

// Products/s of long prefills by the way keys come.
double forward_rate(const AttentionParams& p, KeySource source, const ChipRates::Forward& rates) {
  const int32_t dim = std::max(p.head_dim, p.head_dim_v);
  const double boxed = rates.boxed(dim);
  if (forward_brings_boxes(p, source)) return boxed;
  switch (source) {
    case KeySource::kFp16:
      return rates.fp16(dim) * boxed;
    case KeySource::kConvert:
      return rates.convert * boxed;
    case KeySource::kRows:
      return rates.rows * boxed;
    case KeySource::kPadded:
      return rates.padded_rows * boxed;
    case KeySource::kExact:
      return rates.exact_rows * boxed;
  }
  return boxed;
}

int64_t block_bytes(const AttentionParams& p, int64_t element) {
  return int64_t{p.num_kv_heads} * (p.head_dim + p.head_dim_v) * kStagedTokens * element;
}

// Blocks that the keys of one request touch, at most: as the kernel counts them. Lengths of now are those of the run
// unless the plan is open.
int64_t count_known_blocks(const AttentionPlanArgs& a, const AttentionParams& p, int64_t query_len, int64_t seq_len) {
  const int64_t context_len = seq_len - query_len;
  int64_t first = a.key_begin, end = std::min(seq_len, a.key_end);
  if (p.origin == KeyOrigin::kCacheThenPacked) end = std::min(end, context_len);
  if (p.window > 0) first = std::max(first, context_len - p.window + 1);
  return end > first ? ceil_div(end, kStagedTokens) - first / kStagedTokens : 0;
}
int64_t count_open_blocks(const AttentionPlanArgs& a, const Bounds& n, int64_t longest) {
  const int64_t end = std::min(longest, a.key_end);
  if (n.keys <= 0 || end <= a.key_begin) return 0;
  // A window's keys may begin with the last token of a block.
  return std::min(ceil_div(n.keys + kStagedTokens - 1, int64_t{kStagedTokens}),
                  ceil_div(end, int64_t{kStagedTokens}) - a.key_begin / kStagedTokens);
}
int64_t longest_request(const AttentionPlanArgs& a) {
  return std::max<int64_t>(a.bounds.max_seq_len, *std::ranges::max_element(a.seq_lens));
}

// What the long queries of a batch are, as far as it is known.
struct LongQueries {
  double products = 0;   // floating-point operations
  double row_tiles = 0;  // of all heads
  int64_t keys = 0;
  int64_t blocks = 0, most_blocks = 0;  // touched by all, and by one; 0: there are no long queries
};
LongQueries count_long_queries(const PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p,
                               const Bounds& n) {
  LongQueries q;
  const int64_t open_blocks = n.open ? count_open_blocks(a, n, longest_request(a)) : 0;
  for (size_t b = 0; b < a.seq_lens.size(); ++b) {
    const int64_t query_len = a.query_start_loc[b + 1] - a.query_start_loc[b], seq_len = a.seq_lens[b];
    if (!n.open && !part.takes(query_len)) continue;
    const int64_t most = n.open ? n.keys : std::min(seq_len, n.keys);
    int64_t keys = most, seen = p.causal ? most - query_len / 2 : most;  // by a row tile
    if (p.window > 0) {
      keys = std::min<int64_t>(keys, p.window + query_len);
      seen = std::min<int64_t>(seen, p.window + kForwardRows / p.group_size + kStagedTokens);
    }
    q.keys += keys;
    // One at least: without a key in the cache, too, the kernel then reads the others as it does behind a copy.
    const int64_t blocks = std::max<int64_t>(1, n.open ? open_blocks : count_known_blocks(a, p, query_len, seq_len));
    q.blocks += blocks;
    q.most_blocks = std::max(q.most_blocks, blocks);
    const double tiles = static_cast<double>(ceil_div(query_len * p.group_size, kForwardRows)) * p.num_kv_heads;
    q.row_tiles += tiles;
    // A tile is worked on whole; of a row tile's first and last, half is masked on average.
    q.products +=
        2.0 * tiles * kForwardRows * (static_cast<double>(seen) + 0.5 * kStagedTokens) * (p.head_dim + p.head_dim_v);
  }
  return q;
}

// What a copy would hold, of elements of `element` bytes; nullopt: there may be none. Bits that must not depend on the
// batch must not depend on an estimate of it either.
std::optional<LongQueries> count_copied(const PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p,
                                        const Bounds& n, int64_t element) {
  if (p.origin == KeyOrigin::kPacked || a.deterministic || a.shared_prefix) return std::nullopt;
  const LongQueries q = count_long_queries(part, a, p, n);
  if (q.blocks == 0 || q.blocks * block_bytes(p, element) > (n.open ? kMostOpenBytes : kMostBytes)) return std::nullopt;
  return q;
}

// Seconds of a copy in 16 bits: written, and read again.
double copy_seconds(const LongQueries& q, const AttentionParams& p, const ChipRates::Copy& rates) {
  const auto key_elements = static_cast<double>(p.num_kv_heads * (p.head_dim + p.head_dim_v));
  return rates.start +
         static_cast<double>(q.keys) * key_elements * (static_cast<double>(size_of(p.cache_dtype)) + 4) / rates.bytes;
}

Staging lay_out(const PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p, const LongQueries& q,
                bool bytes) {
  Staging staging;
  staging.bytes = bytes;
  // Room for as many blocks of each request needs no search for a block's request; up to a quarter more is worth that.
  const int64_t even = static_cast<int64_t>(a.seq_lens.size()) * q.most_blocks;
  const bool finds = even <= q.blocks + q.blocks / 4;
  staging.request_blocks = finds ? static_cast<int32_t>(q.most_blocks) : 0;
  const int64_t blocks = staging.blocks = finds ? even : q.blocks;
  staging.table_stride = ceil_div(longest_request(a), kStagedTokens) + 1;
  staging.k_offset = align_workspace(part.workspace_bytes);
  const auto size = [&](int32_t dim) {
    return align_workspace(static_cast<size_t>(blocks * kStagedTokens * p.num_kv_heads * dim * (bytes ? 1 : 2)));
  };
  staging.v_offset = staging.k_offset + size(p.head_dim);
  staging.table_offset = staging.v_offset + size(p.head_dim_v);
  const auto entries = static_cast<size_t>(staging.table_stride) * a.seq_lens.size();
  staging.end = staging.table_offset + align_workspace(entries * sizeof(int32_t));
  return staging;
}

}  // namespace

std::optional<Staging> plan_staging(const PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& planned,
                                    const Bounds& n, const ChipLimits& chip) {
  AttentionParams p = planned;
  set_vector_strides(p);
  const bool reads_cache = may_run(kForwardKernel, p, chip, KernelFamily::kTuned);
  const KeySource source = forward_source(p);
  if (reads_cache && forward_brings_boxes(p, source)) return std::nullopt;
  const auto q = count_copied(part, a, p, n, 2);
  if (!q) return std::nullopt;
  const ChipRates::Copy& rates = chip.rates.copy;
  const ChipRates::Forward& forward = chip.rates.forward;
  const double direct =
      q->products / (reads_cache ? forward_rate(p, source, forward) : rates.portable_products) +
      (reads_cache && converts_keys(source) ? q->row_tiles / chip.sms * rates.converted(p.head_dim) : 0);
  if (copy_seconds(*q, p, rates) + q->products / forward.boxed(std::max(p.head_dim, p.head_dim_v)) > direct)
    return std::nullopt;
  return lay_out(part, a, p, *q, /*bytes=*/false);
}

std::optional<Staging> plan_tile_staging(const PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p,
                                         const Bounds& n, const ChipLimits& chip) {
  if (!p.has_token_scales && tile_copies_keys(p)) return std::nullopt;
  const auto q = count_copied(part, a, p, n, 2);
  if (!q) return std::nullopt;
  const ChipRates::Copy& rates = chip.rates.copy;
  const double direct = p.has_token_scales ? rates.portable_products : rates.tile_converted;
  if (copy_seconds(*q, p, rates) + q->products / rates.tile_products > q->products / direct) return std::nullopt;
  return lay_out(part, a, p, *q, /*bytes=*/false);
}

std::optional<Staging> plan_byte_staging(const PlanPart& part, const AttentionPlanArgs& a, const AttentionParams& p,
                                         const Bounds& n, const ChipLimits& chip) {
  if (cache_has_boxes(p)) return std::nullopt;
  const auto q = count_copied(part, a, p, n, 1);
  if (!q) return std::nullopt;
  const ChipRates::Forward& forward = chip.rates.forward;
  const double copy =
      chip.rates.copy.start + 2 * static_cast<double>(q->blocks * block_bytes(p, 1)) / chip.rates.copy.bytes;
  const double boxed = q->products / forward.boxed(std::max(p.head_dim, p.head_dim_v));
  if (copy + boxed > boxed / forward.byte_rows) return std::nullopt;
  return lay_out(part, a, p, *q, /*bytes=*/true);
}

AttentionParams staged_params(const AttentionParams& p, const Staging& staging, char* workspace) {
  AttentionParams q = p;
  const KvCacheSpec spec = staged_spec(p, staging.blocks, staging.bytes);
  q.cache_dtype = spec.dtype;
  q.k_addr = k_addressing(spec);
  q.v_addr = v_addressing(spec);
  q.k_chunk_stride = q.v_chunk_stride = 8;
  q.k_vector_stride = q.v_vector_stride = q.v_run_stride = 0;
  q.num_blocks = static_cast<int32_t>(staging.blocks);
  q.block_size = kStagedTokens;
  q.block_shift = 7;
  static_assert(kStagedTokens == 1 << 7);
  if (p.has_token_scales || p.origin != KeyOrigin::kCache) q.k_scale = q.v_scale = nullptr;  // applied by the copy
  q.has_token_scales = false;
  if (workspace == nullptr) return q;
  const StagedCache cache = staged_cache(staging, workspace);
  q.cache_k = cache.k;
  q.cache_v = cache.v;
  q.block_table = cache.block_table;
  q.block_table_stride = cache.block_table_stride;
  return q;
}

StagedCache staged_cache(const Staging& staging, char* workspace) {
  return {workspace + staging.k_offset,
          workspace + staging.v_offset,
          reinterpret_cast<int32_t*>(workspace + staging.table_offset),
          staging.table_stride,
          staging.blocks,
          staging.request_blocks,
          staging.bytes};
}

}  // namespace sextant::cuda
