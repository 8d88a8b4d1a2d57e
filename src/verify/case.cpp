// Host tensors, random ones, and the data of a conformance case.
#include "verify/case.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <set>

#include "reference/numbers.h"

namespace sextant::verify {

HostTensor HostTensor::zeros(DType dtype, std::vector<int64_t> shape) {
  HostTensor tensor;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  tensor.bytes.resize(static_cast<size_t>(tensor.elements()) * size_of(dtype));
  return tensor;
}

double HostTensor::get(int64_t index) const { return reference::load(dtype, bytes.data(), index); }
void HostTensor::set(int64_t index, double value) { reference::store(dtype, bytes.data(), index, value); }

int64_t HostTensor::elements() const {
  int64_t count = 1;
  for (int64_t extent : shape) count *= extent;
  return count;
}

TensorView HostTensor::view(void* data) const {
  TensorView view;
  view.data = data;
  view.dtype = dtype;
  view.rank = static_cast<int>(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    view.shape[i] = shape[i];
    view.stride[i] = stride;
    stride *= shape[i];
  }
  return view;
}

TensorView HostTensor::view() const { return view(const_cast<uint8_t*>(bytes.data())); }

namespace {

class Random {
 public:
  explicit Random(uint64_t seed, bool integers) : engine_(seed), integers_(integers) {}
  double normal() { return integers_ ? static_cast<double>(small_(engine_)) : gauss_(engine_); }
  double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(engine_); }
  int64_t below(int64_t n) { return std::uniform_int_distribution<int64_t>(0, n - 1)(engine_); }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<double> gauss_;
  std::uniform_int_distribution<int> small_{-2, 2};
  bool integers_;
};

// Values that survive storage: rounded to `dtype`, and for an fp8 cache to the fp8 grid times the scale, so that
// writing and reading the cache loses nothing and every path must agree with the oracle.
HostTensor random_tensor(Random& random, DType dtype, std::vector<int64_t> shape, double magnitude, DType grid,
                         const std::vector<float>& scales) {
  HostTensor tensor = HostTensor::zeros(dtype, std::move(shape));
  const int64_t dim = tensor.shape.back();
  const int64_t heads = tensor.shape.size() > 2 ? tensor.shape[tensor.shape.size() - 2] : 1;
  uint8_t cell[8];
  for (int64_t i = 0; i < tensor.elements(); ++i) {
    double x = magnitude * random.normal();
    if (is_fp8(grid)) {
      const double scale = scales[scales.size() == 1 ? 0 : static_cast<size_t>(i / dim % heads)];
      reference::store(grid, cell, 0, x / scale);
      x = reference::load(grid, cell, 0) * scale;
    }
    tensor.set(i, x);
  }
  return tensor;
}

// The same for a cache with a scale a token and head: each row's largest number is the largest that its scale allows.
HostTensor token_scaled_tensor(Random& random, DType dtype, std::vector<int64_t> shape, double magnitude, DType grid) {
  HostTensor tensor = HostTensor::zeros(dtype, std::move(shape));
  const int64_t dim = tensor.shape.back(), rows = dim > 0 ? tensor.elements() / dim : 0;
  const double largest = largest_stored(grid);
  uint8_t cell[8];
  for (int64_t row = 0; row < rows; ++row) {
    const double scale =
        std::exp2(std::floor(std::log2(3 * magnitude / largest)) - static_cast<double>(random.below(3)));
    for (int64_t d = 0; d < dim; ++d) {
      reference::store(grid, cell, 0, std::clamp(magnitude * random.normal() / scale, -largest, largest));
      tensor.set(row * dim + d, reference::load(grid, cell, 0) * scale);
    }
    tensor.set(row * dim + random.below(dim), (random.below(2) == 0 ? -1 : 1) * largest * scale);
  }
  return tensor;
}

std::vector<float> power_of_two_scales(Random& random, int32_t count) {
  std::vector<float> scales(static_cast<size_t>(count));
  for (float& scale : scales) scale = std::ldexp(1.0F, -static_cast<int>(random.below(4)));
  return scales;
}

double round_to(DType dtype, double x) {
  uint8_t cell[8];
  reference::store(dtype, cell, 0, x);
  return reference::load(dtype, cell, 0);
}

// Most of the sweep's time; builds with sanitizers take it as it is.
__attribute__((no_sanitize("address", "undefined", "thread"))) double dot(const double* a, const double* b,
                                                                          int64_t count) {
  double sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (int64_t j = 0; j < 8; ++j) sums[j] += a[i + j] * b[i + j];
  for (; i < count; ++i) sums[0] += a[i] * b[i];
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// MLA's keys and values of one request, up-projected in double precision: a head when it is first asked for.
class UpProjection {
 public:
  UpProjection(const CaseData& data, const HostTensor& latents, int64_t seq_len)
      : data_(data), m_(data.test.spec.mla), heads_(static_cast<size_t>(data.test.spec.num_heads)) {
    const int64_t width = m_.kv_lora_rank + m_.qk_rope_head_dim;
    latents_.reserve(static_cast<size_t>(seq_len * m_.kv_lora_rank));
    for (int64_t position = 0; position < seq_len; ++position)
      for (int32_t r = 0; r < m_.kv_lora_rank; ++r) latents_.push_back(latents.get(position * width + r));
  }
  // Column `d` of [seq_len, nope + v].
  double get(int64_t position, int32_t head, int32_t d) {
    std::vector<double>& of_head = heads_[static_cast<size_t>(head)];
    if (of_head.empty()) project(head, of_head);
    return of_head[static_cast<size_t>(position * columns() + d)];
  }

 private:
  int64_t columns() const { return m_.qk_nope_head_dim + m_.v_head_dim; }
  void project(int64_t head, std::vector<double>& out) const {
    const int64_t rank = m_.kv_lora_rank, first = head * columns() * rank;
    std::vector<double> weight(static_cast<size_t>(columns() * rank));
    for (size_t i = 0; i < weight.size(); ++i) weight[i] = data_.kv_b_proj.get(first + static_cast<int64_t>(i));
    const int64_t seq_len = static_cast<int64_t>(latents_.size()) / rank;
    out.reserve(static_cast<size_t>(seq_len * columns()));
    for (int64_t position = 0; position < seq_len; ++position)
      for (int64_t column = 0; column < columns(); ++column)
        out.push_back(dot(weight.data() + column * rank, latents_.data() + position * rank, rank));
  }

  const CaseData& data_;
  MlaSpec m_;
  std::vector<double> latents_;  // [seq_len, rank]
  std::vector<std::vector<double>> heads_;
};

// MHA view of one request of the case: what the oracle reads.
reference::OracleRequest oracle_request(const CaseData& data, size_t b) {
  reference::OracleRequest request;
  const AttentionSpec& spec = data.test.spec;
  request.spec = spec;
  request.query_len = data.query_start_loc[b + 1] - data.query_start_loc[b];
  request.seq_len = data.seq_lens[b];
  request.q = reference::read_rows(data.q.view(), data.query_start_loc[b]);
  if (spec.has_fp8_queries())
    request.q = [&data, stored = request.q](int64_t query, int32_t head, int32_t d) {
      const size_t scale = data.q_scale.size() == 1 ? 0 : static_cast<size_t>(head / data.test.spec.group_size());
      return stored(query, head, d) * static_cast<double>(data.q_scale[scale]);
    };
  request.sinks = data.sinks;
  request.alibi_slopes = data.alibi_slopes;
  if (spec.has_spans())
    request.spans = std::span(data.token_spans)
                        .subspan(static_cast<size_t>(data.query_start_loc[b]), static_cast<size_t>(request.query_len));
  const HostTensor& keys = data.keys[b];
  if (!spec.mla.enabled()) {
    const HostTensor& values = data.values[b];
    request.k = [&keys](int64_t pos, int32_t h, int32_t d) {
      return keys.get((pos * keys.shape[1] + h) * keys.shape[2] + d);
    };
    request.v = [&values](int64_t pos, int32_t h, int32_t d) {
      return values.get((pos * values.shape[1] + h) * values.shape[2] + d);
    };
    return request;
  }
  const MlaSpec m = spec.mla;
  const int64_t width = m.kv_lora_rank + m.qk_rope_head_dim;
  auto projection = std::make_shared<UpProjection>(data, keys, request.seq_len);
  request.k = [&keys, projection, m, width](int64_t pos, int32_t h, int32_t d) {
    if (d >= m.qk_nope_head_dim) return keys.get(pos * width + m.kv_lora_rank + d - m.qk_nope_head_dim);
    return projection->get(pos, h, d);
  };
  request.v = [projection, m](int64_t pos, int32_t h, int32_t d) {
    return projection->get(pos, h, m.qk_nope_head_dim + d);
  };
  return request;
}

// What a plain implementation in `dtype` makes of the row: operands and probabilities rounded to dtype, sums in high
// precision, output rounded. Its error is the yardstick for ours. With fp8 products the probabilities are in e4m3fn.
struct PlainErrors {
  double error = 0, fp8_error = 0, score_mass = 0;
};
PlainErrors plain_errors(const reference::OracleRequest& exact, int64_t query, int32_t head,
                         const reference::OracleRow& row) {
  PlainErrors plain;
  const AttentionSpec& spec = exact.spec;
  const DType dtype = spec.dtype;
  reference::OracleRequest rounded = exact;
  if (spec.mla.enabled()) {
    rounded.k = [&](int64_t p, int32_t h, int32_t d) { return round_to(dtype, exact.k(p, h, d)); };
    rounded.v = [&](int64_t p, int32_t h, int32_t d) { return round_to(dtype, exact.v(p, h, d)); };
  }
  // Unnormalised probabilities e^(score - max) are rounded, as every flash kernel does. Recovered through the lse of
  // single keys: an oracle over a one-key sequence is not available, so recompute the scores here.
  const int32_t kv_head = head / spec.group_size();
  const int64_t position = exact.seq_len - exact.query_len + query;
  double max = -INFINITY;
  std::vector<std::pair<int64_t, double>> scores;
  for (int64_t key = 0; key < exact.seq_len; ++key) {
    const TokenSpan span = exact.spans.empty() ? TokenSpan{} : exact.spans[static_cast<size_t>(query)];
    if (!reference::is_visible(spec, position, key, span)) continue;
    double dot = 0, mass = 0;
    for (int32_t d = 0; d < spec.head_dim; ++d) {
      const double product = exact.q(query, head, d) * rounded.k(key, kv_head, d);
      dot += product;
      mass += std::fabs(product);
    }
    plain.score_mass = std::max(plain.score_mass, mass * static_cast<double>(spec.softmax_scale));
    double s = dot * static_cast<double>(spec.softmax_scale);
    if (spec.logits_soft_cap > 0)
      s = static_cast<double>(spec.logits_soft_cap) * std::tanh(s / static_cast<double>(spec.logits_soft_cap));
    if (!exact.alibi_slopes.empty())
      s += static_cast<double>(exact.alibi_slopes[static_cast<size_t>(head)]) *
           static_cast<double>(key - (exact.seq_len - exact.query_len));
    scores.emplace_back(key, s);
    max = std::max(max, s);
  }
  double denominator =
      exact.sinks.empty() ? 0.0 : std::exp(static_cast<double>(exact.sinks[static_cast<size_t>(head)]) - max);
  constexpr double kFp8Top = 256;  // below e4m3fn's largest, 448
  struct Sums {
    double plain = 0, fp8 = 0;
  };
  std::vector<Sums> out(row.out.size());
  for (const auto& [key, s] : scores) {
    const double p = std::exp(s - max);
    denominator += p;
    const double p_rounded = round_to(dtype, p), p_fp8 = round_to(DType::kF8E4M3FN, p * kFp8Top) / kFp8Top;
    for (size_t d = 0; d < out.size(); ++d) {
      const double v = rounded.v(key, kv_head, static_cast<int32_t>(d));
      out[d].plain += p_rounded * v;
      out[d].fp8 += p_fp8 * v;
    }
  }
  for (size_t d = 0; d < out.size() && !scores.empty(); ++d) {
    plain.error = std::max(plain.error, std::fabs(round_to(dtype, out[d].plain / denominator) - row.out[d]));
    plain.fp8_error = std::max(plain.fp8_error, std::fabs(round_to(dtype, out[d].fp8 / denominator) - row.out[d]));
  }
  return plain;
}

void choose_rows_and_ask_oracle(CaseData& data, Random& random, int max_rows) {
  const AttentionSpec& spec = data.test.spec;
  const int64_t tokens = data.query_start_loc.back();
  if (tokens == 0) return;
  std::set<std::pair<int64_t, int32_t>> rows;
  const int64_t all = tokens * spec.num_heads;
  for (size_t b = 0; b < data.seq_lens.size() && static_cast<int>(rows.size()) < max_rows; ++b) {
    if (data.query_start_loc[b] == data.query_start_loc[b + 1]) continue;
    rows.insert({data.query_start_loc[b], static_cast<int32_t>(random.below(spec.num_heads))});
    rows.insert({data.query_start_loc[b + 1] - 1, static_cast<int32_t>(random.below(spec.num_heads))});
  }
  while (static_cast<int64_t>(rows.size()) < std::min<int64_t>(all, max_rows))
    rows.insert({random.below(tokens), static_cast<int32_t>(random.below(spec.num_heads))});

  size_t b = 0;
  reference::OracleRequest request = oracle_request(data, 0);
  for (const auto& [token, head] : rows) {
    if (token >= data.query_start_loc[b + 1]) {
      while (token >= data.query_start_loc[b + 1]) ++b;
      request = oracle_request(data, b);
    }
    const int64_t query = token - data.query_start_loc[b];
    CaseData::Expected expected{token, head, reference::attend_row(request, query, head), 0, 0, 0};
    const PlainErrors plain = plain_errors(request, query, head, expected.row);
    expected.plain_error = plain.error;
    expected.plain_fp8_error = plain.fp8_error;
    expected.score_mass = plain.score_mass;
    data.expected.push_back(std::move(expected));
  }
}

// Of each token of a request that span that holds its position.
void add_token_spans(const Case& test, const RequestShape& request, std::vector<TokenSpan>& token_spans) {
  for (int32_t i = 0; i < request.query_len; ++i) {
    const int32_t position = request.seq_len - request.query_len + i;
    TokenSpan of_token;
    for (const TokenSpan& span : test.spans)
      if (span.holds(position)) of_token = span;
    token_spans.push_back(of_token);
  }
}

// Normal numbers as stored in fp8 under their head's scale.
HostTensor fp8_queries(Random& random, const Case& test, int64_t rows, const std::vector<float>& scales) {
  const AttentionSpec& s = test.spec;
  HostTensor q = HostTensor::zeros(s.query_type(), {rows, s.num_heads, s.head_dim});
  for (int64_t i = 0; i < q.elements(); ++i) {
    const int64_t kv_head = i / s.head_dim % s.num_heads / s.group_size();
    q.set(i, test.magnitude * random.normal() / scales[scales.size() == 1 ? 0 : static_cast<size_t>(kv_head)]);
  }
  return q;
}

}  // namespace

bool allows_fp8_products(const Case& test) {
  return test.spec.query_type() == DType::kF8E4M3FN && test.cache_dtype == DType::kF8E4M3FN;
}

CaseData prepare(const Case& test, uint64_t seed, int max_rows) {
  CaseData data;
  data.test = test;
  const AttentionSpec& spec = test.spec;
  const bool mla = spec.mla.enabled();
  Random random(seed, test.integers);
  const int32_t scale_count = test.num_scales;
  data.k_scale = power_of_two_scales(random, scale_count);
  data.v_scale = power_of_two_scales(random, scale_count);
  data.query_start_loc = {0};
  for (const RequestShape& r : test.requests) {
    data.query_start_loc.push_back(data.query_start_loc.back() + r.query_len);
    data.seq_lens.push_back(r.seq_len);
    if (spec.has_spans()) add_token_spans(test, r, data.token_spans);
    if (mla) {
      const int64_t width = spec.mla.kv_lora_rank + spec.mla.qk_rope_head_dim;
      data.keys.push_back(
          random_tensor(random, spec.dtype, {r.seq_len, width}, test.magnitude, test.cache_dtype, data.k_scale));
      data.values.emplace_back();
    } else if (test.scales == KvScales::kTokenHead) {
      data.keys.push_back(token_scaled_tensor(random, spec.dtype, {r.seq_len, spec.num_kv_heads, spec.head_dim},
                                              test.magnitude, test.cache_dtype));
      data.values.push_back(token_scaled_tensor(
          random, spec.dtype, {r.seq_len, spec.num_kv_heads, spec.value_head_dim()}, 1.0, test.cache_dtype));
    } else {
      data.keys.push_back(random_tensor(random, spec.dtype, {r.seq_len, spec.num_kv_heads, spec.head_dim},
                                        test.magnitude, test.cache_dtype, data.k_scale));
      data.values.push_back(random_tensor(random, spec.dtype, {r.seq_len, spec.num_kv_heads, spec.value_head_dim()},
                                          1.0, test.cache_dtype, data.v_scale));
    }
    // A shared prefix is the first request's.
    for (auto* tensors : {&data.keys, &data.values}) {
      if (test.shared_prefix_len == 0 || tensors->size() == 1 || tensors->back().bytes.empty()) continue;
      const size_t row = tensors->back().bytes.size() / static_cast<size_t>(r.seq_len);
      std::copy_n(tensors->front().bytes.begin(), row * static_cast<size_t>(test.shared_prefix_len),
                  tensors->back().bytes.begin());
    }
  }
  const int64_t rows = data.query_start_loc.back() + test.padding_tokens;
  if (spec.has_fp8_queries()) {
    data.q_scale = power_of_two_scales(random, scale_count);
    data.q = fp8_queries(random, test, rows, data.q_scale);
  } else {
    data.q =
        random_tensor(random, spec.dtype, {rows, spec.num_heads, spec.head_dim}, test.magnitude, spec.dtype, {1.0F});
  }
  if (mla) {
    const int64_t out_rows = int64_t{spec.num_heads} * (spec.mla.qk_nope_head_dim + spec.mla.v_head_dim);
    data.kv_b_proj = random_tensor(random, spec.dtype, {out_rows, spec.mla.kv_lora_rank},
                                   1.0 / std::sqrt(static_cast<double>(spec.mla.kv_lora_rank)), spec.dtype, {1.0F});
  }
  if (spec.has_sinks)
    for (int32_t h = 0; h < spec.num_heads; ++h) data.sinks.push_back(static_cast<float>(random.uniform(-1, 3)));
  if (spec.has_alibi)
    for (int32_t h = 0; h < spec.num_heads; ++h)
      data.alibi_slopes.push_back(static_cast<float>(std::exp2(-8.0 * (h + 1) / spec.num_heads)));
  choose_rows_and_ask_oracle(data, random, max_rows);
  return data;
}

}  // namespace sextant::verify
