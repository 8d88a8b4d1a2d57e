// Whole backends run again with other lengths, block tables and slots within the plan's bounds, as a graph replays
// them: everything that depends on lengths is found on the device. And as the next layer of a step, which takes over
// what the layer before has found.
#include "devices/hip/emulator/emulated_device.h"
#include "support/cases.h"
#include "support/paged_run.h"
#include "support/sanitizers.h"

namespace sextant::hip {
namespace {

using sextant::testing::make_step;
using sextant::testing::PagedRun;
using sextant::testing::Step;

class HipBackendReplay : public ::testing::TestWithParam<const Backend*> {
 protected:
  void check(const std::vector<Step>& steps) {
    const bool mla = GetParam()->info().category == BackendCategory::kMla;
    const AttentionSpec spec = mla ? sextant::testing::mla_spec(4) : sextant::testing::mha_spec(8, 2, 64);
    const auto device = make_emulated_device();
    PlanOptions options;
    options.bounds = {.max_query_len = 40, .max_seq_len = sextant::testing::kMaxSeqLen};
    auto run = PagedRun::make(*device, *GetParam(), spec, steps.front(), options);
    ASSERT_OK(run);
    for (const Step& step : steps) {
      ASSERT_OK((*run)->load(step));
      ASSERT_OK((*run)->launch({}));
      auto on_cpu = PagedRun::make(*sextant::testing::cpu(), *GetParam(), spec, step, {});
      ASSERT_OK(on_cpu);
      ASSERT_OK((*on_cpu)->launch({}));
      const std::vector<float> got = (*run)->out().value(), expected = (*on_cpu)->out().value();
      for (size_t i = 0; i < expected.size(); ++i)
        ASSERT_NEAR(got[i], expected[i], 1e-2 + 1e-2 * std::fabs(expected[i]))
            << "row " << i / static_cast<size_t>((*run)->row_elements());
      EXPECT_TRUE((*run)->guards_intact().value());
    }
  }
};

TEST_P(HipBackendReplay, Decode) {
  SKIP_UNDER_SANITIZERS();
  check({make_step({{1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}}, 1),
         make_step({{1, 17}, {1, 400}, {1, 1}, {1, 133}, {1, 256}}, 2)});
}

TEST_P(HipBackendReplay, MixedBatch) {
  SKIP_UNDER_SANITIZERS();
  check({make_step({{1, 3}, {1, 9}, {40, 40}, {20, 20}, {3, 3}}, 4),
         make_step({{1, 400}, {1, 57}, {28, 300}, {2, 9}, {33, 33}}, 5)});
}

TEST_P(HipBackendReplay, NextLayer) {
  SKIP_UNDER_SANITIZERS();
  const bool mla = GetParam()->info().category == BackendCategory::kMla;
  const AttentionSpec spec = mla ? sextant::testing::mla_spec(4) : sextant::testing::mha_spec(8, 2, 64);
  const auto device = make_emulated_device();
  for (const Step& step : {make_step({{1, 17}, {1, 400}, {1, 1}, {1, 133}, {1, 256}}, 2),
                           make_step({{1, 400}, {1, 57}, {28, 300}, {2, 9}, {33, 33}}, 5)}) {
    auto run = PagedRun::make(*device, *GetParam(), spec, step, {});
    ASSERT_OK(run);
    std::vector<float> layers[2];
    for (int layer = 0; layer < 2; ++layer) {
      ASSERT_OK((*run)->load(step));
      (*run)->tensors().next_layer = layer > 0;
      ASSERT_OK((*run)->launch({}));
      layers[layer] = (*run)->out().value();
    }
    EXPECT_EQ(layers[0], layers[1]);
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, HipBackendReplay, ::testing::ValuesIn(all_backends().begin(), all_backends().end()),
                         [](const auto& backend) { return backend.param->info().name; });

}  // namespace
}  // namespace sextant::hip
