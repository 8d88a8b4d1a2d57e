// What one layer launches, kernel by kernel, as a stream capture on the stand-in runtime records it: no launch more
// than is meant, one planner a call whatever the parts, no synchronisation, and nothing that a capture refuses.
#include <algorithm>
#include <utility>

#include "devices/hip/kernels/kernel_set.h"
#include "devices/hip/runtime/hip_device.h"
#include "hip/fake_runtime.h"
#include "support/cases.h"
#include "support/paged_run.h"
#include "support/sanitizers.h"

namespace sextant::hip {
namespace {

using sextant::testing::make_step;
using sextant::testing::PagedRun;
using Names = std::vector<std::string>;

class HipLaunches : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_UNDER_SANITIZERS();
    if (code_objects().empty()) GTEST_SKIP() << "no compiler for AMD GPUs was found: no code objects";
  }
  static Names launches(const char* backend, const AttentionSpec& spec,
                        const std::vector<sextant::testing::StepRequest>& requests, bool next_layer = false) {
    fake_gpu() = {};
    auto device = open(0, fake_runtime());
    EXPECT_TRUE(device.is_ok());
    PlanOptions options;
    options.bounds = {.max_query_len = 40, .max_seq_len = sextant::testing::kMaxSeqLen};
    auto run = PagedRun::make(**device, *find_backend(backend).value(), spec, make_step(requests, 4), options);
    EXPECT_TRUE(run.is_ok());
    (*run)->tensors().next_layer = next_layer;
    int stream = 0;
    fake_gpu().capturing = &stream;
    const Status captured = (*run)->launch({&stream});
    fake_gpu().capturing = nullptr;
    EXPECT_TRUE(captured.is_ok()) << captured.message();
    EXPECT_TRUE(fake_gpu().refused.empty()) << fake_gpu().refused.front();
    Names names;
    for (const FakeLaunch& made : fake_gpu().graph) names.emplace_back(made.kernel->name);
    return names;
  }
};

TEST_F(HipLaunches, UnifiedAttention) {
  const AttentionSpec spec = sextant::testing::mha_spec(8, 2, 128);
  EXPECT_EQ(launches("ROCM_AITER_UNIFIED_ATTN", spec, {{1, 3}, {1, 9}, {40, 40}, {20, 20}, {3, 3}}),
            (Names{"sextant_cache_write", "sextant_plan_work", "decode_bf16_128_kv16_dims", "sextant_reduce_partials",
                   "forward_bf16_128_128_kv16", "sextant_reduce_partials"}));
  // TRITON_ATTN has no segments of less than 256 keys, so it splits none of up to 416.
  EXPECT_EQ(launches("TRITON_ATTN", spec, {{1, 3}, {1, 9}, {40, 40}, {20, 20}, {3, 3}}),
            (Names{"sextant_cache_write", "sextant_plan_work", "tile_attention_bf16_128_128"}));
}

TEST_F(HipLaunches, TheNextLayerPlansNothing) {
  const AttentionSpec spec = sextant::testing::mha_spec(8, 2, 128);
  EXPECT_EQ(launches("TRITON_ATTN", spec, {{1, 3}, {1, 9}, {40, 40}, {20, 20}, {3, 3}}, true),
            (Names{"sextant_cache_write", "tile_attention_bf16_128_128"}));
  EXPECT_EQ(launches("ROCM_AITER_FA", spec, {{1, 3}, {1, 9}, {1, 40}, {1, 20}, {1, 3}}, true),
            (Names{"sextant_cache_write", "decode_bf16_128_kv16_dims", "sextant_reduce_partials"}));
}

// Neither do ops that use a workspace in turn: the two paths of ROCM_ATTN in a mixed batch, new tokens and chunks of
// context, of latents too.
TEST_F(HipLaunches, TheNextLayerPlansNothingForOpsInTurn) {
  const std::vector<sextant::testing::StepRequest> mixed = {{1, 30}, {20, 90}, {12, 12}, {1, 70}};
  const AttentionSpec mha = sextant::testing::mha_spec(8, 2, 128), mla = sextant::testing::mla_spec(4);
  for (const auto& [backend, spec] : {std::pair{"ROCM_ATTN", mha}, std::pair{"ROCM_AITER_FA", mha},
                                      std::pair{"TRITON_MLA", mla}, std::pair{"ROCM_AITER_MLA", mla}}) {
    const Names first = launches(backend, spec, mixed);
    EXPECT_GE(std::count(first.begin(), first.end(), "sextant_plan_work"), 2) << backend;
    Names expected;
    for (const std::string& name : first)
      if (name != "sextant_plan_work" && name != "sextant_chunk_offsets") expected.push_back(name);
    EXPECT_EQ(launches(backend, spec, mixed, true), expected) << backend;
  }
}

}  // namespace
}  // namespace sextant::hip
