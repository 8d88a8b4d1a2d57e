// The judge of random cases is itself judged: by the oracle, and by faults put into what it looks at.
#include <gtest/gtest.h>

#include <cmath>

#include "reference/oracle.h"
#include "support/matchers.h"
#include "verify/random/draw_case.h"
#include "verify/random/random_suite.h"
#include "verify/random/run_random.h"

namespace sextant::verify {
namespace {

// Small enough for the oracle, which reads the tensors and the cache that the judge filled.
RandomCase small_case(uint64_t seed, const Backend& backend) {
  DrawLimits limits = DrawLimits::of(DeviceKind::kCpu, "");
  limits.most_work = 3e5;
  limits.most_kv_elements = 2e4;
  limits.replays = false;
  RandomCase c = draw_case(seed, backend, limits);
  c.writes = false;  // the cache holds everything before the call
  return c;
}

reference::OracleRequest oracle_request(const CaseMemory& memory, size_t b) {
  const AttentionSpec& s = memory.test().spec;
  const StepArrays& a = memory.arrays();
  const RunTensors& t = memory.tensors();
  reference::OracleRequest request;
  request.spec = s;
  request.query_len = a.query_start_loc[b + 1] - a.query_start_loc[b];
  request.seq_len = a.seq_lens[b];
  const auto stored = reference::read_rows(t.q, a.query_start_loc[b]);
  request.q = [&t, stored, &s](int64_t i, int32_t h, int32_t d) {
    if (t.q_scale == nullptr) return stored(i, h, d);
    return stored(i, h, d) * static_cast<double>(t.q_scale[t.num_q_scales == 1 ? 0 : h / s.group_size()]);
  };
  const int32_t* table_row = t.block_table + static_cast<int64_t>(b) * t.block_table_stride;
  const auto keys = reference::read_cached_keys(t.cache, table_row);
  if (s.has_sinks) request.sinks = {t.sinks, static_cast<size_t>(s.num_heads)};
  if (s.has_alibi) request.alibi_slopes = {t.alibi_slopes, static_cast<size_t>(s.num_heads)};
  if (!s.mla.enabled()) {
    request.k = keys;
    request.v = reference::read_cached_values(t.cache, table_row);
    return request;
  }
  const MlaSpec m = s.mla;
  TensorView weights = t.kv_b_proj;
  weights.rank = 3;
  weights.shape = {weights.shape[0], 1, m.kv_lora_rank};
  weights.stride = {m.kv_lora_rank, m.kv_lora_rank, 1};
  const auto weight = reference::read_rows(weights, 0);
  const auto projected = [m, keys, weight](int64_t pos, int64_t row) {
    double sum = 0;
    for (int32_t r = 0; r < m.kv_lora_rank; ++r) sum += weight(row, 0, r) * keys(pos, 0, r);
    return sum;
  };
  request.k = [=](int64_t pos, int32_t h, int32_t d) {
    if (d >= m.qk_nope_head_dim) return keys(pos, 0, m.kv_lora_rank + d - m.qk_nope_head_dim);
    return projected(pos, int64_t{h} * (m.qk_nope_head_dim + m.v_head_dim) + d);
  };
  request.v = [=](int64_t pos, int32_t h, int32_t d) {
    return projected(pos, int64_t{h} * (m.qk_nope_head_dim + m.v_head_dim) + m.qk_nope_head_dim + d);
  };
  return request;
}

TEST(RandomJudge, SaysWhatTheOracleSays) {
  auto device = open_device(DeviceKind::kCpu);
  ASSERT_OK(device);
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const RandomCase test = small_case(seed, *all_backends()[seed % all_backends().size()]);
    SCOPED_TRACE(to_text(test));
    const std::vector<Member> batch = members_of(test.requests, test.seed);
    auto memory = CaseMemory::make(**device, test, {batch});
    ASSERT_OK(memory);
    ASSERT_OK((*memory)->load(batch, seed));
    auto plain = attend_plainly(**memory, sample_rows(**memory, {.most_rows = 12, .most_work = 1e9}, seed), false);
    ASSERT_OK(plain);
    const std::vector<int32_t>& starts = (*memory)->arrays().query_start_loc;
    for (size_t r = 0; r < plain->rows.size(); ++r) {
      const SampledRow& row = plain->rows[r];
      const auto b =
          static_cast<size_t>(std::upper_bound(starts.begin(), starts.end(), row.token) - starts.begin()) - 1;
      const reference::OracleRow expected =
          reference::attend_row(oracle_request(**memory, b), row.token - starts[b], row.head);
      for (size_t d = 0; d < expected.out.size(); ++d)
        ASSERT_NEAR(plain->out[r * expected.out.size() + d], expected.out[d],
                    1e-9 * std::max(1.0, std::fabs(expected.out[d])));
      if (std::isinf(expected.lse))
        ASSERT_EQ(plain->lse[r], expected.lse);
      else
        ASSERT_NEAR(plain->lse[r], expected.lse, 1e-9 * std::max(1.0, std::fabs(expected.lse)));
    }
  }
}

// A right result, to put faults into.
struct Judged {
  RandomCase test;
  std::shared_ptr<Device> device;
  std::unique_ptr<CaseMemory> memory;
  std::vector<uint8_t> out;
  std::vector<float> lse;

  std::string verdict() const {
    auto plain = attend_plainly(*memory, sample_rows(*memory, {}, 1), false);
    return plain ? compare(*memory, *plain, out, lse, nullptr) : plain.status().message();
  }
};

Judged right_result() {
  Judged j;
  j.test.backend = "TRITON_ATTN";
  j.test.spec.num_heads = 4;
  j.test.spec.num_kv_heads = 2;
  j.test.spec.head_dim = 64;
  j.test.spec.softmax_scale = 0.125F;
  j.test.requests = {{3, 900}, {1, 70}};
  j.test.options.lse_out = true;
  j.test.padding_tokens = 2;
  j.test.row_padding = 4;
  static const std::shared_ptr<Device> kDevice = *open_device(DeviceKind::kCpu);  // outlives every result
  j.device = kDevice;
  const std::vector<Member> batch = members_of(j.test.requests, j.test.seed);
  auto memory = CaseMemory::make(*j.device, j.test, {batch});
  EXPECT_OK(memory);
  j.memory = std::move(*memory);
  EXPECT_OK(j.memory->load(batch, 1));
  const Backend* backend = *find_backend(j.test.backend);
  auto plan = backend->plan(*j.device, j.memory->plan_request());
  EXPECT_OK(plan);
  EXPECT_OK(j.memory->take_workspace((*plan)->workspace_bytes(), 0xFF));
  EXPECT_OK(backend->run(**plan, j.memory->tensors(), {}));
  j.out = *j.memory->out();
  j.lse = *j.memory->lse();
  return j;
}

TEST(RandomJudge, AcceptsARightResult) {
  const Judged j = right_result();
  EXPECT_EQ(j.verdict(), "");
  EXPECT_EQ(unwritten(*j.memory, j.out, j.lse), "");
  EXPECT_EQ(*j.memory->faults(), "");
}

TEST(RandomJudge, SeesAWrongNumberOrLse) {
  Judged j = right_result();
  const auto last_row = static_cast<size_t>(3 * j.memory->out_row_elements() * 2);
  for (size_t i = last_row; i < last_row + 4 * 64 * 2; i += 2)
    j.out[i + 1] ^= 0x01;  // an exponent bit of every element
  EXPECT_NE(j.verdict(), "");
  j = right_result();
  for (float& lse : j.lse) lse += 0.01F;
  EXPECT_NE(j.verdict(), "");
}

TEST(RandomJudge, SeesWhatWasNotWrittenAndWhatShouldNotHaveBeen) {
  Judged j = right_result();
  j.out[10] = j.out[11] = 0xFF;
  EXPECT_NE(unwritten(*j.memory, j.out, j.lse).find("is not written"), std::string::npos);
  j = right_result();
  j.out[static_cast<size_t>(4 * j.memory->out_row_elements() * 2)] = 0;  // the first padding row
  EXPECT_NE(unwritten(*j.memory, j.out, j.lse).find("was written"), std::string::npos);
  j = right_result();
  j.out[4 * 64 * 2] = 0;  // between two rows
  EXPECT_NE(unwritten(*j.memory, j.out, j.lse).find("was written"), std::string::npos);
  j = right_result();
  j.lse[j.lse.size() - 1] = 0;
  EXPECT_NE(unwritten(*j.memory, j.out, j.lse).find("was written"), std::string::npos);
}

TEST(RandomJudge, SeesAStrayWrite) {
  const Judged j = right_result();
  auto* cache = static_cast<uint8_t*>(j.memory->tensors().cache.v);
  cache[12345] ^= 1;
  EXPECT_NE(j.memory->faults()->find("the V cache"), std::string::npos);
  cache[12345] ^= 1;
  static_cast<uint8_t*>(j.memory->tensors().workspace)[j.memory->tensors().workspace_bytes + 3] = 0;
  EXPECT_NE(j.memory->faults()->find("behind the workspace"), std::string::npos);
}

TEST(RandomSuite, AFewCasesOfEveryBackendAndIsa) {
  auto device = open_device(DeviceKind::kCpu);
  ASSERT_OK(device);
  RandomOptions options;
  options.isas = {"scalar", ""};
  options.seconds = 20;
  options.most_cases = 60;
  const RandomReport report = run_random_suite(**device, options);
  for (const RandomFailure& failure : report.failures) ADD_FAILURE() << failure.message << "\n" << failure.text;
  EXPECT_GT(report.cases, 10);
  EXPECT_EQ(report.cases, report.passed);
}

}  // namespace
}  // namespace sextant::verify
