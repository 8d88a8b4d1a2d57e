// Every ISA's kernels against the oracle, on shapes that reach each of their paths.
#include <gtest/gtest.h>

#include "support/cases.h"
#include "support/isas.h"

namespace sextant {
namespace {

using testing::backends_for;
using testing::make_case;
using testing::mha_spec;
using testing::mla_spec;
using verify::Case;

class CpuKernels : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto device = make_cpu_device({.executor = make_thread_pool(2), .isa = GetParam()});
    ASSERT_OK(device);
    device_ = *device;
  }
  void expect_right(const Case& test) {
    const verify::CaseData data = verify::prepare(test, 11, 10);
    for (const Backend* backend : backends_for(test.spec)) {
      const verify::Verdict verdict = verify::run_case(*device_, *backend, data, 11);
      EXPECT_EQ(verdict.kind, verify::Verdict::Kind::kPassed) << backend->info().name << ": " << verdict.message;
    }
  }
  std::shared_ptr<Device> device_;
};

const std::vector<verify::RequestShape> kDecode = {{1, 200}, {1, 1}, {1, 63}, {0, 0}, {3, 130}, {1, 65}};

// Rows a KV head: 1 to 16 by blocks of four, two and one; 17 and more go through packed tiles.
TEST_P(CpuKernels, DecodeOfEveryGroupSize) {
  for (int32_t group : {1, 2, 3, 7, 16, 24}) expect_right(make_case(mha_spec(2 * group, 2, 64), kDecode));
}

// Whole chunks of dims, and every kind of remainder.
TEST_P(CpuKernels, DecodeOfEveryHeadSize) {
  for (int32_t dim : {8, 40, 72, 96, 112, 256}) expect_right(make_case(mha_spec(8, 2, dim), kDecode));
}

TEST_P(CpuKernels, DecodeFromEveryLayoutTypeAndBlockSize) {
  for (KvLayout layout : {KvLayout::kNHD, KvLayout::kHND, KvLayout::kSplitK, KvLayout::kShuffled, KvLayout::kPacked})
    for (DType cache : {DType::kBF16, DType::kF8E4M3FN, DType::kF8E5M2})
      for (int32_t block_size : {16, 5}) {
        Case c = make_case(mha_spec(8, 4, 64), {{1, 150}, {2, 33}});
        c.layout = layout;
        c.use_preferred_layout = false;
        c.cache_dtype = cache;
        c.num_scales = 4;
        if (cache == DType::kBF16) c.num_scales = 1;
        c.block_size = block_size;
        expect_right(c);
      }
}

// Codes in panels: every group, remainders of the dims, tokens that do not exist, scales of tokens.
TEST_P(CpuKernels, CodesInThePackedLayout) {
  for (const KvFormat& format :
       {KvFormat(DType::kF8E4M3FN), KvFormat(DType::kF8E4M3FNUZ), KvFormat(DType::kF8E5M2, KvScales::kTokenHead),
        KvFormat(DType::kI8, KvScales::kTokenHead)})
    for (const auto& [group, dim] : {std::pair{1, 128}, {7, 64}, {8, 40}, {16, 8}, {3, 96}, {24, 72}})
      for (int32_t block_size : {32, 5}) {
        Case c = make_case(mha_spec(2 * group, 2, dim), kDecode);
        c.requests.push_back({130, 200});
        c.layout = KvLayout::kPacked;
        c.use_preferred_layout = false;
        c.cache_dtype = format.dtype;
        c.scales = format.scales;
        c.num_scales = format.has_token_scales() ? 1 : 2;
        c.block_size = block_size;
        expect_right(c);
      }
}

TEST_P(CpuKernels, DecodeInFp16AndFp32) {
  for (DType dtype : {DType::kF16, DType::kF32}) {
    expect_right(make_case(mha_spec(12, 4, 64, dtype), kDecode));
    expect_right(make_case(mha_spec(12, 4, 40, dtype), kDecode));
  }
}

TEST_P(CpuKernels, DecodeWithEveryFeature) {
  Case c = make_case(mha_spec(8, 2, 64), kDecode);
  c.spec.sliding_window = 50;
  c.spec.logits_soft_cap = 3;
  c.spec.has_alibi = true;
  c.spec.has_sinks = true;
  expect_right(c);
  c.options.deterministic = true;
  expect_right(c);
}

TEST_P(CpuKernels, LongDecodeIsSplitAndMerged) {
  Case c = make_case(mha_spec(4, 2, 64), {{1, 4500}, {1, 900}});
  expect_right(c);
  c.options.deterministic = true;
  expect_right(c);
}

TEST_P(CpuKernels, PrefillAndExtend) {
  expect_right(make_case(mha_spec(8, 2, 64), {{130, 130}, {40, 300}, {17, 18}}));
  expect_right(make_case(mha_spec(3, 3, 80, DType::kF32), {{70, 90}, {33, 33}}));
}

// Several tiles of keys and several blocks of rows; scores so steep that the maximum moves far between tiles; a window
// that leaves some tiles to a single block of rows and others to none.
TEST_P(CpuKernels, ManyTilesOfKeys) {
  Case c = make_case(mha_spec(8, 2, 64), {{70, 1100}, {1, 700}, {20, 600}, {300, 300}});
  expect_right(c);
  c.spec.softmax_scale = 2.0F;
  expect_right(c);
  c.spec.sliding_window = 40;
  expect_right(c);
  expect_right(make_case(mla_spec(16), {{1, 900}, {40, 600}}));
}

TEST_P(CpuKernels, LatentDecodeAndPrefill) {
  for (int32_t heads : {2, 16, 20}) expect_right(make_case(mla_spec(heads), {{1, 150}, {1, 64}, {30, 50}}));
}

// More rows than stream: blocks of 16 and of 32, more than share one pass over V, several tokens a request, keys that
// lie ready (block_size 16, 48) and that must be copied (5, fp8, a head size between two tiles).
TEST_P(CpuKernels, LatentDecodeInTiles) {
  const auto latent = [](int32_t heads, int32_t rank, int32_t rope) {
    AttentionSpec spec = mla_spec(heads);
    spec.mla = {rank, 32, rope, 32};
    spec.head_dim = 32 + rope;
    spec.head_dim_v = 32;
    return spec;
  };
  for (int32_t heads : {9, 40}) {
    Case c = make_case(latent(heads, 128, 64), {{1, 300}, {1, 1}, {3, 130}, {0, 0}, {1, 63}});
    c.options.decode_max_query_len = 3;
    c.block_size = heads == 9 ? 16 : 48;
    expect_right(c);
    c.block_size = 5;
    c.cache_dtype = heads == 9 ? DType::kBF16 : DType::kF8E4M3FN;
    expect_right(c);
    c.block_size = 16;
    c.cache_dtype = DType::kBF16;
    c.spec.softmax_scale = 0.3F;  // maxima that move between tiles
    c.spec.sliding_window = 70;
    c.spec.logits_soft_cap = 6;
    c.spec.has_sinks = true;
    expect_right(c);
  }
  for (int32_t rank : {32, 96}) expect_right(make_case(latent(48, rank, 64), {{1, 270}, {1, 18}}));
  expect_right(make_case(latent(20, 104, 24), {{1, 270}, {1, 18}}));
}

INSTANTIATE_TEST_SUITE_P(Isas, CpuKernels, ::testing::ValuesIn(testing::available_isas()),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace sextant
