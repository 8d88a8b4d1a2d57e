// Attention in double precision, one row at a time.
#include "reference/oracle.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "reference/numbers.h"

namespace sextant::reference {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// Score of one visible pair: scale, softcap, then ALiBi.
double score(const OracleRequest& r, const std::vector<double>& q, int64_t query, int32_t head, int64_t key) {
  const int32_t kv_head = head / r.spec.group_size();
  double dot = 0;
  for (int32_t d = 0; d < r.spec.head_dim; ++d) dot += q[static_cast<size_t>(d)] * r.k(key, kv_head, d);
  double s = dot * static_cast<double>(r.spec.softmax_scale);
  if (r.bias && r.spec.logits_soft_cap <= 0) s += r.bias(head, query, key);
  if (r.spec.logits_soft_cap > 0) {
    const double cap = r.spec.logits_soft_cap;
    s = cap * std::tanh(s / cap);
    if (r.bias) s += r.bias(head, query, key);
  }
  const int64_t context_len = r.seq_len - r.query_len;
  if (!r.alibi_slopes.empty())
    s += static_cast<double>(r.alibi_slopes[static_cast<size_t>(head)]) * static_cast<double>(key - context_len);
  return s;
}

}  // namespace

bool is_visible(const AttentionSpec& spec, int64_t query_position, int64_t key_position, TokenSpan span) {
  if (query_position >= span.begin && query_position < span.end && key_position >= span.begin &&
      key_position < span.end)
    return true;
  if (spec.causal && key_position > query_position) return false;
  if (spec.attention_chunk_size > 0) {
    const double size = spec.attention_chunk_size;
    const auto chunk = [size](int64_t position) { return std::floor(static_cast<double>(position) / size); };
    if (chunk(key_position) != chunk(query_position)) return false;
  }
  if (spec.sliding_window > 0 && key_position <= query_position - spec.sliding_window) return false;
  if (spec.window_left >= 0 && key_position < query_position - spec.window_left) return false;
  return spec.window_right < 0 || key_position <= query_position + spec.window_right;
}

OracleRow attend_row(const OracleRequest& r, int64_t query, int32_t head) {
  const int32_t dim_v = r.spec.value_head_dim();
  const int64_t query_position = r.seq_len - r.query_len + query;
  std::vector<double> q(static_cast<size_t>(r.spec.head_dim));
  for (int32_t d = 0; d < r.spec.head_dim; ++d) q[static_cast<size_t>(d)] = r.q(query, head, d);

  const TokenSpan span = r.spans.empty() ? TokenSpan{} : r.spans[static_cast<size_t>(query)];
  std::vector<double> scores(static_cast<size_t>(r.seq_len), kMinusInfinity);
  for (int64_t key = 0; key < r.seq_len; ++key)
    if (is_visible(r.spec, query_position, key, span)) scores[static_cast<size_t>(key)] = score(r, q, query, head, key);

  double max = scores.empty() ? kMinusInfinity : *std::max_element(scores.begin(), scores.end());
  const bool has_sink = !r.sinks.empty();
  const double sink = has_sink ? r.sinks[static_cast<size_t>(head)] : kMinusInfinity;
  max = std::max(max, sink);

  OracleRow row{std::vector<double>(static_cast<size_t>(dim_v), 0.0), kMinusInfinity};
  if (max == kMinusInfinity) return row;
  double denominator = has_sink ? std::exp(sink - max) : 0.0;
  for (int64_t key = 0; key < r.seq_len; ++key) {
    if (scores[static_cast<size_t>(key)] == kMinusInfinity) continue;  // an invisible value is never touched
    const double weight = std::exp(scores[static_cast<size_t>(key)] - max);
    denominator += weight;
    for (int32_t d = 0; d < dim_v; ++d)
      row.out[static_cast<size_t>(d)] += weight * r.v(key, head / r.spec.group_size(), d);
  }
  for (double& x : row.out) x /= denominator;
  row.lse = std::log(denominator) + max;
  return row;
}

std::function<double(int64_t, int32_t, int32_t)> read_rows(const TensorView& view, int64_t first_row) {
  return [view, first_row](int64_t row, int32_t head, int32_t dim) {
    return load(view.dtype, view.data,
                (first_row + row) * view.stride[0] + head * view.stride[1] + dim * view.stride[2]);
  };
}

namespace {

KvReader read_cached(const KvCacheView& cache, const int32_t* block_table_row, const void* data, KvAddressing address,
                     const float* scales) {
  const KvCacheSpec spec = cache.spec;
  const int32_t num_scales = cache.num_scales;
  const KvScaleStrides strides = cache.scale_strides;
  return [=](int64_t position, int32_t kv_head, int32_t dim) {
    const int64_t block = block_table_row[position / spec.block_size];
    const int64_t token = position % spec.block_size;
    const double scale = scales == nullptr || !is_quantized(spec.dtype) ? 1.0
                         : spec.has_token_scales()                      ? scales[strides.offset(block, kv_head, token)]
                                                                        : scales[num_scales == 1 ? 0 : kv_head];
    return load(spec.dtype, data, address.offset(block, kv_head, token, dim)) * scale;
  };
}

}  // namespace

KvReader read_cached_keys(const KvCacheView& cache, const int32_t* block_table_row) {
  return read_cached(cache, block_table_row, cache.k, cache.k_addr, cache.k_scale);
}

KvReader read_cached_values(const KvCacheView& cache, const int32_t* block_table_row) {
  // V of a latent cache is the first columns of K, and carries K's scale.
  return cache.spec.is_latent() ? read_cached(cache, block_table_row, cache.k, cache.k_addr, cache.k_scale)
                                : read_cached(cache, block_table_row, cache.v, cache.v_addr, cache.v_scale);
}

}  // namespace sextant::reference
