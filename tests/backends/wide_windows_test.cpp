// Windows and chunks that reach further than any context, as configs have them that mean "none": what a query sees must
// be what it sees without them, on every device that is there. Sums of positions and reaches leave 32 bits here.
#include <gtest/gtest.h>

#include <limits>

#include "support/cases.h"
#include "support/everywhere.h"
#include "support/paged_run.h"

namespace sextant {
namespace {

using testing::everywhere;
using testing::make_step;
using testing::PagedRun;
using testing::Step;
using testing::Where;

constexpr int32_t kMost = std::numeric_limits<int32_t>::max();

class WideWindows : public ::testing::TestWithParam<Where> {
 protected:
  void SetUp() override {
    if (!opened_) GTEST_SKIP() << "not run: " << opened_.status().message();
    device_ = *opened_;
  }
  std::vector<float> result(const AttentionSpec& spec) {
    const auto run = PagedRun::make(*device_, *GetParam().backend, spec, step_, {});
    EXPECT_OK(run);
    if (!run.is_ok()) return {};
    EXPECT_OK((*run)->load(step_));
    EXPECT_OK((*run)->launch({}));
    return (*run)->out().value();
  }
  void expect_equal(const AttentionSpec& wide, const AttentionSpec& none) {
    const std::vector<float> got = result(wide), expected = result(none);
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 2e-2F) << i;
  }

  bool is_mla() const { return GetParam().backend->info().category == BackendCategory::kMla; }
  Result<std::shared_ptr<Device>> opened_ = open_device(GetParam().device);
  std::shared_ptr<Device> device_;
  const Step step_ = make_step({{1, 40}, {1, 300}, {7, 90}, {40, 250}, {31, 31}}, 3);
};

TEST_P(WideWindows, OfPastKeys) {
  const AttentionSpec none = is_mla() ? testing::mla_spec(4) : testing::mha_spec(8, 2, 64);
  for (const int32_t window : {kMost, kMost - 1, 1 << 30}) {
    AttentionSpec wide = none;
    wide.sliding_window = window;
    expect_equal(wide, none);
  }
}

TEST_P(WideWindows, OnBothSides) {
  if (is_mla()) GTEST_SKIP() << "MLA is causal";
  AttentionSpec none = testing::mha_spec(8, 2, 64);
  none.causal = false;
  for (const int32_t reach : {kMost - 1, kMost - 300, 1 << 30}) {
    AttentionSpec wide = none;
    wide.window_right = reach;
    expect_equal(wide, none);
    wide.window_left = reach;
    expect_equal(wide, none);
  }
}

TEST_P(WideWindows, OneChunkOfAll) {
  if (is_mla()) GTEST_SKIP() << "MLA has no chunks";
  for (const bool causal : {true, false}) {
    AttentionSpec none = testing::mha_spec(8, 2, 64);
    none.causal = causal;
    AttentionSpec wide = none;
    wide.attention_chunk_size = kMost;
    expect_equal(wide, none);
  }
}

INSTANTIATE_TEST_SUITE_P(Everywhere, WideWindows, ::testing::ValuesIn(everywhere()), testing::name_of);

}  // namespace
}  // namespace sextant
