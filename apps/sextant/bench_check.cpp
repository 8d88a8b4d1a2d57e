// The oracle's part of a benchmark: a few rows of a batch that may be far too large to check whole.
#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "bench_measure.h"
#include "reference/numbers.h"
#include "reference/oracle.h"

namespace sextant::cli {
namespace {

// One element read by the oracle takes about 20 ns: this bounds a check to about a second.
constexpr int64_t kOracleElements = 40'000'000;
constexpr int kLeastRows = 1, kMostRows = 32;

struct Row {
  size_t request;
  int64_t query;
  int32_t head;
  friend auto operator<=>(const Row&, const Row&) = default;
};

// The last query of requests across the batch, then random rows, while the budget lasts.
std::set<Row> choose_rows(const BenchCase& bench, uint64_t seed) {
  std::mt19937_64 bits(seed);
  std::set<Row> rows;
  int64_t elements = 0;
  const int32_t width =
      bench.spec.mla.enabled() ? 2 * bench.spec.mla.kv_lora_rank : bench.spec.head_dim + bench.spec.value_head_dim();
  for (int i = 0; i < kMostRows; ++i) {
    const size_t request = i == 0 ? 0 : i == 1 ? bench.requests.size() - 1 : bits() % bench.requests.size();
    const RequestLengths& lengths = bench.requests[request];
    const int64_t query =
        i % 2 == 0 ? lengths.query_len - 1 : static_cast<int64_t>(bits() % static_cast<uint64_t>(lengths.query_len));
    const auto head = static_cast<int32_t>(bits() % static_cast<uint64_t>(bench.spec.num_heads));
    elements += visible_keys(bench.spec, {1, lengths.seq_len}) * width;
    if (i >= kLeastRows && elements > kOracleElements) break;
    rows.insert({request, query, head});
  }
  return rows;
}

// Host copies of what the oracle reads.
struct HostSide {
  std::vector<uint8_t> q, kv_b_proj, out;
  PagedCache::HostCopy cached;
  KvCacheView cache;
  TensorView q_view, out_view;
};

Status copy(Device& device, const TensorView& view, std::vector<uint8_t>& bytes, TensorView& host) {
  bytes.resize(static_cast<size_t>(view.num_elements()) * size_of(view.dtype));
  SEXTANT_RETURN_IF_ERROR(device.copy_to_host(bytes.data(), view.data, bytes.size(), {}));
  host = view;
  host.data = bytes.data();
  return device.synchronize({});
}

// MLA in the latent space: with W_UK and W_UV taken to the query's and the output's side, keys and values are the
// cache's own rows. In double precision that is the same function.
reference::OracleRow attend_latent_row(const AttentionSpec& spec, reference::OracleRequest request,
                                       const HostSide& host, int64_t query, int32_t head) {
  const MlaSpec m = spec.mla;
  const int64_t first_weight = int64_t{head} * (m.qk_nope_head_dim + m.v_head_dim);
  const auto weight = [&](int64_t row, int32_t rank) {
    return reference::load(spec.dtype, host.kv_b_proj.data(), (first_weight + row) * m.kv_lora_rank + rank);
  };
  std::vector<double> q(static_cast<size_t>(m.kv_lora_rank + m.qk_rope_head_dim), 0.0);
  for (int32_t d = 0; d < m.qk_nope_head_dim; ++d) {
    const double value = request.q(query, head, d);
    for (int32_t rank = 0; rank < m.kv_lora_rank; ++rank) q[static_cast<size_t>(rank)] += value * weight(d, rank);
  }
  for (int32_t d = 0; d < m.qk_rope_head_dim; ++d)
    q[static_cast<size_t>(m.kv_lora_rank) + static_cast<size_t>(d)] = request.q(query, head, m.qk_nope_head_dim + d);
  request.q = [&q](int64_t, int32_t, int32_t d) { return q[static_cast<size_t>(d)]; };
  request.spec.num_kv_heads = 1;
  request.spec.head_dim = m.kv_lora_rank + m.qk_rope_head_dim;
  request.spec.head_dim_v = m.kv_lora_rank;
  const reference::OracleRow latent = reference::attend_row(request, query, head);
  reference::OracleRow row{std::vector<double>(static_cast<size_t>(m.v_head_dim), 0.0), latent.lse};
  for (int32_t d = 0; d < m.v_head_dim; ++d)
    for (int32_t rank = 0; rank < m.kv_lora_rank; ++rank)
      row.out[static_cast<size_t>(d)] += latent.out[static_cast<size_t>(rank)] * weight(m.qk_nope_head_dim + d, rank);
  return row;
}

double row_error(const TensorView& out, int64_t token, int32_t head, const std::vector<double>& expected) {
  double squares = 0, largest = 0;
  for (size_t d = 0; d < expected.size(); ++d) {
    const double got =
        reference::load(out.dtype, out.data, token * out.stride[0] + head * out.stride[1] + static_cast<int64_t>(d));
    squares += expected[d] * expected[d];
    const double difference = std::fabs(got - expected[d]);
    largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
  }
  const double rms = std::sqrt(squares / static_cast<double>(expected.size()));
  return largest == 0 ? 0 : largest / rms;
}

}  // namespace

double allowed_row_error(const AttentionSpec& spec, KvFormat kv_format) {
  // A row's largest value is about 4 root mean squares; its rounding, that of the probabilities and (MLA) of the
  // projected keys and values each add half a unit in the last place of about that.
  const double units = spec.mla.enabled() ? 24 : 12;
  // New tokens may be read before they are rounded to 8 bits; the oracle reads the cache.
  if (is_quantized(kv_format.dtype)) return kv_format.dtype == DType::kF8E5M2 ? 0.6 : 0.3;
  return spec.dtype == DType::kF32 ? 1e-4 : units * reference::epsilon(spec.dtype) / 2;
}

Result<OracleCheck> check_against_oracle(const BenchCase& bench, const AttentionInputs& inputs, const PagedCache& cache,
                                         const RunTensors& tensors, const DeviceBuffer& out, Device& device,
                                         uint64_t seed) {
  HostSide host;
  auto view = cache.read(device, host.cached);
  if (!view) return view.status();
  host.cache = *view;
  SEXTANT_RETURN_IF_ERROR(copy(device, tensors.q, host.q, host.q_view));
  SEXTANT_RETURN_IF_ERROR(copy(device, tensors.out, host.out, host.out_view));
  TensorView unused;
  if (bench.spec.mla.enabled()) SEXTANT_RETURN_IF_ERROR(copy(device, tensors.kv_b_proj, host.kv_b_proj, unused));
  OracleCheck check;
  check.allowed = allowed_row_error(bench.spec, bench.kv_format);
  for (const Row& row : choose_rows(bench, seed)) {
    const int32_t* blocks =
        bench.batch.block_table.data() + static_cast<int64_t>(row.request) * bench.batch.max_blocks_per_request;
    const int64_t first_token = bench.batch.query_start_loc[row.request];
    reference::OracleRequest request;
    request.spec = bench.spec;
    request.query_len = bench.requests[row.request].query_len;
    request.seq_len = bench.requests[row.request].seq_len;
    request.q = reference::read_rows(host.q_view, first_token);
    request.k = reference::read_cached_keys(host.cache, blocks);
    request.v = reference::read_cached_values(host.cache, blocks);
    request.sinks = inputs.sinks();
    request.alibi_slopes = inputs.alibi_slopes();
    const reference::OracleRow expected = bench.spec.mla.enabled()
                                              ? attend_latent_row(bench.spec, request, host, row.query, row.head)
                                              : reference::attend_row(request, row.query, row.head);
    check.error = std::max(check.error, row_error(host.out_view, first_token + row.query, row.head, expected.out));
    ++check.rows;
  }
  return check;
}

}  // namespace sextant::cli
