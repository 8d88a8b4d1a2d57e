// Tensors of a case on the device, and its error.
#include "cuda_bench_problem.h"

#include <algorithm>
#include <cmath>

#include "types/ceil_div.h"

namespace sextant::cuda_bench {

Problem::Problem(const Case& c) : case_(c) {
  latent_ = c.op == AttentionOp::kMlaDecode;
  if (!c.query_lens.empty()) {
    for (size_t b = 0; b < c.query_lens.size(); ++b) add_request(c.query_lens[b], c.seq_lens[b]);
  } else {
    for (int b = 0; b < c.batch; ++b)
      add_request(c.query_len, c.ragged ? std::max<int64_t>(c.query_len, c.seq_len * (b + 1) / c.batch) : c.seq_len);
    if (c.mixed) add_request(2048, 2048);
  }
  describe();
  make_tensors();
}

void Problem::add_request(int query_len, int64_t seq_len) {
  if (starts_.empty()) starts_.push_back(0);
  starts_.push_back(starts_.back() + query_len);
  lens_.push_back(static_cast<int32_t>(seq_len));
}

void Problem::use(const Ops& ops, AttentionPlanPtr plan) {
  ops_ = &ops;
  plan_ = std::move(plan);
  if (plan_->workspace_bytes() > workspace_bytes_ || args_.workspace == nullptr) {
    workspace_bytes_ = plan_->workspace_bytes();
    args_.workspace = arena_.take(workspace_bytes_);
  }
  check(cudaMemset(args_.out.data, 0xff, static_cast<size_t>(args_.out.num_elements()) * 2), "poison");
}

void Problem::launch(int set, cudaStream_t stream) {
  AttentionArgs args = args_;
  args.block_table = tables_[static_cast<size_t>(set) % tables_.size()];
  check(ops_->run_attention(*plan_, args, {stream}), "run_attention");
}

int Problem::launches() const {
  const double rough = std::max(bytes() / 2.5e12, flops() / 3e14);
  return std::clamp(static_cast<int>(4e-3 / rough), 1, std::max(16, sets()));
}

double Problem::error() {
  launch(0, nullptr);
  check(cudaDeviceSynchronize(), "run");
  const AttentionSpec& spec = plan_args_.spec;
  const int64_t row = spec.value_head_dim(), tokens = starts_.back();
  std::vector<uint8_t> out(static_cast<size_t>(row) * 2);
  double worst = 0;
  std::mt19937_64 random(7);
  const int samples = lens_.back() > 30000 ? 2 : lens_.size() > 8 ? 6 : 4;
  for (int i = 0; i < samples; ++i) {
    const auto b = static_cast<size_t>(i == 0 ? lens_.size() - 1 : random() % lens_.size());
    const int query_len = starts_[b + 1] - starts_[b];
    const auto query = static_cast<int64_t>(i == 1 ? query_len - 1
                                                   : static_cast<int64_t>(random() % static_cast<uint64_t>(query_len)));
    const auto head = static_cast<int32_t>(random() % static_cast<uint64_t>(spec.num_heads));
    if (static_cast<size_t>(i) == expected_.size()) expected_.push_back(oracle_row(b, query, head));
    const reference::OracleRow& expected = expected_[static_cast<size_t>(i)];
    const int64_t token = starts_[b] + query;
    float lse = 0;
    check(cudaMemcpy(out.data(), static_cast<char*>(args_.out.data) + (token * spec.num_heads + head) * row * 2,
                     out.size(), cudaMemcpyDeviceToHost),
          "read");
    check(cudaMemcpy(&lse, static_cast<float*>(args_.lse.data) + head * tokens + token, 4, cudaMemcpyDeviceToHost),
          "read");
    double rms = 0, difference = 0;
    for (int64_t d = 0; d < row; ++d) {
      const double e = expected.out[static_cast<size_t>(d)], x = reference::load(DType::kBF16, out.data(), d);
      rms += e * e;
      difference += (x - e) * (x - e);
      if (std::isnan(x)) difference = INFINITY;
    }
    worst = std::max({worst, std::sqrt(difference / rms), std::abs(lse - expected.lse)});
  }
  return worst;
}

double Problem::bytes() const {
  double keys = 0;
  for (int64_t len : lens_) keys += static_cast<double>(len);
  const double row = latent_ ? case_.dim : static_cast<double>(case_.kv_heads) * (case_.dim + case_.dim_v);
  return keys * row * static_cast<double>(size_of(case_.kv));
}

double Problem::flops() const {
  double pairs = 0;
  for (size_t b = 0; b < lens_.size(); ++b) {
    const double q = starts_[b + 1] - starts_[b], context = static_cast<double>(lens_[b]) - q;
    const double window = case_.window > 0 ? case_.window : 1e18;
    const double partial = std::clamp(window - 1 - context, 0.0, q);  // queries that see less than a window
    pairs += partial * context + partial * (partial + 1) / 2 + (q > partial ? (q - partial) * window : 0);
  }
  return 2.0 * (case_.dim + case_.dim_v) * case_.heads * pairs;
}

void Problem::describe() {
  AttentionPlanArgs& a = plan_args_;
  a.op = case_.contiguous ? AttentionOp::kVarlen : case_.op;
  a.spec.num_heads = case_.heads;
  a.spec.num_kv_heads = case_.kv_heads;
  a.spec.head_dim = case_.dim;
  a.spec.head_dim_v = case_.dim_v;
  a.spec.sliding_window = case_.window;
  a.spec.logits_soft_cap = case_.soft_cap;
  a.spec.has_sinks = case_.sinks;
  if (case_.q != a.spec.dtype) a.spec.query_dtype = case_.q;
  a.spec.softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(case_.dim)));
  a.query_start_loc = starts_;
  a.seq_lens = lens_;
  a.lse_out = true;
  key_starts_ = {0};
  for (int32_t len : lens_) key_starts_.push_back(key_starts_.back() + len);
  blocks_a_set_ = 0;
  for (int32_t len : lens_) blocks_a_set_ += ceil_div(len, case_.page);
  constexpr double kColdBytes = 240e6;
  const int sets = case_.contiguous ? 1 : std::clamp(static_cast<int>(kColdBytes / bytes()), 1, 48);
  if (case_.contiguous) {
    a.key_start_loc = key_starts_;
    a.max_packed_keys = key_starts_.back();
  } else {
    a.cache.layout = latent_ ? KvLayout::kLatent : case_.layout;
    a.cache.dtype = case_.kv;
    a.cache.block_size = case_.page;
    a.cache.num_kv_heads = case_.kv_heads;
    a.cache.head_dim = case_.dim;
    a.cache.head_dim_v = case_.dim_v;
    a.cache.num_blocks = blocks_a_set_ * sets;
  }
  num_sets_ = sets;
}

void Problem::make_tensors() {
  const int64_t tokens = starts_.back();
  q_pattern_ = make_pattern(case_.q, 1, 1.0);
  k_pattern_ = make_pattern(case_.contiguous ? DType::kBF16 : case_.kv, 2, 1.0);
  v_pattern_ = make_pattern(case_.contiguous ? DType::kBF16 : case_.kv, 3, 1.0);
  args_.q = make_view(arena_.take(static_cast<size_t>(tokens * case_.heads * case_.dim) * size_of(case_.q)), case_.q,
                      {tokens, case_.heads, case_.dim});
  q_pattern_.fill(args_.q.data, args_.q.num_elements());
  args_.out = make_view(arena_.take(static_cast<size_t>(tokens * case_.heads * case_.dim_v) * 2), DType::kBF16,
                        {tokens, case_.heads, case_.dim_v});
  args_.lse = make_view(arena_.take(static_cast<size_t>(tokens * case_.heads) * 4), DType::kF32, {case_.heads, tokens});
  args_.query_start_loc = arena_.upload(starts_);
  args_.seq_lens = arena_.upload(lens_);
  if (case_.sinks) {
    std::mt19937_64 random(9);
    std::normal_distribution<float> normal(0, 1);
    for (int h = 0; h < case_.heads; ++h) sinks_.push_back(normal(random));
    args_.sinks = arena_.upload(sinks_);
  }
  if (case_.contiguous) {
    const int64_t keys = key_starts_.back();
    args_.k = make_view(arena_.take(static_cast<size_t>(keys * case_.kv_heads * case_.dim) * 2), DType::kBF16,
                        {keys, case_.kv_heads, case_.dim});
    args_.v = make_view(arena_.take(static_cast<size_t>(keys * case_.kv_heads * case_.dim_v) * 2), DType::kBF16,
                        {keys, case_.kv_heads, case_.dim_v});
    k_pattern_.fill(args_.k.data, args_.k.num_elements());
    v_pattern_.fill(args_.v.data, args_.v.num_elements());
    args_.key_start_loc = arena_.upload(key_starts_);
    tables_.push_back(nullptr);
    return;
  }
  const KvCacheSpec& cache = plan_args_.cache;
  void* k = arena_.take(static_cast<size_t>(k_elements(cache)) * size_of(cache.dtype));
  void* v = latent_ ? nullptr : arena_.take(static_cast<size_t>(v_elements(cache)) * size_of(cache.dtype));
  k_pattern_.fill(k, k_elements(cache));
  if (v != nullptr) v_pattern_.fill(v, v_elements(cache));
  args_.cache = make_kv_cache_view(cache, k, v);
  make_tables();
}

void Problem::make_tables() {
  std::vector<int32_t> order(static_cast<size_t>(blocks_a_set_ * num_sets_));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(5));
  const int32_t longest = *std::max_element(lens_.begin(), lens_.end());
  const int64_t stride = ceil_div(longest, case_.page);
  args_.block_table_stride = stride;
  size_t next = 0;
  for (int set = 0; set < num_sets_; ++set) {
    std::vector<int32_t> table(static_cast<size_t>(stride) * lens_.size(), 0);
    for (size_t b = 0; b < lens_.size(); ++b)
      for (int64_t i = 0; i < ceil_div(lens_[b], case_.page); ++i)
        table[b * static_cast<size_t>(stride) + static_cast<size_t>(i)] = order[next++];
    if (set == 0) host_table_ = table;
    tables_.push_back(arena_.upload(table));
  }
}

reference::OracleRow Problem::oracle_row(size_t b, int64_t query, int32_t head) const {
  reference::OracleRequest r;
  r.spec = plan_args_.spec;
  r.query_len = starts_[b + 1] - starts_[b];
  r.seq_len = lens_[b];
  r.sinks = sinks_;
  const int64_t first = starts_[b];
  r.q = [this, first](int64_t i, int32_t h, int32_t d) {
    return q_pattern_.at(((first + i) * case_.heads + h) * case_.dim + d);
  };
  if (case_.contiguous) {
    const int64_t key0 = key_starts_[b];
    r.k = [this, key0](int64_t i, int32_t h, int32_t d) {
      return k_pattern_.at(((key0 + i) * case_.kv_heads + h) * case_.dim + d);
    };
    r.v = [this, key0](int64_t i, int32_t h, int32_t d) {
      return v_pattern_.at(((key0 + i) * case_.kv_heads + h) * case_.dim_v + d);
    };
    return reference::attend_row(r, query, head);
  }
  const int32_t* table = host_table_.data() + b * static_cast<size_t>(args_.block_table_stride);
  const auto reader = [this, table](const Pattern& pattern, const KvAddressing& rule) {
    return [this, table, &pattern, rule](int64_t i, int32_t h, int32_t d) {
      return pattern.at(rule.offset(table[i / case_.page], h, i % case_.page, d));
    };
  };
  r.k = reader(k_pattern_, args_.cache.k_addr);
  r.v = latent_ ? reader(k_pattern_, args_.cache.k_addr) : reader(v_pattern_, args_.cache.v_addr);
  return reference::attend_row(r, query, head);
}

}  // namespace sextant::cuda_bench
