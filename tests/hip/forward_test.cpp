// The forward kernel: each head size, both kinds of chip, the cache, packed keys and both, with tiles enough that every
// loop of the kernel comes around, and what it leaves to the portable kernel.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "devices/hip/attention_plan.h"
#include "devices/hip/emulator/emulated_device.h"
#include "reference/numbers.h"
#include "support/cases.h"
#include "support/sanitizers.h"

namespace sextant::hip {
namespace {

using sextant::testing::make_case;
using sextant::testing::mha_spec;

// Runs the case on both chips and demands the kernel `kernel`.
void expect_right(const verify::Case& test, const char* backend, std::string_view kernel) {
  for (const char* chip : {"gfx942", "gfx950"}) {
    bool ran = false;
    EmulatorOptions options;
    options.architecture = chip;
    options.override_kernel = [&](std::string_view name, int64_t, int, const void*) -> std::optional<std::string> {
      ran = ran || name == kernel;
      return std::nullopt;
    };
    const auto device = make_emulated_device(options);
    verify::Case of_chip = test;
    if (is_fp8(test.cache_dtype)) of_chip.cache_dtype = device->info().native_fp8;
    const verify::Verdict verdict =
        verify::run_case(*device, *find_backend(backend).value(), verify::prepare(of_chip, 31, 96), 31);
    EXPECT_EQ(verdict.kind, verify::Verdict::Kind::kPassed)
        << kernel << ", " << backend << ", " << chip << ": " << verdict.message;
    EXPECT_TRUE(ran) << kernel << ", " << backend;
  }
}

// Longer than 16 rows a KV head, so that the decode kernel leaves them.
std::vector<verify::RequestShape> extend_requests() { return {{70, 450}, {33, 33}, {24, 205}}; }

struct Size {
  int32_t head_dim;
  const char* kernel;
};
class ForwardSizes : public ::testing::TestWithParam<Size> {};

TEST_P(ForwardSizes, Extend) {
  SKIP_UNDER_SANITIZERS();
  const std::string kernel = GetParam().kernel;
  const verify::Case test = make_case(mha_spec(2, 1, GetParam().head_dim), extend_requests());
  expect_right(test, "ROCM_AITER_UNIFIED_ATTN", "forward_bf16_" + kernel + "_kv16");
  verify::Case half = make_case(mha_spec(2, 1, GetParam().head_dim, DType::kF16), {{40, 300}});
  half.spec.sliding_window = 90;
  half.spec.logits_soft_cap = 6;
  half.spec.has_sinks = true;
  expect_right(half, "ROCM_AITER_UNIFIED_ATTN", "forward_f16_" + kernel + "_kv16");
  verify::Case fp8 = make_case(mha_spec(2, 2, GetParam().head_dim), {{50, 290}});
  fp8.cache_dtype = DType::kF8E4M3FN;  // for which each chip's own stands
  fp8.num_scales = 2;
  expect_right(fp8, "ROCM_AITER_UNIFIED_ATTN", "forward_bf16_" + kernel + "_kv8");
}

INSTANTIATE_TEST_SUITE_P(Heads, ForwardSizes,
                         ::testing::Values(Size{64, "64_64"}, Size{40, "64_64"}, Size{96, "96_96"},
                                           Size{128, "128_128"}, Size{104, "128_128"}, Size{192, "256_256"},
                                           Size{256, "256_256"}));

// Scores of 4 to 5 at most: each way of softcap_curve.h, and the exact one, by how far below the cap that is.
TEST(Forward, Softcaps) {
  SKIP_UNDER_SANITIZERS();
  for (float cap : {4.0f, 13.0f, 30.0f, 60.0f, 200.0f}) {
    verify::Case test = make_case(mha_spec(2, 1, 64), {{40, 450}});
    test.spec.logits_soft_cap = cap;
    expect_right(test, "ROCM_AITER_UNIFIED_ATTN", "forward_bf16_64_64_kv16");
    test.spec.dtype = test.cache_dtype = DType::kF16;
    expect_right(test, "ROCM_AITER_UNIFIED_ATTN", "forward_f16_64_64_kv16");
  }
}

TEST(Forward, PackedKeys) {
  SKIP_UNDER_SANITIZERS();
  expect_right(make_case(sextant::testing::mla_spec(2), {{90, 140}, {70, 70}}), "ROCM_AITER_MLA",
               "forward_bf16_192_128_kv16");
  expect_right(make_case(mha_spec(4, 1, 128), {{90, 90}}), "ROCM_AITER_FA", "forward_bf16_128_128_kv16");
}

// Context from the cache, new tokens from packed rows, with the border at any place of a tile: the tuned op itself,
// since the backend that has it reads a layout that is the portable kernel's.
TEST(Forward, CacheThenPackedKeys) {
  SKIP_UNDER_SANITIZERS();
  constexpr int32_t kHeads = 2, kDim = 128, kBlock = 16, kQueries = 40, kBlocks = 24;
  std::mt19937 random(5);
  std::uniform_int_distribution<int> small(-16, 16);  // in sixteenths: exact in bf16
  const auto fill = [&](std::vector<uint16_t>& data) {
    for (uint16_t& x : data) {
      const float value = static_cast<float>(small(random)) / 16.0f;
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof(bits));
      x = static_cast<uint16_t>(bits >> 16);
    }
  };
  const auto as_double = [](uint16_t bits) { return reference::load(DType::kBF16, &bits, 0); };
  for (const int32_t context : {0, 1, 63, 64, 65, 127, 200}) {
    for (const int32_t window : {0, 75}) {
      std::vector<uint16_t> q(size_t{kQueries} * kHeads * kDim), k(size_t{kQueries} * kDim), v(k);
      std::vector<uint16_t> cache_k(size_t{kBlocks} * kBlock * kDim, 0x7fc0), cache_v(cache_k);  // NaN past the context
      std::vector<uint16_t> past_k(static_cast<size_t>(context) * kDim), past_v(past_k);
      for (auto* data : {&q, &k, &v, &past_k, &past_v}) fill(*data);
      std::vector<int32_t> table(kBlocks);
      for (int32_t i = 0; i < kBlocks; ++i) table[static_cast<size_t>(i)] = kBlocks - 1 - i;
      for (int32_t key = 0; key < context; ++key) {
        const auto row = static_cast<size_t>(table[static_cast<size_t>(key / kBlock)] * kBlock + key % kBlock) * kDim;
        std::copy_n(past_k.begin() + key * kDim, kDim, cache_k.begin() + static_cast<int64_t>(row));
        std::copy_n(past_v.begin() + key * kDim, kDim, cache_v.begin() + static_cast<int64_t>(row));
      }
      const std::vector<int32_t> starts = {0, kQueries}, lens = {context + kQueries};
      std::vector<float> out(size_t{kQueries} * kHeads * kDim, NAN);
      AttentionPlanArgs plan_args;
      plan_args.op = AttentionOp::kPrefixPrefill;
      plan_args.spec = mha_spec(kHeads, 1, kDim);
      plan_args.spec.sliding_window = window;
      plan_args.cache.block_size = kBlock;
      plan_args.cache.num_blocks = kBlocks;
      plan_args.cache.num_kv_heads = 1;
      plan_args.cache.head_dim = plan_args.cache.head_dim_v = kDim;
      plan_args.cache.layout = KvLayout::kNHD;
      plan_args.query_start_loc = starts;
      plan_args.seq_lens = lens;
      plan_args.out_dtype = DType::kF32;
      AttentionArgs args;
      args.q = make_view(q.data(), DType::kBF16, {kQueries, kHeads, kDim});
      args.out = make_view(out.data(), DType::kF32, {kQueries, kHeads, kDim});
      args.k = make_view(k.data(), DType::kBF16, {kQueries, 1, kDim});
      args.v = make_view(v.data(), DType::kBF16, {kQueries, 1, kDim});
      args.query_start_loc = starts.data();
      args.seq_lens = lens.data();
      args.block_table = table.data();
      args.block_table_stride = kBlocks;
      args.cache = make_kv_cache_view(plan_args.cache, cache_k.data(), cache_v.data());
      for (const char* chip : {"gfx942", "gfx950"}) {
        const auto device = make_emulated_device({.architecture = chip});
        const Ops& ops = device->ops(KernelFamily::kTuned);
        auto plan = ops.plan_attention(plan_args);
        ASSERT_OK(plan);
        EXPECT_NE((*plan)->describe().find("forward_bf16_128_128_kv16"), std::string::npos) << (*plan)->describe();
        std::vector<char> workspace((*plan)->workspace_bytes() + 256);
        args.workspace = workspace.data() + (256 - reinterpret_cast<uintptr_t>(workspace.data()) % 256) % 256;
        ASSERT_OK(ops.run_attention(**plan, args, {}));
        double worst = 0;
        for (int32_t t = 0; t < kQueries; t += 3)
          for (int32_t h = 0; h < kHeads; ++h) {
            const int32_t position = context + t, first = window > 0 ? std::max(0, position - window + 1) : 0;
            const auto key_at = [&](const auto& past, const auto& fresh, int32_t key, int32_t d) {
              return as_double(key < context ? past[static_cast<size_t>(key * kDim + d)]
                                             : fresh[static_cast<size_t>((key - context) * kDim + d)]);
            };
            std::vector<double> weights, sum(kDim, 0.0);
            double total = 0;
            for (int32_t key = first; key <= position; ++key) {
              double score = 0;
              for (int32_t d = 0; d < kDim; ++d)
                score += as_double(q[static_cast<size_t>((t * kHeads + h) * kDim + d)]) * key_at(past_k, k, key, d);
              const double weight = std::exp(score * static_cast<double>(plan_args.spec.softmax_scale));
              total += weight;
              for (int32_t d = 0; d < kDim; ++d) sum[static_cast<size_t>(d)] += weight * key_at(past_v, v, key, d);
            }
            for (int32_t d = 0; d < kDim; ++d) {
              const double got = static_cast<double>(out[static_cast<size_t>((t * kHeads + h) * kDim + d)]);
              worst = std::max(worst, std::isnan(got) ? 1e9 : std::fabs(got - sum[static_cast<size_t>(d)] / total));
            }
          }
        EXPECT_LT(worst, 4e-3) << "context " << context << ", window " << window << ", " << chip;
      }
    }
  }
}

TEST(Forward, OtherFeatures) {
  SKIP_UNDER_SANITIZERS();
  verify::Case test = make_case(mha_spec(4, 2, 128), extend_requests());
  test.spec.has_alibi = true;
  expect_right(test, "ROCM_AITER_UNIFIED_ATTN", "forward_bf16_128_128_kv16");
  test.spec.has_alibi = false;
  test.magnitude = 6;  // maxima that keep growing
  expect_right(test, "ROCM_AITER_UNIFIED_ATTN", "forward_bf16_128_128_kv16");
  for (const int32_t block_size : {8, 24, 48, 256}) {
    test.block_size = block_size;
    expect_right(test, "ROCM_AITER_UNIFIED_ATTN", "forward_bf16_128_128_kv16");
  }
  test.block_size = 4;  // eight keys are in two blocks
  expect_right(test, "ROCM_AITER_UNIFIED_ATTN", "tile_attention_bf16_128_128");
}

TEST(Forward, BlockDivisorIsExact) {
  for (const int32_t size : {1, 2, 3, 5, 7, 8, 12, 16, 24, 31, 33, 48, 100, 257, 1000, 4096, 65521, 1 << 20}) {
    const BlockDivisor d = block_divisor(size);
    const auto quotient = [&](uint32_t n) {
      return static_cast<uint32_t>((uint64_t{2} * n * d.factor) >> 32) >> d.shift;
    };
    for (uint32_t n = 0; n < 5000; ++n) ASSERT_EQ(quotient(n), n / static_cast<uint32_t>(size)) << size;
    for (uint64_t n = 0; n < uint64_t{1} << 31; n += 999983) {
      const auto near = static_cast<uint32_t>(n / static_cast<uint64_t>(size) * static_cast<uint64_t>(size));
      for (const uint32_t x : {near, near == 0 ? 0 : near - 1, static_cast<uint32_t>(n)})
        ASSERT_EQ(quotient(x), x / static_cast<uint32_t>(size)) << size;
    }
    ASSERT_EQ(quotient(0x7fffffffu), 0x7fffffffu / static_cast<uint32_t>(size));
  }
}

}  // namespace
}  // namespace sextant::hip
