// mla_decode with fp8 queries, on devices that convert them.
#include <cmath>

#include "support/everywhere.h"
#include "support/matchers.h"
#include "support/mla_decode.h"
#include "support/sanitizers.h"

namespace sextant {
namespace {

using testing::MlaDecode;
using testing::MlaDecodeCase;

constexpr DType kE4M3 = DType::kF8E4M3FN, kFnuz = DType::kF8E4M3FNUZ, kE5M2 = DType::kF8E5M2;

class MlaFp8Queries : public ::testing::TestWithParam<DeviceKind> {
 protected:
  void SetUp() override {
    auto device = open_device(GetParam());
    if (!device.is_ok()) GTEST_SKIP() << device.status().message();
    device_ = *device;
    if (GetParam() == DeviceKind::kHipEmulated) SKIP_UNDER_SANITIZERS();
  }
  std::shared_ptr<Device> device_;
};

std::vector<MlaDecodeCase> small_cases() {
  const std::vector<verify::RequestShape> requests = {{1, 40}, {2, 17}, {0, 0}, {3, 3}, {1, 1}};
  std::vector<MlaDecodeCase> cases;
  const auto add = [&](DType queries, DType cache, DType dtype) -> MlaDecodeCase& {
    MlaDecodeCase c;
    c.requests = requests;
    c.heads = 4;
    c.rank = 64;
    c.rope = 16;
    c.block_size = 16;
    c.queries = queries;
    c.cache = cache;
    c.dtype = c.out_dtype = dtype;
    if (!is_fp8(cache)) c.kv_scale = 0;
    cases.push_back(c);
    return cases.back();
  };
  for (const DType queries : {kE4M3, kFnuz, kE5M2})
    for (const DType cache : {kE4M3, kE5M2, DType::kBF16}) add(queries, cache, DType::kBF16);
  add(kE4M3, kE4M3, DType::kF16);
  add(kE4M3, kFnuz, DType::kF16);
  add(kE5M2, DType::kF32, DType::kF32);
  add(kE4M3, kE4M3, DType::kF32);
  add(kE4M3, kE4M3, DType::kBF16).out_dtype = DType::kF32;
  add(kE4M3, kE4M3, DType::kBF16).q_scale = 0;  // 1
  add(kE4M3, kE4M3, DType::kBF16).row_padding = 3;
  add(kE4M3, kE4M3, DType::kBF16).change = [](AttentionPlanArgs& a) {
    a.spec.sliding_window = 9;
    a.spec.logits_soft_cap = 5;
    a.spec.has_sinks = a.spec.has_alibi = true;
  };
  add(kE4M3, kE4M3, DType::kBF16).change = [](AttentionPlanArgs& a) { a.deterministic = true; };
  return cases;
}

TEST_P(MlaFp8Queries, SayWhatTheOracleSays) {
  for (const MlaDecodeCase& test : small_cases())
    for (const KernelFamily family : {KernelFamily::kPortable, KernelFamily::kTuned}) {
      MlaDecode decode(test);
      ASSERT_OK(decode.run(*device_, family));
      const MlaDecode::Errors errors = decode.errors(40);
      const bool fp32 = test.dtype == DType::kF32;
      SCOPED_TRACE(std::string(to_string(test.queries)) + " over " + to_string(test.cache) + ": " + decode.plan());
      EXPECT_LT(errors.out, fp32 ? 1e-5 : 8e-3);
      EXPECT_LT(errors.lse, fp32 ? 1e-4 : 2e-2);
    }
}

// bf16 and fp32 hold every fp8 number times a power of two: queries that the caller converted give the same bits.
TEST_P(MlaFp8Queries, AreTheQueriesThatTheyStandFor) {
  for (const MlaDecodeCase& test : small_cases()) {
    if (test.dtype == DType::kF16) continue;
    MlaDecode fp8(test), plain = fp8.with_plain_queries();
    ASSERT_OK(fp8.run(*device_, KernelFamily::kTuned));
    ASSERT_OK(plain.run(*device_, KernelFamily::kTuned));
    EXPECT_EQ(fp8.plan(), std::string("queries to ") + to_string(test.dtype) + "; " + plain.plan());
    EXPECT_EQ(fp8.bytes(), plain.bytes()) << to_string(test.queries) << " over " << to_string(test.cache);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, MlaFp8Queries, ::testing::Values(DeviceKind::kCpu, DeviceKind::kHipEmulated),
                         [](const auto& device) {
                           return std::string(device.param == DeviceKind::kCpu ? "cpu" : "hip_emulated");
                         });

TEST(MlaFp8QueriesErrors, NameTheField) {
  const std::shared_ptr<Device> device = open_device(DeviceKind::kCpu).value();
  const Ops& ops = device->ops(KernelFamily::kTuned);
  const std::vector<int32_t> starts = {0, 1}, lens = {5}, table = {0};
  AttentionPlanArgs plan_args;
  plan_args.op = AttentionOp::kMlaDecode;
  plan_args.spec.num_heads = 4;
  plan_args.spec.num_kv_heads = 1;
  plan_args.spec.head_dim = 24;
  plan_args.spec.head_dim_v = 16;
  plan_args.spec.softmax_scale = 0.2F;
  plan_args.spec.query_dtype = DType::kI32;
  plan_args.cache = {KvLayout::kLatent, kE4M3, 1, 16, 1, 24, 16};
  plan_args.query_start_loc = starts;
  plan_args.seq_lens = lens;
  EXPECT_ERROR(ops.plan_attention(plan_args), StatusCode::kInvalidArgument,
               "spec.query_dtype is int32; allowed: bf16 (spec.dtype) or fp8_*");
  plan_args.spec.query_dtype = kE4M3;
  EXPECT_OK(ops.supports(plan_args));
  const auto plan = ops.plan_attention(plan_args);
  ASSERT_OK(plan);
  std::vector<uint8_t> q(4 * 24), cache(16 * 24), out(4 * 16 * 2, 0xAB), memory((*plan)->workspace_bytes() + 512);
  const std::vector<uint8_t> untouched = out;
  AttentionArgs args;
  args.q = make_view(q.data(), kE4M3, {1, 4, 24});
  args.out = make_view(out.data(), DType::kBF16, {1, 4, 16});
  args.cache = make_kv_cache_view(plan_args.cache, cache.data(), nullptr);
  args.block_table = table.data();
  args.block_table_stride = 1;
  EXPECT_ERROR(ops.run_attention(**plan, args, {}), StatusCode::kInvalidArgument, "workspace is null");
  args.workspace = memory.data() + 256 - reinterpret_cast<uintptr_t>(memory.data()) % 256;
  const float scales[] = {NAN, 1};
  args.q_scale = scales;
  EXPECT_ERROR(ops.run_attention(**plan, args, {}), StatusCode::kInvalidArgument, "q_scale");
  args.q_scale = scales + 1;
  args.num_q_scales = 4;
  EXPECT_ERROR(ops.run_attention(**plan, args, {}), StatusCode::kInvalidArgument, "num_q_scales is 4; allowed: 1");
  args.num_q_scales = 1;
  args.q.dtype = DType::kBF16;
  EXPECT_ERROR(ops.run_attention(**plan, args, {}), StatusCode::kInvalidArgument, "q");
  EXPECT_EQ(out, untouched);
  args.q.dtype = kE4M3;
  EXPECT_OK(ops.run_attention(**plan, args, {}));
  EXPECT_NE(out, untouched);
}

}  // namespace
}  // namespace sextant
