// Deterministic mode: the block size of a cache changes no bit of a decode, with any of the CPU's instruction sets.
#include <string>

#include "sextant/device.h"
#include "support/random_case.h"

namespace sextant {
namespace {

TEST(BlockSize, ChangesNoBitOfADecode) {
  auto device = make_cpu_device();
  ASSERT_OK(device);
  for (const char* cache :
       {R"("layout":"packed")", R"("layout":"packed","cache_dtype":"fp8_e4m3fn")", R"("layout":"NHD")"})
    for (int block_size : {16, 32, 48})
      for (int seed = 1; seed <= 4; ++seed) {
        const std::string text =
            R"({"backend":"ROCM_AITER_UNIFIED_ATTN","num_heads":8,"num_kv_heads":2,"head_dim":128,"head_dim_v":128,)"
            R"("softmax_scale":0.0883883461356163,"requests":"2q1s300_q1s77_q2s900","deterministic":true,)"
            R"("relation":"reblocked",)" +
            std::string(cache) + ",\"block_size\":" + std::to_string(block_size) + ",\"seed\":" + std::to_string(seed) +
            "}";
        testing::expect_passes(**device, text);
      }
}

}  // namespace
}  // namespace sextant
