#include "devices/cuda/plan_forward.h"

#include <algorithm>
#include <cmath>

namespace sextant::cuda {
namespace {

// Measured on H100: bytes/s of its memory under this kernel, what one SM takes, products/s of prefills, launch (s).
constexpr double kMemoryRate = 2.85e12, kSmRate = 6.0e10, kProductRate = 6.0e14, kStart = 8e-6;

bool plain_cache(const AttentionPlanArgs& a, const AttentionParams& p) {
  return p.origin == KeyOrigin::kCache && p.cache_dtype == p.dtype && cache_has_boxes(p) &&
         a.split.kind == SplitPolicy::Kind::kAuto && !a.deterministic && !a.shared_prefix;
}

// Floating-point operations of the requests longer than `short_len`.
double prefill_flops(const AttentionPlanArgs& a, const AttentionParams& p, int32_t short_len) {
  double pairs = 0;
  for (size_t b = 0; b < a.seq_lens.size(); ++b) {
    const double query_len = a.query_start_loc[b + 1] - a.query_start_loc[b], seq_len = a.seq_lens[b];
    if (query_len > short_len) pairs += query_len * (a.spec.causal ? seq_len - query_len / 2 : seq_len);
  }
  return 2 * pairs * p.num_heads * (p.head_dim + p.head_dim_v);
}

}  // namespace

bool forward_beats_stream(const AttentionPlanArgs& a, const AttentionParams& p, const Bounds& n, int32_t short_len,
                          const ChipLimits& chip) {
  // The balanced list's rate with 32 rows, and with rows so long that an SM has one block.
  const bool wide = std::max(p.head_dim, p.head_dim_v) > 128;
  const double kStreamStart = 12e-6, kStreamRate = wide ? 1.5e12 : 2.0e12, kReduce = 5e-6;
  const bool few_rows = p.group_size * n.short_query_len <= kClusterRows;
  if (n.any_long || (few_rows && (!wide || cluster_serves(p))) || !plain_cache(a, p)) return false;
  const PartKeys keys = count_keys(a, n, a.filter.min_query_len, short_len);
  if (keys.requests == 0) return false;
  const double all_bytes = keys.sum * bytes_of_key(p) * p.num_kv_heads;
  const double items = keys.requests * p.num_kv_heads, parts = std::max(1.0, std::floor(chip.sms / items));
  const double item_bytes = keys.longest * bytes_of_key(p) / parts, waves = std::ceil(items * parts / chip.sms);
  const double seconds =
      kStart + (parts > 1 ? kReduce : 0) + std::max(all_bytes / kMemoryRate, waves * item_bytes / kSmRate);
  return seconds < kStreamStart + all_bytes / kStreamRate;
}

bool forward_joins(const PlanPart& decode, const AttentionPlanArgs& a, const AttentionParams& p, const Bounds& n,
                   int32_t short_len, const ChipLimits& chip) {
  if (decode.seconds == 0 || !plain_cache(a, p)) return false;
  const PartKeys keys = count_keys(a, n, a.filter.min_query_len, short_len);
  const double prefill = prefill_flops(a, p, short_len) / kProductRate;
  const double all_bytes = keys.sum * bytes_of_key(p) * p.num_kv_heads;
  const double longest = keys.longest * bytes_of_key(p) / kSmRate;
  const double joined =
      std::max({all_bytes / kMemoryRate, prefill + all_bytes / kSmRate / chip.sms, longest}) + longest / 4;
  return joined < decode.seconds + prefill;
}

}  // namespace sextant::cuda
