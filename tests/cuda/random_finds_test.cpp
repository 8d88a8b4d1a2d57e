// Random batches that were wrong once, on the GPU.
#include <string>

#include "cuda/gpu.h"
#include "support/matchers.h"
#include "verify/random/random_case.h"
#include "verify/random/run_random.h"

namespace sextant {
namespace {

using testing::gpu;

void expect_passes(const std::string& text) {
  const auto test = verify::parse_random_case(text);
  ASSERT_OK(test);
  const verify::RandomVerdict verdict = verify::run_random_case(**gpu(), *test, {});
  EXPECT_EQ(verdict.kind, verify::RandomVerdict::Kind::kPassed) << verdict.message << " in " << text;
}

// Keys end, by the op's arguments, before the window begins, in one tile of keys: the cluster kernel announced a
// negative number of bytes to a barrier, which then never opened.
TEST(CudaRandomFinds, TheWindowBeginsBehindTheLastKey) {
  SKIP_WITHOUT_GPU();
  for (const char* types :
       {R"("dtype":"fp16","cache_dtype":"fp8_e5m2","block_size":48)", R"("block_size":16)", R"("block_size":8)"})
    expect_passes(
        R"({"op":"paged_decode","key_end":35,"num_heads":8,"num_kv_heads":1,"head_dim":128,"head_dim_v":128,)"
        R"("softmax_scale":0.0883883461356163,"sliding_window":128,"requests":"q1s224_q1s186_q1s40_q1s7_q1s28169",)"
        R"("writes":false,"seed":3953378574,)" +
        std::string(types) + "}");
}

}  // namespace
}  // namespace sextant
