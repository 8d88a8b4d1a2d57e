// Plans, runs and judges a random case, and the second run that its relation asks for.
#include "verify/random/run_random.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "backends/plan_parts.h"
#include "reference/numbers.h"
#include "verify/random/graph.h"
#include "verify/random/simple_ops.h"

namespace sextant::verify {
namespace {

struct Written {
  std::vector<uint8_t> out;
  std::vector<float> lse;
};

RandomVerdict failed(std::string message) { return {RandomVerdict::Kind::kFailed, std::move(message)}; }
RandomVerdict not_ok(const Status& status) {
  const bool refused = status.code() == StatusCode::kUnsupported;
  return {refused ? RandomVerdict::Kind::kRefused : RandomVerdict::Kind::kFailed, status.message()};
}

// What is planned and run: a whole backend, or one attention op.
class Subject {
 public:
  static Result<Subject> make(const Device& device, const RandomCase& test) {
    Subject s;
    if (test.is_op()) {
      auto op = parse_attention_op(test.op.name);
      if (!op) return op.status();
      s.op_ = *op;
      s.ops_ = &device.ops(test.op.family);
      return s;
    }
    auto backend = find_backend(test.backend);
    if (!backend) return backend.status();
    s.backend_ = *backend;
    s.ops_ = &device.ops(s.backend_->info().family);
    return s;
  }

  Status plan(const Device& device, const CaseMemory& memory) {
    const PlanRequest request = memory.plan_request();
    if (backend_ != nullptr) {
      auto plan = backend_->plan(device, request);
      if (plan) plan_ = *plan;
      return plan.status();
    }
    auto plan = ops_->plan_attention(op_args(memory.test(), request));
    if (plan) op_plan_ = *plan;
    return plan.status();
  }

  size_t workspace_bytes() const { return plan_ ? plan_->workspace_bytes() : op_plan_->workspace_bytes(); }

  Status run(const RunTensors& t, Stream stream) const {
    if (plan_) return plan_->run(t, stream);
    AttentionArgs args = run_args(t);
    args.key_start_loc = t.query_start_loc;
    args.workspace = t.workspace;
    return ops_->run_attention(*op_plan_, args, stream);
  }

  // Whether it multiplies fp8 queries and keys as they are, with probabilities in fp8 as well.
  bool multiplies_fp8(const CaseMemory& memory) const {
    const RandomCase& c = memory.test();
    if (c.spec.query_type() != DType::kF8E4M3FN || c.cache_dtype != DType::kF8E4M3FN) return false;
    return ops_->takes_fp8_queries(op_args(c, memory.plan_request()));
  }

 private:
  AttentionPlanArgs op_args(const RandomCase& test, const PlanRequest& request) const {
    AttentionPlanArgs args;
    args.op = op_;
    args.spec = request.spec;
    args.cache = request.cache;
    args.query_start_loc = request.batch.query_start_loc;
    args.seq_lens = request.batch.seq_lens;
    args.filter = test.op.filter;
    args.split = test.op.split;
    args.bounds = test.options.bounds;
    args.key_begin = test.op.key_begin;
    if (test.op.key_end > 0) args.key_end = test.op.key_end;
    if (op_ == AttentionOp::kVarlen) {  // the new tokens alone
      args.key_start_loc = request.batch.query_start_loc;
      args.max_packed_keys = request.batch.num_tokens();
      args.key_begin = kKeysAfterContext;
    }
    args.deterministic = test.options.deterministic;
    args.lse_out = test.options.lse_out;
    args.out_dtype = test.out_dtype();
    return args;
  }

  const Backend* backend_ = nullptr;
  const Ops* ops_ = nullptr;
  AttentionOp op_ = AttentionOp::kUnified;
  PlanPtr plan_;
  AttentionPlanPtr op_plan_;
};

// One plan with its memory, run as often as asked.
class Runner {
 public:
  static Result<std::unique_ptr<Runner>> make(Device& device, const RandomCase& test, const std::vector<Member>& batch,
                                              uint64_t block_seed) {
    auto subject = Subject::make(device, test);
    if (!subject) return subject.status();
    auto runner = std::make_unique<Runner>();
    runner->subject_ = *subject;
    runner->block_seed_ = block_seed;
    runner->batch_ = batch;
    std::vector<std::vector<Member>> batches = {batch};
    if (test.replays()) batches.push_back(members_of(test.planned, test.seed + 1));
    auto memory = CaseMemory::make(device, test, batches);
    if (!memory) return memory.status();
    runner->memory_ = std::move(*memory);
    SEXTANT_RETURN_IF_ERROR(runner->memory_->load(batches.back(), block_seed + 1));
    SEXTANT_RETURN_IF_ERROR(runner->subject_.plan(device, *runner->memory_));
    return runner;
  }

  Status run(uint8_t workspace_poison) {
    const RandomCase& test = memory_->test();
    // (Partitions of four keys, asked for over a long prompt, want 160 GB.)
    const int64_t memory = memory_->device().info().memory_bytes;
    if (const auto bytes = static_cast<int64_t>(subject_.workspace_bytes()); memory > 0 && bytes > memory / 4)
      return {StatusCode::kUnsupported,
              fmt::format("a workspace of {} bytes is more than a quarter of the device's memory", bytes)};
    SEXTANT_RETURN_IF_ERROR(memory_->take_workspace(subject_.workspace_bytes(), workspace_poison));
    const auto launch = [this](Stream stream) { return subject_.run(memory_->tensors(), stream); };
    if (test.graph && graph_ == nullptr) {
      auto graph = CapturedRun::capture(memory_->device(), launch);
      if (!graph) return graph.status();
      graph_ = std::move(*graph);
    }
    SEXTANT_RETURN_IF_ERROR(memory_->load(batch_, block_seed_));
    if (graph_ != nullptr) return graph_->launch();
    SEXTANT_RETURN_IF_ERROR(launch({}));
    return memory_->device().synchronize({});
  }

  Result<Written> written() const {
    auto out = memory_->out();
    if (!out) return out.status();
    auto lse = memory_->lse();
    if (!lse) return lse.status();
    return Written{std::move(*out), std::move(*lse)};
  }

  // Runs, and judges against plain attention.
  RandomVerdict judged(uint8_t workspace_poison, const JudgeLimits& limits, Written& written_out) {
    const Status ran = run(workspace_poison);
    if (!ran.is_ok()) return not_ok(ran);
    auto got = written();
    if (!got) return not_ok(got.status());
    written_out = std::move(*got);
    auto faults = memory_->faults();
    if (!faults) return not_ok(faults.status());
    if (!faults->empty()) return failed(*faults);
    if (std::string fault = unwritten(*memory_, written_out.out, written_out.lse); !fault.empty())
      return failed(std::move(fault));
    const RandomCase& test = memory_->test();
    auto plain = attend_plainly(*memory_, sample_rows(*memory_, limits, test.seed), subject_.multiplies_fp8(*memory_));
    if (!plain) return not_ok(plain.status());
    RandomVerdict verdict;
    std::string fault = compare(*memory_, *plain, written_out.out, written_out.lse, &verdict.worst);
    if (!fault.empty()) return failed(std::move(fault));
    return verdict;
  }

  const CaseMemory& memory() const { return *memory_; }

 private:
  Subject subject_;
  uint64_t block_seed_ = 0;
  std::vector<Member> batch_;
  std::unique_ptr<CaseMemory> memory_;
  std::unique_ptr<CapturedRun> graph_;
};

// Which token of the first batch stands where in the second.
struct TokenPair {
  int64_t first, second;
};

// Rows of two results: the same bits, or within what two roundings of one number may differ by.
std::string compare_rows(const CaseMemory& memory, const Written& first, const CaseMemory& other, const Written& second,
                         std::vector<TokenPair> tokens, bool same_bits) {
  const std::vector<bool> ours = memory.written_rows(), theirs = other.written_rows();
  std::erase_if(tokens, [&](const TokenPair& pair) {
    return !ours[static_cast<size_t>(pair.first)] || !theirs[static_cast<size_t>(pair.second)];
  });
  const AttentionSpec& s = memory.test().spec;
  const DType dtype = memory.test().out_dtype();
  const double u = s.dtype == DType::kF32 ? 1e-5 : reference::epsilon(s.dtype) / 2;
  const double loose = 16 * u * (s.mla.enabled() ? 4 : 1) * (s.has_fp8_queries() ? 32 : 1) *
                       (s.logits_soft_cap > 0 || memory.test().magnitude > 1 ? 8 : 1);
  const int64_t width = int64_t{s.num_heads} * s.value_head_dim();
  const auto element = static_cast<int64_t>(size_of(dtype));
  for (const auto [t, o] : tokens) {
    const int64_t at = t * memory.out_row_elements(), to = o * other.out_row_elements();
    if (std::equal(first.out.begin() + at * element, first.out.begin() + (at + width) * element,
                   second.out.begin() + to * element))
      continue;
    for (int64_t i = 0; i < width; ++i) {
      const double x = reference::load(dtype, first.out.data(), at + i);
      const double y = reference::load(dtype, second.out.data(), to + i);
      const bool differs =
          same_bits ? x != y : !(std::fabs(x - y) <= loose * std::max({1.0, std::fabs(x), std::fabs(y)}));
      if (differs)
        return fmt::format("out[{}, {}, {}] is {:.9g} once and {:.9g} the second time{}", t, i / s.value_head_dim(),
                           i % s.value_head_dim(), x, y, same_bits ? "; the same bits are promised" : "");
    }
  }
  if (!memory.test().options.lse_out) return {};
  for (int64_t h = 0; h < s.num_heads; ++h)
    for (const auto [t, o] : tokens) {
      const float x = first.lse[static_cast<size_t>(h * memory.rows() + t)];
      const float y = second.lse[static_cast<size_t>(h * other.rows() + o)];
      const bool differs = same_bits ? x != y : !(x == y || std::fabs(x - y) <= loose * std::max(1.0F, std::fabs(x)));
      if (differs) return fmt::format("lse[{}, {}] is {:.9g} once and {:.9g} the second time", h, t, x, y);
    }
  return {};
}

std::vector<int64_t> starts_of(const std::vector<Member>& batch) {
  std::vector<int64_t> starts = {0};
  for (const Member& member : batch) starts.push_back(starts.back() + member.shape.query_len);
  return starts;
}

// A changed batch, and which tokens of the first one it has.
struct Changed {
  RandomCase test;
  std::vector<Member> batch;
  std::vector<TokenPair> tokens;
  bool same_bits = false;
};

void pair_request(const std::vector<int64_t>& from, size_t b, const std::vector<int64_t>& to, size_t c, int64_t skip,
                  Changed& changed) {
  for (int64_t i = 0; i < to[c + 1] - to[c]; ++i) changed.tokens.push_back({from[b] + skip + i, to[c] + i});
}

Changed permuted(const RandomCase& test, const std::vector<Member>& batch) {
  Changed changed{test, {}, {}, test.options.deterministic};
  std::vector<size_t> order(batch.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::shuffle(order.begin(), order.end(), std::mt19937_64(test.seed));
  for (size_t b : order) changed.batch.push_back(batch[b]);
  const auto from = starts_of(batch), to = starts_of(changed.batch);
  for (size_t c = 0; c < order.size(); ++c) pair_request(from, order[c], to, c, 0, changed);
  return changed;
}

Changed reblocked(const RandomCase& test, const std::vector<Member>& batch) {
  Changed changed{test, batch, {}, test.options.deterministic};
  if (test.shared_prefix_len == 0) changed.test.block_size = 1 + static_cast<int32_t>(mix(test.seed) % 130);
  const auto from = starts_of(batch);
  for (size_t b = 0; b < batch.size(); ++b) pair_request(from, b, from, b, 0, changed);
  return changed;
}

Changed joined(const RandomCase& test, const std::vector<Member>& batch) {
  Changed changed{test, batch, {}, test.options.deterministic};
  const auto from = starts_of(batch);
  for (size_t b = 0; b < batch.size(); ++b) pair_request(from, b, from, b, 0, changed);
  std::mt19937_64 engine(test.seed);
  for (int i = 0; i < 3; ++i) {
    const RequestShape& like = batch[engine() % batch.size()].shape;
    const auto context = static_cast<int32_t>(engine() % 300);
    const int32_t query_len = std::min(like.query_len, 40);
    const RequestShape other{query_len, query_len + context};
    changed.batch.push_back({other, mix(test.seed + 77 + static_cast<uint64_t>(i))});
  }
  return changed;
}

// The lengths that a plan with bounds, or a captured graph, has just run with, planned for.
Changed planned_anew(const RandomCase& test, const std::vector<Member>& batch) {
  Changed changed{test, batch, {}, test.options.deterministic};
  changed.test.planned.clear();
  changed.test.options.bounds = {};
  changed.test.graph = false;
  const auto from = starts_of(batch);
  for (size_t b = 0; b < batch.size(); ++b) pair_request(from, b, from, b, 0, changed);
  return changed;
}

// The first or the last part of every request's new tokens.
Changed part(const RandomCase& test, const std::vector<Member>& batch, bool last) {
  Changed changed{test, {}, {}, false};
  std::vector<int32_t> skipped;
  for (const Member& member : batch) {
    const auto [query_len, seq_len] = member.shape;
    const int32_t cut = query_len / 2;
    changed.batch.push_back(
        {last ? RequestShape{query_len - cut, seq_len} : RequestShape{cut, seq_len - query_len + cut}, member.seed});
    skipped.push_back(last ? cut : 0);
  }
  const auto from = starts_of(batch), to = starts_of(changed.batch);
  for (size_t b = 0; b < batch.size(); ++b) pair_request(from, b, to, b, skipped[b], changed);
  return changed;
}

std::vector<Changed> changes_of(const RandomCase& test, const std::vector<Member>& batch) {
  const bool alone = test.replays() || batch.empty();
  switch (test.relation) {
    case Relation::kPermuted:
      if (!alone) return {permuted(test, batch)};
      break;
    case Relation::kReblocked:
      if (!alone) return {reblocked(test, batch)};
      break;
    case Relation::kJoined:  // a shared prefix would have to be the others' too
      if (!alone && test.shared_prefix_len == 0) return {joined(test, batch)};
      break;
    case Relation::kChunked:  // where a query sees no key after it; ALiBi counts from the context's end, which moves
      if (!alone && test.spec.causal && !test.spec.has_alibi && !test.spec.has_spans())
        return {part(test, batch, false), part(test, batch, true)};
      break;
    case Relation::kPlanned:
      if (test.replays()) return {planned_anew(test, batch)};
      break;
    case Relation::kNone:
    case Relation::kTwice:
      break;
  }
  return {};
}

constexpr uint8_t kPoisons[] = {0xFF, 0x00, 0x7F, 0x3C};

RandomVerdict run_twice(Runner& runner, const Written& first, uint8_t poison) {
  const Status ran = runner.run(poison);
  if (!ran.is_ok()) return not_ok(ran);
  auto second = runner.written();
  if (!second) return not_ok(second.status());
  std::vector<TokenPair> all(static_cast<size_t>(runner.memory().num_tokens()));
  for (size_t t = 0; t < all.size(); ++t) all[t] = {static_cast<int64_t>(t), static_cast<int64_t>(t)};
  std::string fault = compare_rows(runner.memory(), first, runner.memory(), *second, all, true);
  if (!fault.empty()) return failed("the same plan, run again over another workspace's remains: " + fault);
  return {};
}

}  // namespace

RandomVerdict run_random_case(Device& device, const RandomCase& test, const JudgeLimits& limits) {
  if (is_simple_op(test.op.name)) {
    auto fault = run_simple_op(device, test);
    if (!fault) return not_ok(fault.status());
    return fault->empty() ? RandomVerdict{} : failed(*fault);
  }
  const std::vector<Member> batch = members_of(test.requests, test.seed);
  auto runner = Runner::make(device, test, batch, test.seed);
  if (!runner) return not_ok(runner.status());
  Written first;
  const uint8_t poison = kPoisons[test.seed % std::size(kPoisons)];
  RandomVerdict verdict = (*runner)->judged(poison, limits, first);
  if (verdict.kind != RandomVerdict::Kind::kPassed) return verdict;
  if (test.relation == Relation::kTwice)
    if (RandomVerdict again = run_twice(**runner, first, kPoisons[(test.seed + 1) % std::size(kPoisons)]);
        again.kind != RandomVerdict::Kind::kPassed)
      return again;
  for (const Changed& changed : changes_of(test, batch)) {
    auto other = Runner::make(device, changed.test, changed.batch, test.seed + 5);
    if (!other) return not_ok(other.status());
    Written second;
    const RandomVerdict judged = (*other)->judged(poison, limits, second);
    if (judged.kind != RandomVerdict::Kind::kPassed) {
      RandomVerdict fault = judged;
      fault.message = "after the change: " + fault.message;
      return fault;
    }
    verdict.worst = std::max(verdict.worst, judged.worst);
    std::string fault =
        compare_rows((*runner)->memory(), first, (*other)->memory(), second, changed.tokens, changed.same_bits);
    if (!fault.empty()) return failed("after the change: " + fault);
  }
  return verdict;
}

}  // namespace sextant::verify
