// Times the CUDA device's ops on the cases of docs/dev/gpu-log.md: each case is checked against the fp64 oracle on
// sampled rows, then captured into a graph that runs it on many different caches in turn, so that L2 is cold, and
// replayed.
//
//   cuda_bench [--family portable|tuned] [--only text] [--replays n] [--no-time]
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cuda_bench_cases.h"
#include "reference/numbers.h"
#include "reference/oracle.h"
#include "sextant/device.h"

namespace {

using namespace sextant;
using namespace sextant::cuda_bench;

[[noreturn]] void fail(const std::string& message) {
  std::printf("cuda_bench: %s\n", message.c_str());
  std::exit(1);
}
void check(const Status& status, const char* what) {
  if (!status.is_ok()) fail(std::string(what) + ": " + status.message());
}
void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) fail(std::string(what) + ": " + cudaGetErrorString(error));
}

struct Options {
  KernelFamily family = KernelFamily::kTuned;
  std::string only;
  int replays = 5;
  bool time = true;
};

// Device memory, freed at the end of a case.
class Arena {
 public:
  ~Arena() {
    for (void* p : pointers_) cudaFree(p);
  }
  void* take(size_t bytes) {
    void* p = nullptr;
    check(cudaMalloc(&p, bytes + 256), "cudaMalloc");
    pointers_.push_back(p);
    return p;
  }
  template <class T>
  T* upload(const std::vector<T>& host) {
    auto* p = static_cast<T*>(take(host.size() * sizeof(T)));
    check(cudaMemcpy(p, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
    return p;
  }

 private:
  std::vector<void*> pointers_;
};

// Random numbers of a type, repeated over a large tensor: element i is pattern[i % size].
struct Pattern {
  DType dtype;
  std::vector<uint8_t> bytes;
  int64_t size = 0;

  double at(int64_t i) const { return reference::load(dtype, bytes.data(), i % size); }
  void fill(void* device, int64_t elements) const {
    const auto element = static_cast<int64_t>(size_of(dtype));
    auto* to = static_cast<char*>(device);
    const int64_t first = std::min(size, elements);
    check(cudaMemcpy(to, bytes.data(), static_cast<size_t>(first * element), cudaMemcpyHostToDevice), "fill");
    for (int64_t done = first; done < elements;) {  // doubling, always at a multiple of the pattern's size
      const int64_t count = std::min(done / size * size, elements - done);
      check(cudaMemcpy(to + done * element, to, static_cast<size_t>(count * element), cudaMemcpyDeviceToDevice),
            "fill");
      done += count;
    }
  }
};
Pattern make_pattern(DType dtype, uint64_t seed, double magnitude) {
  Pattern p;
  p.dtype = dtype;
  p.size = 262139;  // prime: no period that a head or a block could share
  p.bytes.resize(static_cast<size_t>(p.size) * size_of(dtype));
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal(0, magnitude);
  for (int64_t i = 0; i < p.size; ++i) reference::store(dtype, p.bytes.data(), i, normal(random));
  return p;
}

struct Row {
  std::string name, kernel;
  double us = 0, tera_bytes = 0, tera_flops = 0, error = 0;
  bool wrong = false;
};

double time_graph(const std::function<void(int, cudaStream_t)>& launch, int launches, int replays) {
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "stream");
  launch(0, stream);
  check(cudaStreamSynchronize(stream), "first run");
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < launches; ++i) launch(i, stream);
  check(cudaStreamEndCapture(stream, &graph), "capture");
  check(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<float> times;
  for (int i = 0; i < replays + 1; ++i) {
    cudaEventRecord(begin, stream);
    check(cudaGraphLaunch(executable, stream), "replay");
    cudaEventRecord(end, stream);
    check(cudaStreamSynchronize(stream), "replay");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i > 0) times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  std::sort(times.begin(), times.end());
  return 1000.0 * times[times.size() / 2] / launches;
}

// Everything of one case on the device.
class Problem {
 public:
  Problem(const Case& c, const Ops& ops) : case_(c), ops_(ops) {
    latent_ = c.op == AttentionOp::kMlaDecode;
    for (int b = 0; b < c.batch; ++b)
      add_request(c.query_len, c.ragged ? std::max<int64_t>(c.query_len, c.seq_len * (b + 1) / c.batch) : c.seq_len);
    if (c.mixed) add_request(2048, 2048);
    make_plan();
    make_tensors();
  }

  std::string kernel() const { return plan_->describe(); }

  void launch(int set, cudaStream_t stream) {
    AttentionArgs args = args_;
    args.block_table = tables_[static_cast<size_t>(set) % tables_.size()];
    check(ops_.run_attention(*plan_, args, {stream}), "run_attention");
  }
  int sets() const { return static_cast<int>(tables_.size()); }

  // Largest |out - oracle| / (rms of the oracle's row) over sampled rows; the LSE must agree too.
  double error() {
    launch(0, nullptr);
    check(cudaDeviceSynchronize(), "run");
    const AttentionSpec& spec = plan_args_.spec;
    const int64_t row = spec.value_head_dim(), tokens = starts_.back();
    std::vector<uint8_t> out(static_cast<size_t>(tokens * spec.num_heads * row) * 2);
    std::vector<float> lse(static_cast<size_t>(tokens * spec.num_heads));
    check(cudaMemcpy(out.data(), args_.out.data, out.size(), cudaMemcpyDeviceToHost), "read");
    check(cudaMemcpy(lse.data(), args_.lse.data, lse.size() * 4, cudaMemcpyDeviceToHost), "read");
    double worst = 0;
    std::mt19937_64 random(7);
    const int samples = lens_.back() > 30000 ? 2 : lens_.size() > 8 ? 6 : 4;
    for (int i = 0; i < samples; ++i) {
      const auto b = static_cast<size_t>(i == 0 ? lens_.size() - 1 : random() % lens_.size());
      const int query_len = starts_[b + 1] - starts_[b];
      const auto query = static_cast<int64_t>(
          i == 1 ? query_len - 1 : static_cast<int64_t>(random() % static_cast<uint64_t>(query_len)));
      const auto head = static_cast<int32_t>(random() % static_cast<uint64_t>(spec.num_heads));
      const reference::OracleRow expected = oracle_row(b, query, head);
      const int64_t token = starts_[b] + query;
      double rms = 0, difference = 0;
      for (int64_t d = 0; d < row; ++d) {
        const double e = expected.out[static_cast<size_t>(d)];
        const double x = reference::load(DType::kBF16, out.data(), (token * spec.num_heads + head) * row + d);
        rms += e * e;
        difference += (x - e) * (x - e);
        if (std::isnan(x)) difference = INFINITY;
      }
      worst = std::max(worst, std::sqrt(difference / rms));
      worst = std::max(worst, std::abs(lse[static_cast<size_t>(head * tokens + token)] - expected.lse));
    }
    return worst;
  }

  // fp8 products round probabilities to e4m3: half of 2^-3 at most, 2^-5 in the mean.
  double allowed_error() const { return is_fp8(case_.q) ? 0.08 : 0.05; }

  double bytes() const {
    double keys = 0;
    for (int64_t len : lens_) keys += static_cast<double>(len);
    const double row = latent_ ? case_.dim : static_cast<double>(case_.kv_heads) * (case_.dim + case_.dim_v);
    return keys * row * static_cast<double>(size_of(case_.kv));
  }
  double flops() const {
    double pairs = 0;
    for (size_t b = 0; b < lens_.size(); ++b) {
      const double q = starts_[b + 1] - starts_[b], context = static_cast<double>(lens_[b]) - q;
      const double window = case_.window > 0 ? case_.window : 1e18;
      const double partial = std::clamp(window - 1 - context, 0.0, q);  // queries that see less than a window
      pairs += partial * context + partial * (partial + 1) / 2 + (q > partial ? (q - partial) * window : 0);
    }
    return 2.0 * (case_.dim + case_.dim_v) * case_.heads * pairs;
  }

 private:
  void add_request(int query_len, int64_t seq_len) {
    if (starts_.empty()) starts_.push_back(0);
    starts_.push_back(starts_.back() + query_len);
    lens_.push_back(static_cast<int32_t>(seq_len));
  }

  void make_plan() {
    AttentionPlanArgs& a = plan_args_;
    a.op = case_.contiguous ? AttentionOp::kVarlen : case_.op;
    a.spec.num_heads = case_.heads;
    a.spec.num_kv_heads = case_.kv_heads;
    a.spec.head_dim = case_.dim;
    a.spec.head_dim_v = case_.dim_v;
    a.spec.sliding_window = case_.window;
    a.spec.logits_soft_cap = case_.soft_cap;
    if (case_.q != a.spec.dtype) a.spec.query_dtype = case_.q;
    a.spec.softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(case_.dim)));
    a.query_start_loc = starts_;
    a.seq_lens = lens_;
    a.lse_out = true;
    key_starts_ = {0};
    for (int32_t len : lens_) key_starts_.push_back(key_starts_.back() + len);
    blocks_a_set_ = 0;
    for (int32_t len : lens_) blocks_a_set_ += (len + case_.page - 1) / case_.page;
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
    auto plan = ops_.plan_attention(a);
    check(plan.status(), "plan");
    plan_ = std::move(plan).value();
  }

  void make_tensors() {
    const int64_t tokens = starts_.back();
    q_pattern_ = make_pattern(case_.q, 1, 1.0);
    k_pattern_ = make_pattern(case_.contiguous ? DType::kBF16 : case_.kv, 2, 1.0);
    v_pattern_ = make_pattern(case_.contiguous ? DType::kBF16 : case_.kv, 3, 1.0);
    args_.q = make_view(arena_.take(static_cast<size_t>(tokens * case_.heads * case_.dim) * size_of(case_.q)), case_.q,
                        {tokens, case_.heads, case_.dim});
    q_pattern_.fill(args_.q.data, args_.q.num_elements());
    args_.out = make_view(arena_.take(static_cast<size_t>(tokens * case_.heads * case_.dim_v) * 2), DType::kBF16,
                          {tokens, case_.heads, case_.dim_v});
    args_.lse =
        make_view(arena_.take(static_cast<size_t>(tokens * case_.heads) * 4), DType::kF32, {case_.heads, tokens});
    check(cudaMemset(args_.out.data, 0xff, static_cast<size_t>(args_.out.num_elements()) * 2), "poison");
    args_.query_start_loc = arena_.upload(starts_);
    args_.seq_lens = arena_.upload(lens_);
    args_.workspace = arena_.take(plan_->workspace_bytes());
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

  void make_tables() {
    std::vector<int32_t> order(static_cast<size_t>(blocks_a_set_ * num_sets_));
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
    std::shuffle(order.begin(), order.end(), std::mt19937_64(5));
    const int32_t longest = *std::max_element(lens_.begin(), lens_.end());
    const int64_t stride = (longest + case_.page - 1) / case_.page;
    args_.block_table_stride = stride;
    size_t next = 0;
    for (int set = 0; set < num_sets_; ++set) {
      std::vector<int32_t> table(static_cast<size_t>(stride) * lens_.size(), 0);
      for (size_t b = 0; b < lens_.size(); ++b)
        for (int64_t i = 0; i < (lens_[b] + case_.page - 1) / case_.page; ++i)
          table[b * static_cast<size_t>(stride) + static_cast<size_t>(i)] = order[next++];
      if (set == 0) host_table_ = table;
      tables_.push_back(arena_.upload(table));
    }
  }

  reference::OracleRow oracle_row(size_t b, int64_t query, int32_t head) {
    reference::OracleRequest r;
    r.spec = plan_args_.spec;
    r.query_len = starts_[b + 1] - starts_[b];
    r.seq_len = lens_[b];
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

  Case case_;
  const Ops& ops_;
  bool latent_ = false;
  std::vector<int32_t> starts_, lens_, key_starts_, host_table_;
  AttentionPlanArgs plan_args_;
  AttentionPlanPtr plan_;
  AttentionArgs args_;
  Arena arena_;
  Pattern q_pattern_, k_pattern_, v_pattern_;
  std::vector<const int32_t*> tables_;
  int64_t blocks_a_set_ = 0;
  int num_sets_ = 1;
};

void print(const Row& r) {
  std::printf("%-34s %9.1f us %6.2f TB/s %6.0f TF/s  err %.1e  %s\n", r.name.c_str(), r.us, r.tera_bytes, r.tera_flops,
              r.error, r.kernel.c_str());
  std::fflush(stdout);
}

void run_attention_cases(const std::vector<Case>& cases, const Ops& ops, const Options& options,
                         std::vector<Row>& rows) {
  for (const Case& c : cases) {
    if (!options.only.empty() && c.name.find(options.only) == std::string::npos) continue;
    Problem problem(c, ops);
    Row row;
    row.name = c.name;
    row.kernel = problem.kernel();
    row.error = problem.error();
    const double rough = std::max(problem.bytes() / 2.5e12, problem.flops() / 3e14);
    const int launches = std::clamp(static_cast<int>(4e-3 / rough), 1, std::max(16, problem.sets()));
    if (options.time) {
      row.us = time_graph([&](int i, cudaStream_t stream) { problem.launch(i, stream); }, launches, options.replays);
      row.tera_bytes = problem.bytes() / row.us / 1e6;
      row.tera_flops = problem.flops() / row.us / 1e6;
    }
    row.wrong = !(row.error < problem.allowed_error());
    if (row.wrong) row.kernel = "WRONG " + row.kernel;
    print(row);
    rows.push_back(row);
  }
}

// Cache ops: bytes read and written over time, next to the device's own copy.
void run_cache_cases(const Ops& ops, const Options& options) {
  const auto report = [&](const char* name, double bytes, const std::function<void(cudaStream_t)>& launch) {
    if (!options.only.empty() && std::string(name).find(options.only) == std::string::npos) return;
    const int launches = std::clamp(static_cast<int>(4e-3 / (bytes / 2.5e12)), 2, 40);
    const double us = time_graph([&](int, cudaStream_t s) { launch(s); }, launches, options.replays);
    std::printf("%-34s %9.1f us %6.2f TB/s (read + write)\n", name, us, bytes / us / 1e6);
  };
  Arena arena;
  constexpr size_t kCopy = size_t{1} << 30;
  void *from = arena.take(kCopy), *to = arena.take(kCopy);
  report("copy 1 GiB", 2.0 * kCopy,
         [&](cudaStream_t s) { cudaMemcpyAsync(to, from, kCopy, cudaMemcpyDeviceToDevice, s); });

  for (int64_t tokens : {int64_t{8}, int64_t{65536}}) {
    const int64_t slots = std::max<int64_t>(tokens, 4096);
    for (DType kv : {DType::kBF16, DType::kF8E4M3FN}) {
      KvCacheSpec spec{KvLayout::kNHD, kv, slots / 16, 16, 8, 128, 128};
      ReshapeAndCacheArgs a;
      a.k = make_view(from, DType::kBF16, {tokens, 8, 128});
      a.v = make_view(static_cast<char*>(from) + kCopy / 2, DType::kBF16, {tokens, 8, 128});
      std::vector<int64_t> slot(static_cast<size_t>(slots));
      for (size_t i = 0; i < slot.size(); ++i) slot[i] = static_cast<int64_t>(i);
      std::shuffle(slot.begin(), slot.end(), std::mt19937_64(3));
      a.slot_mapping = arena.upload(slot);
      a.num_tokens = tokens;
      a.cache = make_kv_cache_view(spec, to, static_cast<char*>(to) + kCopy / 2);
      const double bytes = static_cast<double>(tokens) * 2 * 8 * 128 * (2.0 + static_cast<double>(size_of(kv)));
      const std::string name = "reshape_and_cache " + std::string(to_string(kv)) + " T" + std::to_string(tokens);
      report(name.c_str(), bytes, [&](cudaStream_t s) { check(ops.reshape_and_cache(a, {s}), "reshape_and_cache"); });
    }
    KvCacheSpec spec{KvLayout::kLatent, DType::kBF16, slots / 64, 64, 1, 576, 512};
    ConcatAndCacheMlaArgs a;
    a.kv_c = make_view(from, DType::kBF16, {tokens, 512});
    a.k_pe = make_view(static_cast<char*>(from) + kCopy / 2, DType::kBF16, {tokens, 64});
    std::vector<int64_t> slot(static_cast<size_t>(tokens));
    for (size_t i = 0; i < slot.size(); ++i) slot[i] = static_cast<int64_t>(i);
    a.slot_mapping = arena.upload(slot);
    a.num_tokens = tokens;
    a.cache = make_kv_cache_view(spec, to, nullptr);
    report(("concat_and_cache_mla T" + std::to_string(tokens)).c_str(), static_cast<double>(tokens) * 576 * 4,
           [&](cudaStream_t s) { check(ops.concat_and_cache_mla(a, {s}), "concat_and_cache_mla"); });
  }
  {
    constexpr int64_t kRows = 65536;
    GatherCacheArgs a;
    KvCacheSpec spec{KvLayout::kNHD, DType::kBF16, kRows / 16, 16, 8, 128, 128};
    a.cache = make_kv_cache_view(spec, from, static_cast<char*>(from) + kCopy / 2);
    std::vector<int32_t> table(kRows / 16);
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
    std::shuffle(table.begin(), table.end(), std::mt19937_64(3));
    a.block_table = arena.upload(table);
    a.block_table_stride = static_cast<int64_t>(table.size());
    a.num_requests = 1;
    a.key_start_loc = arena.upload(std::vector<int32_t>{0, static_cast<int32_t>(kRows)});
    a.max_rows = kRows;
    a.k = make_view(to, DType::kBF16, {kRows, 8, 128});
    a.v = make_view(static_cast<char*>(to) + kCopy / 2, DType::kBF16, {kRows, 8, 128});
    report("gather_cache 65536 rows", kRows * 2.0 * 8 * 128 * 4,
           [&](cudaStream_t s) { check(ops.gather_cache(a, {s}), "gather_cache"); });
  }
  {
    constexpr int64_t kTokens = 16384, kHeads = 32, kDim = 128;
    MergeAttnStatesArgs a;
    a.prefix_out = make_view(from, DType::kBF16, {kTokens, kHeads, kDim});
    a.suffix_out = make_view(static_cast<char*>(from) + kCopy / 2, DType::kBF16, {kTokens, kHeads, kDim});
    a.out = make_view(to, DType::kBF16, {kTokens, kHeads, kDim});
    a.prefix_lse = make_view(arena.take(kTokens * kHeads * 4), DType::kF32, {kHeads, kTokens});
    a.suffix_lse = make_view(arena.take(kTokens * kHeads * 4), DType::kF32, {kHeads, kTokens});
    a.lse = make_view(arena.take(kTokens * kHeads * 4), DType::kF32, {kHeads, kTokens});
    cudaMemset(a.prefix_lse.data, 0, kTokens * kHeads * 4);
    cudaMemset(a.suffix_lse.data, 0, kTokens * kHeads * 4);
    report("merge_attn_states 16384 x 32", kTokens * kHeads * (kDim * 6.0 + 12),
           [&](cudaStream_t s) { check(ops.merge_attn_states(a, {s}), "merge"); });
  }
  {
    constexpr int64_t kHeads = 128, kTokens = 64;
    GemmArgs a;
    a.a = make_view(from, DType::kBF16, {kHeads, kTokens, 128});
    a.b = make_view(static_cast<char*>(from) + kCopy / 2, DType::kBF16, {kHeads, 128, 512});
    a.c = make_view(to, DType::kBF16, {kHeads, kTokens, 512});
    a.workspace_bytes = ops.gemm_workspace_bytes(kTokens, 512, 128);
    a.workspace = arena.take(a.workspace_bytes);
    report("gemm 128 x [64,128]x[128,512]", kHeads * (64.0 * 128 + 128 * 512 + 64 * 512) * 2,
           [&](cudaStream_t s) { check(ops.gemm(a, {s}), "gemm"); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--family" && i + 1 < argc) {
      options.family = std::strcmp(argv[++i], "portable") == 0 ? KernelFamily::kPortable : KernelFamily::kTuned;
    } else if (arg == "--only" && i + 1 < argc) {
      options.only = argv[++i];
    } else if (arg == "--replays" && i + 1 < argc) {
      options.replays = std::atoi(argv[++i]);
    } else if (arg == "--no-time") {
      options.time = false;
    } else {
      fail("usage: cuda_bench [--family portable|tuned] [--only text] [--replays n] [--no-time]");
    }
  }
  auto device = open_device(DeviceKind::kCuda, 0);
  check(device.status(), "open_device");
  const Ops& ops = (*device)->ops(options.family);
  std::printf("%s, %s\n", (*device)->info().name.c_str(), ops.name().c_str());
  std::vector<Row> rows;
  if (options.time) run_cache_cases(ops, options);
  run_attention_cases(decode_cases(), ops, options, rows);
  run_attention_cases(mla_cases(), ops, options, rows);
  run_attention_cases(prefill_cases(), ops, options, rows);
  run_attention_cases(off_road_cases(), ops, options, rows);
  int wrong = 0;
  for (const Row& row : rows) wrong += row.wrong ? 1 : 0;
  std::printf("%zu attention cases, %d wrong\n", rows.size(), wrong);
  return wrong == 0 ? 0 : 1;
}
