// Deterministic mode: the bits of a request's result depend on nothing but the request.
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "support/cases.h"
#include "support/sanitizers.h"

namespace sextant {
namespace {

using testing::backends_for;
using testing::cpu;
using testing::make_case;
using testing::mha_spec;
using testing::mla_spec;
using verify::Case;

const std::vector<verify::RequestShape> kBatch = {{1, 700}, {6, 90}, {1, 33}, {40, 300}, {17, 17}};

std::vector<uint8_t> bytes_of(const Backend& backend, const Case& test, const std::shared_ptr<Device>& device = cpu()) {
  auto bytes = verify::run_for_bytes(*device, backend, verify::prepare(test, 5, 0), 5);
  EXPECT_OK(bytes);
  return bytes.is_ok() ? *bytes : std::vector<uint8_t>{};
}

class Invariance : public ::testing::TestWithParam<const Backend*> {
 protected:
  // Few and many rows a KV head are the work of different kernels.
  Case deterministic_case(int32_t group = 4) const {
    const bool mla = GetParam()->info().category == BackendCategory::kMla;
    Case c = make_case(mla ? mla_spec(group) : mha_spec(2 * group, 2, 64), kBatch);
    c.options.deterministic = true;
    return c;
  }
  // Long enough that a device with nothing else to go by divides them among its workers.
  Case long_case(int32_t first = 9000) const {
    Case c = deterministic_case();
    c.requests = {{1, first}, {1, 600}, {2, 5000}};
    c.spec.dtype = c.cache_dtype = DType::kF32;  // rounding to 16 bits hides another order of sums
    return c;
  }
  // Contexts of several requests share a buffer, chunk by chunk.
  Case chunked_case() const {
    Case c = deterministic_case();
    c.requests = {{4, 3000}, {5, 2000}, {3, 2500}};
    c.options.chunk_workspace_rows = 3300;  // looked at outside of deterministic mode
    return c;
  }
  void expect_same_alone(const Case& c) const;
  void expect_same_by_threads(const Case& c) const;
};

TEST_P(Invariance, BlockSizeNeverChangesABit) {
  for (int32_t group : {4, 40}) {
    Case c = deterministic_case(group);
    c.block_size = 16;
    const std::vector<uint8_t> expected = bytes_of(*GetParam(), c);
    for (int32_t block_size : {1, 3, 64, 544}) {
      c.block_size = block_size;
      EXPECT_EQ(bytes_of(*GetParam(), c), expected) << "block_size " << block_size << ", group " << group;
    }
  }
}

TEST_P(Invariance, ThreadsNeverChangeABit) {
  expect_same_by_threads(deterministic_case());
  if (!testing::kUnderSanitizers) expect_same_by_threads(long_case());  // too slow for them
}

void Invariance::expect_same_by_threads(const Case& c) const {
  const std::vector<uint8_t> expected = bytes_of(*GetParam(), c);
  for (int threads : {1, 3}) {
    auto device = make_cpu_device({.executor = make_thread_pool(threads), .isa = {}});
    ASSERT_OK(device);
    EXPECT_EQ(bytes_of(*GetParam(), c, *device), expected) << threads << " threads";
  }
}

// Workers' scratch memory is nobody else's while host threads share a device.
TEST_P(Invariance, HostThreadsAtOnceNeverChangeABit) {
  const Case c = deterministic_case();
  const std::vector<uint8_t> expected = bytes_of(*GetParam(), c);
  auto device = make_cpu_device({.executor = make_thread_pool(3), .isa = {}});
  ASSERT_OK(device);
  std::vector<std::thread> hosts;
  for (int host = 0; host < 4; ++host)
    hosts.emplace_back([&] {
      for (int round = 0; round < 3; ++round) EXPECT_EQ(bytes_of(*GetParam(), c, *device), expected);
    });
  for (std::thread& host : hosts) host.join();
}

// A plan with bounds divides a run's keys as a plan for that run would: at a split that an op's caller prescribes, and
// where few keys lie on both sides of a split point.
TEST(DeterministicOps, BoundsChangeNoBit) {
  constexpr int32_t kKeys = 4200, kHeads = 4, kDim = 64;
  KvCacheSpec cache;
  cache.dtype = DType::kF32;
  cache.block_size = kKeys;
  cache.num_blocks = 1;
  cache.num_kv_heads = 2;
  cache.head_dim = cache.head_dim_v = kDim;
  std::vector<float> k(static_cast<size_t>(k_elements(cache))), v(k.size()), q(kHeads * kDim);
  uint32_t state = 1;
  for (auto* numbers : {&k, &v, &q})
    for (float& x : *numbers) x = static_cast<float>((state = state * 1664525 + 1013904223) >> 8) * 0x1p-23F - 1;
  const int32_t query_start_loc[] = {0, 1}, short_len[] = {10}, long_len[] = {kKeys}, table[] = {0};
  const Ops& ops = cpu()->ops(KernelFamily::kTuned);
  for (const auto& [split, window] : {std::pair<SplitPolicy, int>{{SplitPolicy::Kind::kSegments, 5}, 0},
                                      {{SplitPolicy::Kind::kPartition, 192}, 0},
                                      {{SplitPolicy::Kind::kNone, 0}, 0},
                                      {{SplitPolicy::Kind::kAuto, 0}, 0},
                                      {{SplitPolicy::Kind::kAuto, 0}, 300}}) {
    AttentionPlanArgs args;
    args.op = AttentionOp::kPagedDecode;
    args.spec = mha_spec(kHeads, 2, kDim, DType::kF32);
    args.spec.sliding_window = window;
    args.cache = cache;
    args.query_start_loc = query_start_loc;
    args.out_dtype = DType::kF32;
    args.deterministic = true;
    args.split = split;
    const auto run = [&](std::span<const int32_t> planned, PlanBounds bounds) {
      args.seq_lens = planned;
      args.bounds = bounds;
      const auto plan = ops.plan_attention(args);
      EXPECT_OK(plan);
      std::vector<float> out(kHeads * kDim);
      std::vector<std::byte> workspace((*plan)->workspace_bytes() + 512);
      AttentionArgs a;
      a.q = make_view(q.data(), DType::kF32, {1, kHeads, kDim});
      a.out = make_view(out.data(), DType::kF32, {1, kHeads, kDim});
      a.cache = make_kv_cache_view(cache, k.data(), v.data());
      a.block_table = table;
      a.block_table_stride = 1;
      a.query_start_loc = query_start_loc;
      a.seq_lens = long_len;
      a.workspace = workspace.data() + 256 - reinterpret_cast<uintptr_t>(workspace.data()) % 256;
      EXPECT_OK(ops.run_attention(**plan, a, {}));
      return out;
    };
    EXPECT_EQ(run(long_len, {}), run(short_len, {.max_query_len = 1, .max_seq_len = 5000}))
        << "split " << static_cast<int>(split.kind) << ", window " << window;
  }
}

TEST_P(Invariance, RunningTwiceGivesTheSameBits) {
  Case c = deterministic_case();
  c.options.deterministic = false;
  EXPECT_EQ(bytes_of(*GetParam(), c), bytes_of(*GetParam(), c));
}

// The first request alone gives the bits that it has inside the batch.
TEST_P(Invariance, CompanyNeverChangesABit) {
  for (int32_t group : {4, 40}) expect_same_alone(deterministic_case(group));
  if (testing::kUnderSanitizers) return;
  for (int32_t first : {900, 9000}) expect_same_alone(long_case(first));
  expect_same_alone(chunked_case());
}

void Invariance::expect_same_alone(const Case& c) const {
  const std::vector<uint8_t> together = bytes_of(*GetParam(), c);
  verify::CaseData data = verify::prepare(c, 5, 0);
  const int64_t row = data.q.elements() / data.q.shape[0] * static_cast<int64_t>(size_of(c.spec.dtype));
  const verify::RequestShape first = c.requests[0];
  data.test.requests = {first};
  data.query_start_loc = {0, first.query_len};
  data.seq_lens = {first.seq_len};
  data.keys.resize(1);
  data.values.resize(1);
  data.q.shape[0] = first.query_len;
  data.q.bytes.resize(static_cast<size_t>(row * first.query_len));
  auto alone = verify::run_for_bytes(*cpu(), *GetParam(), data, 5);
  ASSERT_OK(alone);
  EXPECT_TRUE(std::equal(alone->begin(), alone->end(), together.begin()));
}

INSTANTIATE_TEST_SUITE_P(Backends, Invariance, ::testing::ValuesIn(all_backends().begin(), all_backends().end()),
                         [](const auto& backend) { return backend.param->info().name; });

}  // namespace
}  // namespace sextant
