// Bad input to single ops: a clear error, nothing written, no crash.
#include <gtest/gtest.h>

#include <cmath>

#include "support/cases.h"

namespace sextant {
namespace {

using testing::cpu;

struct OpErrors : ::testing::Test {
  KvCacheSpec spec;
  std::vector<float> k_memory, v_memory, k = std::vector<float>(4 * 2 * 8, 1), v = k;
  std::vector<int64_t> slots{0, 1, 2, 3};
  ReshapeAndCacheArgs write;
  const Ops& ops = cpu()->ops(KernelFamily::kTuned);

  OpErrors() {
    spec.dtype = DType::kF32;
    spec.num_blocks = 2;
    spec.block_size = 4;
    spec.num_kv_heads = 2;
    spec.head_dim = spec.head_dim_v = 8;
    k_memory.assign(static_cast<size_t>(k_elements(spec)), 5);
    v_memory = k_memory;
    write = {make_view(k.data(), DType::kF32, {4, 2, 8}), make_view(v.data(), DType::kF32, {4, 2, 8}), slots.data(), 4,
             make_kv_cache_view(spec, k_memory.data(), v_memory.data())};
  }
  void expect_refused(const std::string& fragment) {
    EXPECT_ERROR(ops.reshape_and_cache(write, {}), StatusCode::kInvalidArgument, fragment);
    for (float x : k_memory) ASSERT_EQ(x, 5.0F);
    for (float x : v_memory) ASSERT_EQ(x, 5.0F);
  }
};

TEST_F(OpErrors, SlotOutOfRange) {
  slots[2] = 8;
  expect_refused("slot_mapping[2] is 8; allowed: < 8");
}

TEST_F(OpErrors, OverlappingSlots) {
  slots[3] = 1;
  expect_refused("slot_mapping[3] is 1; allowed: a slot of its own");
}

TEST_F(OpErrors, WrongShape) {
  write.k = make_view(k.data(), DType::kF32, {4, 2, 16});
  expect_refused("k is fp32[4, 2, 16]; allowed: [*, 2, 8]");
}

TEST_F(OpErrors, TooFewRows) {
  write.num_tokens = 5;
  expect_refused("k is fp32[4, 2, 8]; allowed: at least 5 rows");
}

TEST_F(OpErrors, WrongType) {
  write.v.dtype = DType::kF16;
  expect_refused("v has dtype fp16; a fp32 cache allows fp32");
}

TEST_F(OpErrors, WrongStride) {
  write.v.stride[2] = 2;
  expect_refused("v has last stride 2; allowed: 1");
}

TEST_F(OpErrors, NanScale) {
  spec.dtype = DType::kF8E4M3FN;
  const float scale = NAN;
  write.cache = make_kv_cache_view(spec, k_memory.data(), v_memory.data());
  write.cache.k_scale = &scale;
  expect_refused("cache.k_scale[0] is nan; allowed: finite, > 0");
}

TEST_F(OpErrors, NullCache) {
  write.cache.k = nullptr;
  expect_refused("cache.k is null");
}

TEST_F(OpErrors, CopyBlocksOutOfRange) {
  const int64_t mapping[] = {0, 2};
  EXPECT_ERROR(ops.copy_blocks({write.cache, mapping, 1}, {}), StatusCode::kInvalidArgument,
               "mapping[0][1] is 2; allowed: 0..1");
}

TEST_F(OpErrors, AttentionPlan) {
  const int32_t query_start_loc[] = {0, 1}, seq_lens[] = {4};
  AttentionPlanArgs args;
  args.spec = testing::mha_spec(4, 2, 8, DType::kF32);
  args.cache = spec;
  args.query_start_loc = query_start_loc;
  args.seq_lens = seq_lens;
  args.out_dtype = DType::kF32;
  EXPECT_OK(ops.plan_attention(args));
  AttentionPlanArgs bad = args;
  bad.spec.head_dim = 12;
  EXPECT_ERROR(ops.plan_attention(bad), StatusCode::kInvalidArgument,
               "spec.head_dim is 12; allowed: 8..512 in steps of 8");
  bad = args;
  bad.spec.num_kv_heads = 3;
  EXPECT_ERROR(ops.plan_attention(bad), StatusCode::kInvalidArgument,
               "spec.num_kv_heads is 3; allowed: a divisor of num_heads (4)");
  bad = args;
  bad.spec.softmax_scale = INFINITY;
  EXPECT_ERROR(ops.plan_attention(bad), StatusCode::kInvalidArgument, "spec.softmax_scale is inf");
  bad = args;
  bad.op = AttentionOp::kMlaDecode;
  EXPECT_ERROR(ops.plan_attention(bad), StatusCode::kInvalidArgument, "mla_decode allows 1");
  bad = args;
  bad.split = {.kind = SplitPolicy::Kind::kSegments, .value = 0};
  EXPECT_ERROR(ops.plan_attention(bad), StatusCode::kInvalidArgument, "split.value is 0");
}

TEST_F(OpErrors, BlockIdOutOfRangeAtRunTime) {
  const int32_t query_start_loc[] = {0, 1}, seq_lens[] = {6}, table[] = {0, 9};
  AttentionPlanArgs args;
  args.spec = testing::mha_spec(4, 2, 8, DType::kF32);
  args.cache = spec;
  args.query_start_loc = query_start_loc;
  args.seq_lens = seq_lens;
  args.out_dtype = DType::kF32;
  auto plan = ops.plan_attention(args);
  ASSERT_OK(plan);
  std::vector<float> q(32, 1), out(32, 5);
  std::vector<std::byte> workspace((*plan)->workspace_bytes() + 256);
  AttentionArgs run;
  run.q = make_view(q.data(), DType::kF32, {1, 4, 8});
  run.out = make_view(out.data(), DType::kF32, {1, 4, 8});
  run.cache = write.cache;
  run.block_table = table;
  run.block_table_stride = 2;
  run.query_start_loc = query_start_loc;
  run.seq_lens = seq_lens;
  run.workspace = workspace.data();
  EXPECT_ERROR(ops.run_attention(**plan, run, {}), StatusCode::kInvalidArgument,
               "block_table[0][1] is 9; allowed: 0..1 (num_blocks 2)");
  for (float x : out) EXPECT_EQ(x, 5.0F);
}

}  // namespace
}  // namespace sextant
