// Deterministic mode: where a caller's tensors begin decides how they can be loaded, and must not change a bit.
#include <gtest/gtest.h>

#include <random>

#include "devices/hip/emulator/emulated_device.h"
#include "support/cases.h"
#include "support/sanitizers.h"

namespace sextant::hip {
namespace {

std::vector<uint16_t> random_bf16(int64_t count) {
  std::mt19937 random(7);
  std::vector<uint16_t> values(static_cast<size_t>(count));
  for (uint16_t& x : values)
    x = static_cast<uint16_t>(0x3e80 + random() % 256 + (random() % 2) * 0x8000);  // +-0.25 to 1
  return values;
}

// Room for `values` from `shift` elements after an aligned place.
class Shifted {
 public:
  Shifted(const std::vector<uint16_t>& values, size_t shift) : room_(values.size() + shift + 128) {
    const size_t aligned = (256 - reinterpret_cast<uintptr_t>(room_.data()) % 256) % 256 / 2;
    data_ = room_.data() + aligned + shift;
    std::copy(values.begin(), values.end(), data_);
  }
  uint16_t* data() { return data_; }

 private:
  std::vector<uint16_t> room_;
  uint16_t* data_;
};

// In fp32: rounding to 16 bits hides another order of sums.
std::vector<float> run(const Ops& ops, AttentionPlanArgs plan_args, AttentionArgs args, int64_t tokens) {
  const AttentionSpec& s = plan_args.spec;
  std::vector<float> out(static_cast<size_t>(tokens * s.num_heads * s.value_head_dim()), -7.0F);
  args.out = make_view(out.data(), DType::kF32, {tokens, s.num_heads, s.value_head_dim()});
  plan_args.deterministic = true;
  plan_args.out_dtype = DType::kF32;
  auto plan = ops.plan_attention(plan_args);
  EXPECT_TRUE(plan.status().is_ok()) << plan.status().message();
  std::vector<char> workspace((*plan)->workspace_bytes() + 256);
  args.workspace = workspace.data() + (256 - reinterpret_cast<uintptr_t>(workspace.data()) % 256) % 256;
  const Status status = ops.run_attention(**plan, args, {});
  EXPECT_TRUE(status.is_ok()) << status.message();
  return out;
}

TEST(HipDeterministic, WherePackedTensorsBegin) {
  SKIP_UNDER_SANITIZERS();
  constexpr int32_t kTokens = 90, kHeads = 2, kDim = 64;
  const std::vector<int32_t> starts{0, kTokens}, lens{kTokens};
  const std::vector<uint16_t> q = random_bf16(kTokens * kHeads * kDim), k = random_bf16(kTokens * kDim);
  AttentionPlanArgs plan_args;
  plan_args.op = AttentionOp::kVarlen;
  plan_args.spec = sextant::testing::mha_spec(kHeads, 1, kDim);
  plan_args.query_start_loc = plan_args.key_start_loc = starts;
  plan_args.seq_lens = lens;
  plan_args.max_packed_keys = kTokens;
  const auto device = make_emulated_device();
  std::vector<std::vector<float>> results;
  for (size_t shift : {0, 1, 4}) {
    Shifted moved_q(q, shift), moved_k(k, shift);
    AttentionArgs args;
    args.q = make_view(moved_q.data(), DType::kBF16, {kTokens, kHeads, kDim});
    args.k = args.v = make_view(moved_k.data(), DType::kBF16, {kTokens, 1, kDim});
    args.query_start_loc = args.key_start_loc = starts.data();
    args.seq_lens = lens.data();
    results.push_back(run(device->ops(KernelFamily::kTuned), plan_args, args, kTokens));
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

// With a window the first key lies anywhere; without one both kernels make the same tiles.
TEST(HipDeterministic, WhereALatentCacheBegins) {
  SKIP_UNDER_SANITIZERS();
  constexpr int32_t kLen = 100, kBlock = 16, kBlocks = 7, kHeads = 4, kDim = 576;
  const std::vector<int32_t> starts{0, 1}, lens{kLen}, table{3, 0, 6, 1, 5, 2, 4};
  std::vector<uint16_t> q = random_bf16(kHeads * kDim);
  for (int32_t window : {0, 37}) {
    AttentionPlanArgs plan_args;
    plan_args.op = AttentionOp::kMlaDecode;
    plan_args.spec = sextant::testing::mha_spec(kHeads, 1, kDim);
    plan_args.spec.head_dim_v = 512;
    plan_args.spec.sliding_window = window;
    plan_args.cache.layout = KvLayout::kLatent;
    plan_args.cache.num_blocks = kBlocks;
    plan_args.cache.block_size = kBlock;
    plan_args.cache.num_kv_heads = 1;
    plan_args.cache.head_dim = kDim;
    plan_args.cache.head_dim_v = 512;
    plan_args.query_start_loc = starts;
    plan_args.seq_lens = lens;
    const std::vector<uint16_t> latents = random_bf16(k_elements(plan_args.cache));
    const auto device = make_emulated_device();
    std::vector<std::vector<float>> results;
    for (size_t shift : {0, 1}) {
      Shifted cache(latents, shift);
      AttentionArgs args;
      args.q = make_view(q.data(), DType::kBF16, {1, kHeads, kDim});
      args.query_start_loc = starts.data();
      args.seq_lens = lens.data();
      args.cache = make_kv_cache_view(plan_args.cache, cache.data(), nullptr);
      args.block_table = table.data();
      args.block_table_stride = kBlocks;
      results.push_back(run(device->ops(KernelFamily::kTuned), plan_args, args, 1));
    }
    EXPECT_EQ(results[0], results[1]) << "window " << window;
  }
}

}  // namespace
}  // namespace sextant::hip
