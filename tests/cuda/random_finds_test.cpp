// Random batches that were wrong once, on the GPU.
#include <string>

#include "cuda/gpu.h"
#include "support/random_case.h"

namespace sextant {
namespace {

using testing::expect_passes;
using testing::gpu;

// Keys end, by the op's arguments, before the window begins, in one tile of keys: the cluster kernel announced a
// negative number of bytes to a barrier.
TEST(CudaRandomFinds, TheWindowBeginsBehindTheLastKey) {
  SKIP_WITHOUT_GPU();
  for (const char* types :
       {R"("dtype":"fp16","cache_dtype":"fp8_e5m2","block_size":48)", R"("block_size":16)", R"("block_size":8)"})
    expect_passes(
        **gpu(),
        R"({"op":"paged_decode","key_end":35,"num_heads":8,"num_kv_heads":1,"head_dim":128,"head_dim_v":128,)"
        R"("softmax_scale":0.0883883461356163,"sliding_window":128,"requests":"q1s224_q1s186_q1s40_q1s7_q1s28169",)"
        R"("writes":false,"seed":3953378574,)" +
            std::string(types) + "}");
}

}  // namespace
}  // namespace sextant
