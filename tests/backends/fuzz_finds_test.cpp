// What scripts/fuzz and long runs of `verify --random` found, each once.
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "sextant/device.h"
#include "support/isas.h"
#include "support/matchers.h"
#include "verify/random/run_random.h"

namespace sextant {
namespace {

verify::RandomCase plain_case(const char* backend) {
  verify::RandomCase test;
  test.backend = backend;
  test.spec.num_heads = 4;
  test.spec.num_kv_heads = 2;
  test.spec.head_dim = test.spec.head_dim_v = 16;
  test.spec.softmax_scale = 0.25F;
  test.requests = {{3, 40}, {1, 17}, {5, 5}};
  return test;
}

TEST(FuzzFinds, EveryRequestMayTakeTheDecodePath) {
  auto device = open_device(DeviceKind::kCpu);
  ASSERT_OK(device);
  for (const char* backend : {"ROCM_ATTN", "ROCM_AITER_FA"}) {
    verify::RandomCase test = plain_case(backend);
    test.options.decode_max_query_len = std::numeric_limits<int32_t>::max();
    const verify::RandomVerdict verdict = verify::run_random_case(**device, test, {});
    EXPECT_EQ(verdict.kind, verify::RandomVerdict::Kind::kPassed) << backend << ": " << verdict.message;
  }
}

TEST(FuzzFinds, ASharedPrefixWithoutATableOnTheHost) {
  auto device = open_device(DeviceKind::kCpu);
  ASSERT_OK(device);
  verify::RandomCase test = plain_case("TRITON_ATTN");
  test.requests = {{1, 40}, {2, 60}};
  test.shared_prefix_len = 32;
  test.host_tables = false;
  const verify::RandomVerdict verdict = verify::run_random_case(**device, test, {});
  EXPECT_EQ(verdict.kind, verify::RandomVerdict::Kind::kPassed) << verdict.message;
}

TEST(FuzzFinds, NobodyHasThousandsOfMillionsOfHeads) {
  AttentionSpec spec = plain_case("TRITON_ATTN").spec;
  spec.num_heads = 2000000000;
  EXPECT_ERROR(validate(spec), StatusCode::kInvalidArgument, "spec.num_heads is 2000000000; allowed: 1..16384");
}

// One request of 1.8 thousand million keys, which one block of as many tokens allows.
struct HugeContext {
  HugeContext(const char* backend, int32_t query_len) : query_start_loc{0, query_len} {
    request.spec = plain_case(backend).spec;
    request.cache = {KvLayout::kNHD, DType::kBF16, 1, 1830426888, 2, 16, 16, KvScales::kShared};
    request.batch.query_start_loc = query_start_loc;
    request.batch.seq_lens = seq_lens;
    request.batch.block_table = block_table;
    request.batch.max_blocks_per_request = 1;
  }
  HugeContext(const HugeContext&) = delete;  // the request looks at the arrays
  HugeContext& operator=(const HugeContext&) = delete;

  const std::vector<int32_t> query_start_loc, seq_lens = {1800000000}, block_table = {0};
  PlanRequest request;
};

// A plan of 10^5 chunks took seconds and gigabytes.
TEST(FuzzFinds, AContextOfThousandsOfMillionsOfKeys) {
  auto device = open_device(DeviceKind::kCpu);
  ASSERT_OK(device);
  const Backend* backend = find_backend("ROCM_AITER_FA").value();
  HugeContext huge("ROCM_AITER_FA", 4);
  PlanRequest& request = huge.request;
  EXPECT_OK(backend->plan(**device, request));  // in chunks as long as it takes
  request.options.chunk_workspace_rows = 64;
  EXPECT_ERROR(backend->plan(**device, request), StatusCode::kInvalidArgument, "at most 4096 chunks");
  request.options.chunk_workspace_rows = 0;
  request.options.deterministic = true;
  EXPECT_ERROR(backend->plan(**device, request), StatusCode::kInvalidArgument, "at most 4096 chunks");
}

// Partitions of 256 keys made millions of items a head, in half a minute and gigabytes.
TEST(FuzzFinds, HugeContextsAreNotPlannedInMillionsOfParts) {
  auto device = open_device(DeviceKind::kCpu);
  ASSERT_OK(device);
  const HugeContext huge("ROCM_ATTN", 1);
  const auto plan = find_backend("ROCM_ATTN").value()->plan(**device, huge.request);
  ASSERT_OK(plan);
  EXPECT_LT((*plan)->workspace_bytes(), size_t{1} << 30);
}

// AMX multiplies 96 dims of 72; behind those that blocks of an odd size brought together lay what scratch held before.
TEST(RandomFinds, PackedKeysOfOddBlocksEndAtTheHeadSize) {
  for (const std::string& isa : testing::available_isas()) {
    SCOPED_TRACE(isa);
    CpuOptions options;
    options.isa = isa;
    auto device = make_cpu_device(options);
    ASSERT_OK(device);
    const auto test = verify::parse_random_case(
        R"({"backend":"ROCM_AITER_UNIFIED_ATTN","num_heads":48,"num_kv_heads":3,"head_dim":72,"head_dim_v":72,)"
        R"("softmax_scale":0.1178511306643486,"layout":"packed","block_size":271,"requests":"8q1s1_q4s7",)"
        R"("magnitude":4.0,"relation":"chunked","seed":2535535000})");
    ASSERT_OK(test);
    const verify::RandomVerdict verdict = verify::run_random_case(**device, *test, {});
    EXPECT_EQ(verdict.kind, verify::RandomVerdict::Kind::kPassed) << verdict.message;
  }
}

// ALiBi over a thousand positions puts every score thousands below the sink: the judge's own exponential ran over.
TEST(RandomFinds, ASinkFarAboveEveryScore) {
  auto device = open_device(DeviceKind::kCpu);
  ASSERT_OK(device);
  const auto test = verify::parse_random_case(
      R"({"op":"mla_decode","key_end":6,"num_heads":32,"num_kv_heads":1,"head_dim":576,"head_dim_v":512,)"
      R"("softmax_scale":0.0416666679084301,"has_sinks":true,"has_alibi":true,"layout":"latent","requests":"q1s1023",)"
      R"("lse_out":true,"writes":false,"host_tables":false,"seed":601168714})");
  ASSERT_OK(test);
  const verify::RandomVerdict verdict = verify::run_random_case(**device, *test, {});
  EXPECT_EQ(verdict.kind, verify::RandomVerdict::Kind::kPassed) << verdict.message;
}

}  // namespace
}  // namespace sextant
