// Stream capture through the HIP device: `run` only launches, all on the caller's stream, and the recorded launches
// give the right results for other lengths and tables.
#include "devices/hip/runtime/hip_device.h"
#include "hip/fake_runtime.h"
#include "support/cases.h"
#include "support/paged_run.h"
#include "support/sanitizers.h"

namespace sextant::hip {
namespace {

using sextant::testing::make_step;
using sextant::testing::PagedRun;
using sextant::testing::Step;

class HipGraph : public ::testing::TestWithParam<const Backend*> {};

TEST_P(HipGraph, ReplaysWithOtherLengthsAndTables) {
  SKIP_UNDER_SANITIZERS();
  if (code_objects().empty()) GTEST_SKIP() << "no compiler for AMD GPUs was found: no code objects";
  fake_gpu() = {};
  const bool mla = GetParam()->info().category == BackendCategory::kMla;
  const AttentionSpec spec = mla ? sextant::testing::mla_spec(4) : sextant::testing::mha_spec(8, 2, 64);
  auto device = open(0, fake_runtime());
  ASSERT_OK(device);
  PlanOptions options;
  options.bounds = {.max_query_len = 40, .max_seq_len = sextant::testing::kMaxSeqLen};
  const Step first = make_step({{1, 3}, {1, 9}, {40, 40}, {20, 20}, {3, 3}}, 4);
  auto run = PagedRun::make(**device, *GetParam(), spec, first, options);
  ASSERT_OK(run);

  int stream = 0;
  fake_gpu().capturing = &stream;
  const Status captured = (*run)->launch({&stream});
  fake_gpu().capturing = nullptr;
  ASSERT_OK(captured);
  EXPECT_TRUE(fake_gpu().refused.empty()) << fake_gpu().refused.front();
  EXPECT_EQ(fake_gpu().launches, 0);
  EXPECT_GE(fake_gpu().graph.size(), 3u);

  for (const Step& step : {first, make_step({{1, 400}, {1, 57}, {28, 300}, {2, 9}, {33, 33}}, 5)}) {
    ASSERT_OK((*run)->load(step));
    ASSERT_EQ(fake_gpu().replay(), 0);
    auto on_cpu = PagedRun::make(*sextant::testing::cpu(), *GetParam(), spec, step, {});
    ASSERT_OK(on_cpu);
    ASSERT_OK((*on_cpu)->launch({}));
    const std::vector<float> got = (*run)->out().value(), expected = (*on_cpu)->out().value();
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(got[i], expected[i], 1e-2 + 1e-2 * std::fabs(expected[i]));
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, HipGraph, ::testing::ValuesIn(all_backends().begin(), all_backends().end()),
                         [](const auto& backend) { return backend.param->info().name; });

}  // namespace
}  // namespace sextant::hip
