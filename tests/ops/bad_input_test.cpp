// Bad input to single ops: a clear error, nothing written, no crash.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

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

// Of a plan, where it must lie; never null.
class Workspace {
 public:
  explicit Workspace(const AttentionPlan& plan) : memory_(plan.workspace_bytes() + 512) {}
  std::byte* data() { return memory_.data() + 256 - reinterpret_cast<uintptr_t>(memory_.data()) % 256; }

 private:
  std::vector<std::byte> memory_;
};

TEST_F(OpErrors, CopiedBlocksAreWrittenOnceAndNotRead) {
  const int64_t twice[] = {0, 1, 0, 1}, chain[] = {0, 1, 1, 0};
  EXPECT_ERROR(ops.copy_blocks({write.cache, twice, 2}, {}), StatusCode::kInvalidArgument,
               "mapping[1][1] is 1; allowed: a block that no other pair writes");
  EXPECT_ERROR(ops.copy_blocks({write.cache, chain, 2}, {}), StatusCode::kInvalidArgument,
               "mapping[0][0] is 0; allowed: a block that no pair writes");
}

TEST_F(OpErrors, CacheWithoutStrides) {
  write.cache.k_addr = {};
  expect_refused("cache.k_addr puts two elements at one place");
  write.cache = make_kv_cache_view(spec, k_memory.data(), k_memory.data());
  expect_refused("cache.v (cache.k's memory)");
}

TEST_F(OpErrors, GatheredTokensAreInTheTable) {
  const int32_t table[] = {1}, key_start_loc[] = {0, 2}, before[] = {-3};
  std::vector<float> k_rows(2 * 2 * 8, 5), v_rows = k_rows;
  GatherCacheArgs gather;
  gather.cache = write.cache;
  gather.block_table = table;
  gather.block_table_stride = 1;
  gather.num_requests = 1;
  gather.key_start_loc = key_start_loc;
  gather.max_rows = 2;
  gather.k = make_view(k_rows.data(), DType::kF32, {2, 2, 8});
  gather.v = make_view(v_rows.data(), DType::kF32, {2, 2, 8});
  for (const int64_t begin : {int64_t{3}, std::numeric_limits<int64_t>::max() - 1}) {
    gather.chunk_begin = begin;
    EXPECT_ERROR(ops.gather_cache(gather, {}), StatusCode::kInvalidArgument,
                 "; allowed: at most 4 (the row of block_table)");
  }
  gather.chunk_begin = 0;
  gather.seq_lens = before;
  EXPECT_ERROR(ops.gather_cache(gather, {}), StatusCode::kInvalidArgument, "seq_lens[0] is -3; allowed: >= 0");
  gather.seq_lens = nullptr;
  gather.k.stride[0] = 0;
  EXPECT_ERROR(ops.gather_cache(gather, {}), StatusCode::kInvalidArgument, "give every element a place");
  for (const auto* rows : {&k_rows, &v_rows})
    for (const float x : *rows) ASSERT_EQ(x, 5.0F);
}

TEST_F(OpErrors, FilteredRequestsAreRowsOfTheStates) {
  const int32_t query_start_loc[] = {0, 1, 3}, falling[] = {0, 2, 1}, seq_lens[] = {1, 2};
  std::vector<float> state(2 * 2 * 8, 1), lse(2 * 2), out(2 * 2 * 8, 5);
  MergeAttnStatesArgs merge;
  merge.prefix_out = merge.suffix_out = make_view(state.data(), DType::kF32, {2, 2, 8});
  merge.prefix_lse = merge.suffix_lse = make_view(lse.data(), DType::kF32, {2, 2});
  merge.out = make_view(out.data(), DType::kF32, {2, 2, 8});
  merge.query_start_loc = query_start_loc;
  merge.seq_lens = seq_lens;
  merge.num_requests = 2;
  EXPECT_ERROR(ops.merge_attn_states(merge, {}), StatusCode::kInvalidArgument,
               "query_start_loc[2] is 3; allowed: at most 2 (the rows of out)");
  merge.query_start_loc = falling;
  EXPECT_ERROR(ops.merge_attn_states(merge, {}), StatusCode::kInvalidArgument,
               "query_start_loc[2] is 1; allowed: >= 2");
  int32_t key_start_loc[] = {7, 7, 7};
  EXPECT_ERROR(ops.context_chunk_offsets({falling, seq_lens, 2, {}, 0, 8, key_start_loc}, {}),
               StatusCode::kInvalidArgument, "query_start_loc[2] is 1; allowed: >= 2");
  EXPECT_EQ(key_start_loc[0], 7);
  for (const float x : out) ASSERT_EQ(x, 5.0F);
}

// Of the device that reads what the host reads, and of the emulated one.
TEST_F(OpErrors, PackedKeysAreThoseOfThePlanAndInTheirRows) {
  for (const DeviceKind kind : {DeviceKind::kCpu, DeviceKind::kHipEmulated}) {
    const auto device = open_device(kind);
    if (!device) continue;
    const Ops& own = (*device)->ops(KernelFamily::kPortable);
    const int32_t query_start_loc[] = {0, 1, 2}, key_start_loc[] = {0, 2, 4}, seq_lens[] = {2, 2};
    AttentionPlanArgs args;
    args.op = AttentionOp::kVarlen;
    args.spec = testing::mha_spec(4, 2, 8, DType::kF32);
    args.query_start_loc = query_start_loc;
    args.seq_lens = seq_lens;
    args.key_start_loc = key_start_loc;
    args.max_packed_keys = 4;
    args.out_dtype = DType::kF32;
    std::vector<float> q(2 * 4 * 8, 1), out(2 * 4 * 8, 5);
    AttentionArgs run;
    run.q = make_view(q.data(), DType::kF32, {2, 4, 8});
    run.out = make_view(out.data(), DType::kF32, {2, 4, 8});
    run.k = write.k;
    run.v = write.v;
    run.query_start_loc = query_start_loc;
    run.seq_lens = seq_lens;
    const auto expect = [&](std::initializer_list<int32_t> starts, const char* message) {
      const std::vector<int32_t> now = starts;
      run.key_start_loc = now.data();
      auto plan = own.plan_attention(args);
      ASSERT_OK(plan);
      Workspace workspace(**plan);
      run.workspace = workspace.data();
      EXPECT_ERROR(own.run_attention(**plan, run, {}), StatusCode::kInvalidArgument, message);
    };
    expect({0, 1, 4}, "key_start_loc[1] is 1; allowed: 2, as planned");
    args.bounds = {1, 4};
    expect({0, 2, 5}, "key_start_loc[2] is 5; allowed: 2..4 (the rows of k and v)");
    expect({0, 2, 1}, "key_start_loc[2] is 1; allowed: 2..4");
    expect({-1, 2, 4}, "key_start_loc[0] is -1; allowed: 0..4");
    const int32_t longer[] = {2, 9};
    run.seq_lens = longer;
    expect({0, 2, 4}, "seq_lens[1] is 9; allowed: <= 4");
    for (const float x : out) ASSERT_EQ(x, 5.0F);
  }
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
  Workspace workspace(**plan);
  AttentionArgs run;
  run.q = make_view(q.data(), DType::kF32, {1, 4, 8});
  run.out = make_view(out.data(), DType::kF32, {1, 4, 8});
  run.cache = write.cache;
  run.block_table = table;
  run.block_table_stride = 2;
  run.query_start_loc = query_start_loc;
  run.seq_lens = seq_lens;
  run.workspace = workspace.data() + 64;
  EXPECT_ERROR(ops.run_attention(**plan, run, {}), StatusCode::kInvalidArgument, "allowed: a multiple of 256 bytes");
  run.workspace = workspace.data();
  EXPECT_ERROR(ops.run_attention(**plan, run, {}), StatusCode::kInvalidArgument,
               "block_table[0][1] is 9; allowed: 0..1 (num_blocks 2)");
  for (float x : out) EXPECT_EQ(x, 5.0F);
}

}  // namespace
}  // namespace sextant
