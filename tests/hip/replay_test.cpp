// Graph replay: a plan made for some lengths, run again with others up to its bounds, gives what a plan for those
// lengths gives. All that depends on lengths is found on the device.
#include <gtest/gtest.h>

#include <random>

#include "devices/hip/emulator/emulated_device.h"
#include "support/cases.h"
#include "support/sanitizers.h"

namespace sextant::hip {
namespace {

constexpr int32_t kHeads = 4, kKvHeads = 2, kDim = 64, kBlockSize = 16, kMaxLen = 400, kRequests = 5;
constexpr int64_t kColumns = kMaxLen / kBlockSize;

struct Data {
  std::vector<uint16_t> q, k, v;
  std::vector<int32_t> block_table;
};

Data make_data(const KvCacheSpec& cache, int64_t tokens) {
  std::mt19937 random(4);
  const auto fill = [&](int64_t count) {
    std::vector<uint16_t> values(static_cast<size_t>(count));
    for (uint16_t& x : values)
      x = static_cast<uint16_t>(0x3f00 + random() % 256 + (random() % 2) * 0x8000);  // +-0.5 to 2
    return values;
  };
  Data data{fill(tokens * kHeads * kDim), fill(k_elements(cache)), fill(v_elements(cache)), {}};
  for (int32_t i = 0; i < kRequests * kColumns; ++i) data.block_table.push_back((i * 7) % (kRequests * kColumns));
  return data;
}

struct Batch {
  std::vector<int32_t> query_start_loc, seq_lens;
};

std::vector<float> run(const Ops& ops, const AttentionPlan& plan, const KvCacheSpec& cache, Data& data,
                       const Batch& batch, int64_t tokens) {
  std::vector<float> out(static_cast<size_t>(tokens * kHeads * kDim), -7.0f);
  std::vector<uint8_t> workspace(plan.workspace_bytes() + 256, 0xff);
  AttentionArgs args;
  args.q = make_view(data.q.data(), DType::kBF16, {tokens, kHeads, kDim});
  args.out = make_view(out.data(), DType::kF32, {tokens, kHeads, kDim});
  args.query_start_loc = batch.query_start_loc.data();
  args.seq_lens = batch.seq_lens.data();
  args.cache = make_kv_cache_view(cache, data.k.data(), data.v.data());
  args.block_table = data.block_table.data();
  args.block_table_stride = kColumns;
  const auto address = reinterpret_cast<uintptr_t>(workspace.data());
  args.workspace = workspace.data() + (256 - address % 256) % 256;
  const Status status = ops.run_attention(plan, args, {});
  EXPECT_TRUE(status.is_ok()) << status.message();
  return out;
}

void check(KernelFamily family, AttentionOp op, SplitPolicy split, const Batch& planned, const Batch& replayed) {
  const auto device = make_emulated_device();
  const Ops& ops = device->ops(family);
  KvCacheSpec cache;
  cache.num_blocks = kRequests * kColumns;
  cache.block_size = kBlockSize;
  cache.num_kv_heads = kKvHeads;
  cache.head_dim = cache.head_dim_v = kDim;
  const int64_t tokens = planned.query_start_loc.back();
  Data data = make_data(cache, tokens);
  AttentionPlanArgs args;
  args.op = op;
  args.spec = sextant::testing::mha_spec(kHeads, kKvHeads, kDim);
  args.cache = cache;
  args.split = split;
  args.out_dtype = DType::kF32;
  args.query_start_loc = planned.query_start_loc;
  args.seq_lens = planned.seq_lens;
  args.bounds = {.max_query_len = 40, .max_seq_len = kMaxLen};
  auto bounded = ops.plan_attention(args);
  ASSERT_OK(bounded);
  args.query_start_loc = replayed.query_start_loc;
  args.seq_lens = replayed.seq_lens;
  args.bounds = {};
  args.split = {.kind = SplitPolicy::Kind::kNone};
  auto fresh = ops.plan_attention(args);
  ASSERT_OK(fresh);
  const std::vector<float> got = run(ops, **bounded, cache, data, replayed, tokens);
  const std::vector<float> expected = run(ops, **fresh, cache, data, replayed, tokens);
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 2e-2f) << i;
}

TEST(HipReplay, OtherLengths) {
  SKIP_UNDER_SANITIZERS();
  using Kind = SplitPolicy::Kind;
  const Batch short_decode{{0, 1, 2, 3, 4, 5}, {1, 1, 1, 1, 1}}, decode{{0, 1, 2, 3, 4, 5}, {17, 400, 1, 133, 256}};
  const Batch prefill{{0, 40, 40, 60, 61, 64}, {40, 3, 20, 9, 3}}, mixed{{0, 1, 2, 30, 31, 64}, {400, 9, 300, 57, 33}};
  for (KernelFamily family : {KernelFamily::kPortable, KernelFamily::kTuned})
    for (AttentionOp op : {AttentionOp::kUnified, AttentionOp::kPagedDecode})
      for (SplitPolicy split : {SplitPolicy{}, SplitPolicy{Kind::kNone, 0}, SplitPolicy{Kind::kSegments, 5},
                                SplitPolicy{Kind::kPartition, 64}}) {
        check(family, op, split, short_decode, decode);
        check(family, op, split, prefill, mixed);
      }
}

}  // namespace
}  // namespace sextant::hip
