// Spans that are wrong, or that change between runs of one plan, on every device that is there.
#include <gtest/gtest.h>

#include <cmath>

#include "support/cases.h"
#include "support/everywhere.h"
#include "support/paged_run.h"
#include "verify/device_buffer.h"

namespace sextant {
namespace {

using testing::everywhere;
using testing::make_step;
using testing::PagedRun;
using testing::Step;
using testing::Where;

class Spans : public ::testing::TestWithParam<Where> {
 protected:
  void SetUp() override {
    if (!opened_) GTEST_SKIP() << "not run: " << opened_.status().message();
    device_ = *opened_;
    const bool mla = GetParam().backend->info().category == BackendCategory::kMla;
    spec_ = mla ? testing::mla_spec(4) : testing::mha_spec(8, 2, 64);
    spec_.sliding_window = 20;
    spec_.max_span_len = 30;
  }
  std::unique_ptr<PagedRun> make(const AttentionSpec& spec) {
    auto run = PagedRun::make(*device_, *GetParam().backend, spec, step_, {});
    EXPECT_OK(run);
    return run.is_ok() ? std::move(*run) : nullptr;
  }
  // Puts spans on the device: those of tokens [first, first + count), none for others.
  void put(PagedRun& run, int32_t first, int32_t count, TokenSpan span) {
    std::vector<TokenSpan> spans(static_cast<size_t>(step_.query_start_loc.back()));
    for (int32_t t = first; t < first + count; ++t) spans[static_cast<size_t>(t)] = span;
    auto memory = DeviceBuffer::make(*device_, spans.data(), spans.size() * sizeof(TokenSpan));
    ASSERT_OK(memory);
    memory_ = std::move(*memory);
    run.tensors().token_spans = memory_.as<int32_t>();
  }
  std::vector<float> result(PagedRun& run) {
    EXPECT_OK(run.load(step_));
    EXPECT_OK(run.launch({}));
    return run.out().value();
  }

  Result<std::shared_ptr<Device>> opened_ = open_device(GetParam().device);
  std::shared_ptr<Device> device_;
  AttentionSpec spec_;
  const Step step_ = make_step({{1, 40}, {1, 300}, {1, 9}, {30, 250}, {31, 31}}, 3);
  DeviceBuffer memory_;
};

// The plan does not know them: they are those of the run. Without any the result is that of a spec without spans.
TEST_P(Spans, AreThoseOfTheRun) {
  const auto run = make(spec_);
  AttentionSpec plain = spec_;
  plain.max_span_len = 0;
  const auto without = make(plain);
  ASSERT_TRUE(run != nullptr && without != nullptr);
  const std::vector<float> expected = result(*without);
  const auto rows_that_differ = [&](const std::vector<float>& got) {
    std::vector<int64_t> rows;
    for (int64_t row = 0; row < step_.query_start_loc.back(); ++row) {
      float largest = 0;
      for (int64_t i = row * run->row_elements(); i < (row + 1) * run->row_elements(); ++i)
        largest = std::max(largest, std::fabs(got[static_cast<size_t>(i)] - expected[static_cast<size_t>(i)]));
      if (!(largest < 0.02F)) rows.push_back(row);
    }
    return rows;
  };
  put(*run, 0, 0, {});
  EXPECT_EQ(rows_that_differ(result(*run)), std::vector<int64_t>{});
  put(*run, 3, 11, {216, 231});  // rows 3 to 13 are request 3's tokens at 220 to 230
  const std::vector<int64_t> rows = rows_that_differ(result(*run));
  EXPECT_GE(rows.size(), 6u);
  for (int64_t row : rows) EXPECT_TRUE(row >= 3 && row < 14) << row;
  put(*run, 0, 0, {});
  EXPECT_EQ(rows_that_differ(result(*run)), std::vector<int64_t>{});
}

TEST_P(Spans, WrongOnesAreRefused) {
  const auto run = make(spec_);
  ASSERT_NE(run, nullptr);
  ASSERT_OK(run->load(step_));
  EXPECT_ERROR(run->launch({}), StatusCode::kInvalidArgument, "token_spans is null");
  EXPECT_TRUE(run->out_untouched().value());
  if (!device_->info().host_readable()) return;
  put(*run, 3, 1, {221, 223});
  EXPECT_ERROR(run->launch({}), StatusCode::kInvalidArgument,
               "token_spans[3] is [221, 223); allowed: begin >= end (none)");
  put(*run, 3, 11, {200, 231});
  EXPECT_ERROR(run->launch({}), StatusCode::kInvalidArgument, "token_spans[3] is [200, 231), 31 long; allowed: <= 30");
  put(*run, 3, 2, {219, 230});
  EXPECT_ERROR(run->launch({}), StatusCode::kInvalidArgument,
               "token_spans[5] is [0, 0); allowed: what its span's tokens");
  EXPECT_TRUE(run->out_untouched().value());
}

INSTANTIATE_TEST_SUITE_P(Everywhere, Spans, ::testing::ValuesIn(everywhere()), testing::name_of);

}  // namespace
}  // namespace sextant
