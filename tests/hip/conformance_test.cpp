// The HIP kernels, executed by the emulator, against the oracle: every backend over the conformance sweep.
#include <gtest/gtest.h>

#include <set>

#include "devices/hip/emulator/emulated_device.h"
#include "support/matchers.h"
#include "support/random_case.h"
#include "support/sanitizers.h"
#include "verify/run_case.h"
#include "verify/sweep_cases.h"
#include "verify/verify.h"

namespace sextant {
namespace {

using hip::emulator::LaneOrder;

TEST(HipConformance, EveryBackendAgreesWithTheOracle) {
  SKIP_UNDER_SANITIZERS();
  auto device = open_device(DeviceKind::kHipEmulated);
  ASSERT_OK(device);
  verify::VerifyOptions options;
  options.seed = 21;
  const verify::SuiteResult suite = verify::run_oracle_sweep(**device, options);
  EXPECT_GE(suite.passed, 400);
  EXPECT_EQ(suite.failed, 0);
  EXPECT_EQ(suite.skipped, 0);
  for (const std::string& message : suite.messages) ADD_FAILURE() << message;
}

void expect_passes(const std::string& text) {
  auto device = open_device(DeviceKind::kHipEmulated);
  ASSERT_OK(device);
  testing::expect_passes(**device, text);
}

// Deterministic mode: in blocks of another size the same kernel gives the same bits.
TEST(HipConformance, TheBlockSizeChangesNoBit) {
  SKIP_UNDER_SANITIZERS();
  expect_passes(
      R"({"backend":"ROCM_AITER_UNIFIED_ATTN","num_heads":3,"num_kv_heads":1,"head_dim":128,"head_dim_v":128,)"
      R"("softmax_scale":0.0883883461356163,"dtype":"fp16","cache_dtype":"fp16","requests":"q2s2","deterministic":true,)"
      R"("magnitude":0.25,"relation":"reblocked","seed":1634970156})");
  for (const char* seed : {"1", "2", "3"})  // decodes, in blocks that 16 divides and in others
    expect_passes(
        R"({"op":"paged_decode","num_heads":8,"num_kv_heads":1,"head_dim":128,"head_dim_v":128,"out_f32":true,)"
        R"("softmax_scale":0.0883883461356163,"dtype":"fp16","cache_dtype":"fp16","requests":"q1s300","writes":false,)"
        R"("deterministic":true,"relation":"reblocked","seed":)" +
        std::string(seed) + "}");
}

// ... and beside other requests the same partitions; fp32 shows another order of sums.
TEST(HipConformance, TheCompanyChangesNoBit) {
  SKIP_UNDER_SANITIZERS();
  const std::string common =
      R"(,"dtype":"fp32","cache_dtype":"fp32","requests":"q1s1500","deterministic":true,"relation":"joined","seed":7})";
  const std::string mla =
      R"(,"num_heads":2,"num_kv_heads":2,"head_dim":192,"head_dim_v":128,"kv_lora_rank":512,"qk_nope_head_dim":128,)"
      R"("qk_rope_head_dim":64,"v_head_dim":128,"softmax_scale":0.07,"layout":"latent")";
  for (const Backend* backend : all_backends()) {
    const bool latents = backend->info().category == BackendCategory::kMla;
    const std::string heads = R"(,"num_heads":2,"num_kv_heads":1,"head_dim":64,"head_dim_v":64,"softmax_scale":0.125)";
    expect_passes(R"({"backend":")" + std::string(backend->info().name) + "\"" + (latents ? mla : heads) + common);
  }
}

// Bits that depend on the order of the lanes show a missing barrier.
TEST(HipLanes, OrderDoesNotMatter) {
  SKIP_UNDER_SANITIZERS();
  const auto forward = hip::make_emulated_device({.order = LaneOrder::kForward});
  const auto backward = hip::make_emulated_device({.order = LaneOrder::kBackward});
  for (auto make_cases : {verify::mha_cases, verify::mla_cases}) {
    std::vector<verify::Case> cases = make_cases(true);
    for (size_t i = 0; i < cases.size(); i += 5) {
      const verify::CaseData data = verify::prepare(cases[i], 5, 0);
      for (const Backend* backend : all_backends()) {
        if ((backend->info().category == BackendCategory::kMla) != cases[i].spec.mla.enabled()) continue;
        auto one = verify::run_for_bytes(*forward, *backend, data, 5);
        auto other = verify::run_for_bytes(*backward, *backend, data, 5);
        ASSERT_OK(one);
        ASSERT_OK(other);
        EXPECT_EQ(*one, *other) << cases[i].name << ", " << backend->info().name;
      }
    }
  }
}

// gfx950's matrix shapes and OCP fp8 instead of what gfx942 has.
TEST(HipLanes, Gfx950) {
  SKIP_UNDER_SANITIZERS();
  std::set<std::string> launched;
  const auto device = hip::make_emulated_device(
      {.architecture = "gfx950",
       .override_kernel = [&](std::string_view name, int64_t, int, const void*) -> std::optional<std::string> {
         launched.emplace(name);
         return std::nullopt;
       }});
  verify::VerifyOptions options;
  options.reduced = true;
  options.seed = 22;
  options.backends = {find_backend("ROCM_AITER_UNIFIED_ATTN").value(), find_backend("ROCM_AITER_MLA").value()};
  const verify::SuiteResult suite = verify::run_oracle_sweep(*device, options);
  EXPECT_EQ(suite.failed + suite.skipped, 0);
  // Its own fp8, converted by its own instructions.
  EXPECT_TRUE(launched.count("decode_bf16_128_kv8_dims") + launched.count("mla_ahead_bf16_32_kv8") > 0);
  for (const std::string& message : suite.messages) ADD_FAILURE() << message;
}

}  // namespace
}  // namespace sextant
