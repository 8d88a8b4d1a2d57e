// MLA decode on both kinds of chip: tiles that come ahead, on gfx950 straight to shared memory in four places, with
// keys enough that every place comes around; and latents wider than the kernels for latents hold.
#include <gtest/gtest.h>

#include "devices/hip/emulator/emulated_device.h"
#include "devices/hip/kernels/params.h"
#include "support/cases.h"
#include "support/sanitizers.h"

namespace sextant::hip {
namespace {

using sextant::testing::make_case;
using sextant::testing::mla_spec;

// Runs the case on both chips, lanes in either order; gives how often `kernel` was launched, on each the same.
int launches(verify::Case test, const char* backend, std::string_view kernel) {
  int launched = 0;
  for (const char* chip : {"gfx942", "gfx950"}) {
    launched = 0;
    EmulatorOptions options;
    options.architecture = chip;
    options.override_kernel = [&](std::string_view name, int64_t, int, const void*) -> std::optional<std::string> {
      launched += name == kernel ? 1 : 0;
      return std::nullopt;
    };
    const auto device = make_emulated_device(options);
    if (is_fp8(test.cache_dtype)) test.cache_dtype = device->info().native_fp8;
    const verify::Verdict verdict =
        verify::run_case(*device, *find_backend(backend).value(), verify::prepare(test, 17, 64), 17);
    EXPECT_EQ(verdict.kind, verify::Verdict::Kind::kPassed) << kernel << ", " << chip << ": " << verdict.message;
  }
  return launched;
}

TEST(HipLatents, TilesThatComeAhead) {
  SKIP_UNDER_SANITIZERS();
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    const std::string name = dtype == DType::kF16 ? "f16" : "bf16";
    verify::Case test = make_case(mla_spec(16, dtype, 512), {{1, 300}, {1, 129}, {1, 1}, {1, 37}});
    EXPECT_GE(launches(test, "ROCM_AITER_MLA", "mla_ahead_" + name + "_16_kv16"), 1);
    test.requests = {{2, 300}, {1, 70}, {3, 3}};
    test.options.decode_max_query_len = 3;
    test.spec.sliding_window = 50;  // begins inside of a tile
    test.spec.logits_soft_cap = 8;
    EXPECT_GE(launches(test, "ROCM_AITER_MLA", "mla_ahead_" + name + "_32_kv16"), 1);
    test.cache_dtype = DType::kF8E4M3FN;
    EXPECT_GE(launches(test, "ROCM_AITER_MLA", "mla_ahead_" + name + "_32_kv8"), 1);
  }
}

TEST(HipLatents, WiderThanTheKernelsForLatents) {
  SKIP_UNDER_SANITIZERS();
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32})
    for (int32_t rank : {520, 576, 1024}) {
      const std::string name = dtype == DType::kF32 ? "f32" : dtype == DType::kF16 ? "f16" : "bf16";
      const int32_t dims = dtype == DType::kF32 ? kWideValueDims<4> : kWideValueDims<2>;
      verify::Case test = make_case(mla_spec(3, dtype, rank), {{1, 70}, {20, 33}, {1, 1}});
      for (const char* backend : {"TRITON_MLA", "ROCM_AITER_MLA"})
        EXPECT_EQ(launches(test, backend, "tile_attention_" + name + "_wide"), (rank + dims - 1) / dims) << rank;
    }
  verify::Case test = make_case(mla_spec(2, DType::kBF16, 640), {{1, 90}, {1, 40}});
  test.cache_dtype = DType::kF8E5M2;
  test.block_size = 20;
  test.spec.sliding_window = 30;
  EXPECT_EQ(launches(test, "ROCM_AITER_MLA", "tile_attention_bf16_wide"), 2);
}

}  // namespace
}  // namespace sextant::hip
