// Machines without a driver, wrong block ids on the host, and wrong ids that only the device sees.
#include <algorithm>
#include <limits>

#include "cuda/gpu.h"
#include "support/cases.h"
#include "support/paged_run.h"

namespace sextant {
namespace {

using testing::gpu;
using testing::kColumns;
using testing::kNumBlocks;
using testing::make_step;
using testing::PagedRun;
using testing::Step;

DeviceReport cuda_report() {
  for (DeviceReport& report : list_devices())
    if (report.kind == DeviceKind::kCuda) return report;
  return {};
}

TEST(CudaWithoutGpu, SaysWhatIsMissing) {
  if (gpu()) GTEST_SKIP() << "not run: this machine has a GPU";
  EXPECT_ERROR(gpu(), StatusCode::kUnavailable, "device cuda is not available: ");
  const DeviceReport report = cuda_report();
  EXPECT_TRUE(report.built);
  EXPECT_FALSE(report.available);
  EXPECT_TRUE(report.devices.empty());
  EXPECT_NE(report.reason.find("driver"), std::string::npos) << report.reason;
}

TEST(CudaWithGpu, IsListedAndKnowsItsIndices) {
  SKIP_WITHOUT_GPU();
  const DeviceReport report = cuda_report();
  EXPECT_TRUE(report.built && report.available) << report.reason;
  ASSERT_FALSE(report.devices.empty());
  EXPECT_EQ(report.devices[0].architecture.rfind("sm_", 0), 0u);
  EXPECT_ERROR(open_device(DeviceKind::kCuda, 99), StatusCode::kInvalidArgument, "device index is 99; cuda allows 0..");
  EXPECT_ERROR((*gpu())->allocate(size_t{1} << 50), StatusCode::kResourceExhausted, "cudaMalloc of 1125899906842624");
}

class CudaBlockTable : public ::testing::TestWithParam<const Backend*> {
 protected:
  void SetUp() override { SKIP_WITHOUT_GPU(); }
  AttentionSpec spec() const {
    return GetParam()->info().category == BackendCategory::kMla ? testing::mla_spec(4) : testing::mha_spec(8, 2, 64);
  }
};

TEST_P(CudaBlockTable, WrongIdsAreRefusedOnTheHost) {
  const Step good = make_step({{1, 100}, {1, 400}, {3, 50}, {40, 40}, {20, 90}}, 7);
  Step bad = good;
  bad.block_table[kColumns + 2] = kNumBlocks;
  EXPECT_ERROR(PagedRun::make(**gpu(), *GetParam(), spec(), bad, {}), StatusCode::kInvalidArgument,
               "block_table[1][2] is 130; allowed: 0..129");
  bad = good;
  bad.slot_mapping[4] = int64_t{1} << 40;
  EXPECT_ERROR(PagedRun::make(**gpu(), *GetParam(), spec(), bad, {}), StatusCode::kInvalidArgument, "slot_mapping[4]");
}

// One request's ids and slots are wrong, and no host has seen them: no memory outside the cache is touched, the other
// requests' results stay.
TEST_P(CudaBlockTable, WrongIdsOnTheDeviceAreHarmless) {
  const Step good = make_step({{1, 100}, {1, 400}, {3, 50}, {40, 40}, {20, 90}}, 8);
  auto made = PagedRun::make(**gpu(), *GetParam(), spec(), good, {}, /*host_tables=*/false);
  ASSERT_OK(made);
  PagedRun& run = **made;
  ASSERT_OK(run.launch({}));
  const std::vector<float> expected = run.out().value();
  Step bad = good;
  constexpr int32_t kWrong[] = {std::numeric_limits<int32_t>::max(), -7, kNumBlocks,
                                std::numeric_limits<int32_t>::min()};
  for (int32_t i = 0; i < kColumns; ++i) {
    bad.block_table[static_cast<size_t>(kColumns + i)] = kWrong[i % 4];      // request 1: decode
    bad.block_table[static_cast<size_t>(4 * kColumns + i)] = kWrong[i % 4];  // request 4: extend
  }
  const int64_t slots = int64_t{kNumBlocks} * testing::kBlockSize;
  bad.slot_mapping[1] = slots;
  for (size_t t = 45; t < 65; ++t) bad.slot_mapping[t] = t % 2 == 0 ? slots + 64 : int64_t{1} << 50;
  ASSERT_OK(run.load(bad));
  ASSERT_OK(run.launch({}));
  ASSERT_OK((*gpu())->synchronize({}));
  EXPECT_TRUE(run.guards_intact().value());
  const std::vector<float> got = run.out().value();
  for (int64_t row = 0; row < 45; ++row) {
    if (row == 1) continue;
    const int64_t first = row * run.row_elements();
    EXPECT_TRUE(std::equal(got.begin() + first, got.begin() + first + run.row_elements(), expected.begin() + first))
        << "row " << row;
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, CudaBlockTable, ::testing::ValuesIn(all_backends().begin(), all_backends().end()),
                         [](const auto& backend) { return backend.param->info().name; });

}  // namespace
}  // namespace sextant
