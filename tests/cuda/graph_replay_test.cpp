// A run captured into a CUDA graph, replayed with other lengths, block tables and slots within the plan's bounds.
#include <cuda_runtime.h>

#include "cuda/gpu.h"
#include "support/cases.h"
#include "support/paged_run.h"

namespace sextant {
namespace {

using testing::gpu;
using testing::make_step;
using testing::mha_spec;
using testing::mla_spec;
using testing::PagedRun;
using testing::Step;

#define ASSERT_CUDA(call) ASSERT_EQ(cudaSuccess, (call))

// What a plan of its own gives on the CPU for the same step.
std::vector<float> cpu_result(const Backend& backend, const AttentionSpec& spec, const Step& step) {
  auto run = PagedRun::make(*testing::cpu(), backend, spec, step, {});
  if (!run.is_ok()) {
    ADD_FAILURE() << run.status().message();
    return {};
  }
  EXPECT_OK((*run)->launch({}));
  return (*run)->out().value();
}

class CudaGraph : public ::testing::TestWithParam<const Backend*> {
 protected:
  AttentionSpec spec() const {
    return GetParam()->info().category == BackendCategory::kMla ? mla_spec(4) : mha_spec(8, 2, 64);
  }

  void SetUp() override {
    SKIP_WITHOUT_GPU();
    ASSERT_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  void TearDown() override {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  // Plans for the first step, captures it, replays every step.
  void check(const std::vector<Step>& steps) {
    PlanOptions options;
    options.bounds = {.max_query_len = 40, .max_seq_len = testing::kMaxSeqLen};
    auto made = PagedRun::make(**gpu(), *GetParam(), spec(), steps.front(), options);
    ASSERT_OK(made);
    PagedRun& run = **made;
    ASSERT_OK(run.launch({stream_}));  // loads kernels and cuBLASLt, as an engine's warm-up does
    ASSERT_CUDA(cudaStreamSynchronize(stream_));
    cudaGraph_t graph = nullptr;
    ASSERT_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    const Status captured = run.launch({stream_});
    ASSERT_CUDA(cudaStreamEndCapture(stream_, &graph));
    ASSERT_OK(captured);
    ASSERT_CUDA(cudaGraphInstantiate(&executable_, graph, 0));
    ASSERT_CUDA(cudaGraphDestroy(graph));
    for (size_t i = 0; i < steps.size(); ++i) {
      SCOPED_TRACE(i);
      ASSERT_OK(run.load(steps[i]));
      ASSERT_CUDA(cudaGraphLaunch(executable_, stream_));
      ASSERT_CUDA(cudaStreamSynchronize(stream_));
      const std::vector<float> replayed = run.out().value();
      const std::vector<float> expected = cpu_result(*GetParam(), spec(), steps[i]);
      ASSERT_EQ(replayed.size(), expected.size());
      for (size_t e = 0; e < expected.size(); ++e)
        ASSERT_NEAR(replayed[e], expected[e], 1e-2 + 1e-2 * std::fabs(expected[e]))
            << "row " << e / static_cast<size_t>(run.row_elements());
      ASSERT_OK(run.load(steps[i]));
      ASSERT_OK(run.launch({stream_}));
      ASSERT_CUDA(cudaStreamSynchronize(stream_));
      EXPECT_EQ(run.out().value(), replayed) << "the graph and a plain run differ";
    }
  }

  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

TEST_P(CudaGraph, DecodeWithOtherLengthsAndTables) {
  const Step shortest = make_step({{1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}}, 1);
  check({shortest, make_step({{1, 17}, {1, 400}, {1, 1}, {1, 133}, {1, 256}}, 2),
         make_step({{1, 416}, {1, 16}, {1, 32}, {1, 415}, {1, 2}}, 3)});
}

TEST_P(CudaGraph, MixedBatchWithOtherLengthsAndTables) {
  const Step first = make_step({{1, 3}, {1, 9}, {40, 40}, {20, 20}, {3, 3}}, 4);
  check({first, make_step({{1, 400}, {1, 57}, {28, 300}, {2, 9}, {33, 33}}, 5),
         make_step({{1, 416}, {1, 1}, {21, 416}, {21, 22}, {21, 21}}, 6)});
}

INSTANTIATE_TEST_SUITE_P(Backends, CudaGraph, ::testing::ValuesIn(all_backends().begin(), all_backends().end()),
                         [](const auto& backend) { return backend.param->info().name; });

}  // namespace
}  // namespace sextant
