#include "support/mla_decode.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "reference/numbers.h"
#include "types/ceil_div.h"
#include "verify/device_buffer.h"

namespace sextant::testing {
namespace {

double times(double number, float scale) { return scale > 0 ? number * static_cast<double>(scale) : number; }

}  // namespace

MlaDecode::MlaDecode(const MlaDecodeCase& test, uint64_t seed) : test_(test), dim_(test.rank + test.rope) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  int32_t blocks = 0;
  for (const verify::RequestShape& r : test.requests) {
    starts_.push_back(starts_.back() + r.query_len);
    lens_.push_back(r.seq_len);
    const int32_t columns = ceil_div(r.seq_len, test.block_size);
    columns_ = std::max<int64_t>(columns_, columns);
    blocks += columns;
  }
  args_.op = AttentionOp::kMlaDecode;
  args_.spec.num_heads = test.heads;
  args_.spec.num_kv_heads = 1;
  args_.spec.head_dim = dim_;
  args_.spec.head_dim_v = test.rank;
  args_.spec.softmax_scale = static_cast<float>(1 / std::sqrt(192.0));
  args_.spec.dtype = test.dtype;
  if (test.queries != test.dtype) args_.spec.query_dtype = test.queries;
  args_.cache = {KvLayout::kLatent, test.cache, blocks + 2, test.block_size, 1, dim_, test.rank};
  args_.lse_out = true;
  args_.out_dtype = test.out_dtype;
  if (test.change != nullptr) test.change(args_);
  for (int32_t h = 0; h < test.heads; ++h) {
    sinks_.push_back(static_cast<float>(normal(random)));
    slopes_.push_back(static_cast<float>(std::exp2(-8.0 * (h + 1) / test.heads)));
  }
  // Blocks in random order; what no request has is NaN.
  std::vector<int32_t> order(static_cast<size_t>(blocks));
  std::iota(order.begin(), order.end(), 1);
  std::shuffle(order.begin(), order.end(), random);
  table_.assign(lens_.size() * static_cast<size_t>(columns_), 0);
  cache_.assign(static_cast<size_t>(k_elements(args_.cache)) * size_of(test.cache), nan_byte(test.cache));
  size_t next = 0;
  for (size_t b = 0; b < lens_.size(); ++b)
    for (int64_t position = 0; position < lens_[b]; ++position) {
      int32_t& block = table_[b * static_cast<size_t>(columns_) + static_cast<size_t>(position / test.block_size)];
      if (position % test.block_size == 0) block = order[next++];
      for (int32_t d = 0; d < dim_; ++d) {
        const double x = test.key != nullptr ? test.key(position, d) : normal(random);
        const int64_t at = (int64_t{block} * test.block_size + position % test.block_size) * dim_ + d;
        reference::store(test.cache, cache_.data(), at, test.kv_scale > 0 ? x / static_cast<double>(test.kv_scale) : x);
      }
    }
  q_.assign(static_cast<size_t>(starts_.back() * (row() + test.row_padding)) * size_of(test.queries),
            nan_byte(test.queries));
  for (int64_t t = 0; t < starts_.back(); ++t)
    for (int32_t h = 0; h < test.heads; ++h)
      for (int32_t d = 0; d < dim_; ++d) {
        const double x = test.q != nullptr ? test.q(t, h, d) : test.magnitude * normal(random);
        reference::store(test.queries, q_.data(), t * (row() + test.row_padding) + int64_t{h} * dim_ + d,
                         test.q_scale > 0 ? x / static_cast<double>(test.q_scale) : x);
      }
}

MlaDecode MlaDecode::with_plain_queries() const {
  MlaDecode plain = *this;
  plain.test_.queries = test_.dtype;
  plain.test_.q_scale = 0;
  plain.test_.row_padding = 0;
  plain.args_.spec.query_dtype.reset();
  plain.q_.assign(static_cast<size_t>(starts_.back() * row()) * size_of(test_.dtype), 0);
  for (int64_t t = 0; t < starts_.back(); ++t)
    for (int32_t h = 0; h < test_.heads; ++h)
      for (int32_t d = 0; d < dim_; ++d)
        reference::store(test_.dtype, plain.q_.data(), t * row() + int64_t{h} * dim_ + d,
                         times(stored_query(t, h, d), test_.q_scale));
  return plain;
}

Status MlaDecode::run(Device& device, KernelFamily family) {
  const Ops& ops = device.ops(family);
  args_.query_start_loc = starts_;
  args_.seq_lens = lens_;
  auto plan = ops.plan_attention(args_);
  if (!plan) return plan.status();
  plan_ = (*plan)->describe();
  const auto upload = [&device](const auto& values) {
    return DeviceBuffer::make(device, values.data(), values.size() * sizeof(values[0])).value();
  };
  const int64_t tokens = starts_.back(), heads = test_.heads;
  const DeviceBuffer q = upload(q_), cache = upload(cache_), starts = upload(starts_), lens = upload(lens_),
                     table = upload(table_), sinks = upload(sinks_), slopes = upload(slopes_);
  const DeviceBuffer q_scale = upload(std::vector<float>{test_.q_scale}),
                     kv_scale = upload(std::vector<float>{test_.kv_scale});
  out_.resize(static_cast<size_t>(tokens * heads * test_.rank) * size_of(test_.out_dtype));
  lse_.resize(static_cast<size_t>(tokens * heads));
  const DeviceBuffer out = DeviceBuffer::make(device, out_.size()).value();
  const DeviceBuffer lse = DeviceBuffer::make(device, lse_.size() * sizeof(float)).value();
  const DeviceBuffer workspace = DeviceBuffer::make(device, (*plan)->workspace_bytes()).value();
  AttentionArgs args;
  args.q = make_view(q.data(), test_.queries, {tokens, heads, dim_});
  args.q.stride[0] += test_.row_padding;
  args.out = make_view(out.data(), test_.out_dtype, {tokens, heads, test_.rank});
  args.lse = make_view(lse.data(), DType::kF32, {heads, tokens});
  args.query_start_loc = starts.as<int32_t>();
  args.seq_lens = lens.as<int32_t>();
  args.cache = make_kv_cache_view(args_.cache, cache.data(), nullptr);
  if (test_.kv_scale > 0) args.cache.k_scale = args.cache.v_scale = kv_scale.as<float>();
  args.block_table = table.as<int32_t>();
  args.block_table_stride = columns_;
  if (test_.q_scale > 0) args.q_scale = q_scale.as<float>();
  if (args_.spec.has_sinks) args.sinks = sinks.as<float>();
  if (args_.spec.has_alibi) args.alibi_slopes = slopes.as<float>();
  args.workspace = workspace.data();
  SEXTANT_RETURN_IF_ERROR(ops.run_attention(**plan, args, {}));
  SEXTANT_RETURN_IF_ERROR(out.read(out_.data(), out_.size()));
  return lse.read(lse_.data(), lse_.size() * sizeof(float));
}

double MlaDecode::out(int64_t token, int32_t head, int32_t dim) const {
  return reference::load(test_.out_dtype, out_.data(), (token * test_.heads + head) * test_.rank + dim);
}

double MlaDecode::stored_query(int64_t token, int32_t head, int32_t dim) const {
  return reference::load(test_.queries, q_.data(), token * (row() + test_.row_padding) + int64_t{head} * dim_ + dim);
}

double MlaDecode::key(int32_t request, int64_t position, int32_t dim) const {
  const int32_t block = table_[static_cast<size_t>(request * columns_ + position / test_.block_size)];
  return times(reference::load(test_.cache, cache_.data(),
                               (int64_t{block} * test_.block_size + position % test_.block_size) * dim_ + dim),
               test_.kv_scale);
}

reference::OracleRow MlaDecode::expected(size_t request, int64_t query, int32_t head) const {
  reference::OracleRequest r;
  r.spec = args_.spec;
  r.query_len = starts_[request + 1] - starts_[request];
  r.seq_len = lens_[request];
  const int64_t first = starts_[request];
  r.q = [this, first](int64_t i, int32_t h, int32_t d) { return times(stored_query(first + i, h, d), test_.q_scale); };
  r.k = r.v = [this, request](int64_t position, int32_t, int32_t d) {
    return key(static_cast<int32_t>(request), position, d);
  };
  if (args_.spec.has_sinks) r.sinks = sinks_;
  if (args_.spec.has_alibi) r.alibi_slopes = slopes_;
  return reference::attend_row(r, query, head);
}

MlaDecode::Errors MlaDecode::errors(int rows) const {
  std::mt19937_64 random(11);
  const auto below = [&random](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); };
  double squares = 0, truths = 0;
  Errors errors;
  const int each = std::max(2, rows / static_cast<int>(lens_.size()));
  for (size_t b = 0; b < lens_.size(); ++b)
    for (int i = 0; i < each && starts_[b + 1] > starts_[b]; ++i) {
      const int64_t query_len = starts_[b + 1] - starts_[b], query = i == 0 ? query_len - 1 : below(query_len);
      const auto head = static_cast<int32_t>(i == 1 ? test_.heads - 1 : below(test_.heads));
      const reference::OracleRow truth = expected(b, query, head);
      const int64_t token = starts_[b] + query;
      for (int32_t d = 0; d < test_.rank; ++d) {
        const double e = truth.out[static_cast<size_t>(d)], x = out(token, head, d);
        squares += std::isfinite(x) ? (x - e) * (x - e) : INFINITY;
        truths += e * e;
      }
      const double lse = lse_[static_cast<size_t>(head * int64_t{starts_.back()} + token)];
      if (!(lse == truth.lse)) errors.lse = std::max(errors.lse, std::fabs(lse - truth.lse));
      if (std::isnan(lse)) errors.lse = INFINITY;
    }
  errors.out = truths > 0 ? std::sqrt(squares / truths) : squares;
  return errors;
}

}  // namespace sextant::testing
