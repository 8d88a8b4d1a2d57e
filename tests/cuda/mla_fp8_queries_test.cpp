// MLA decode with fp8 queries, small to large: the first test that fails says where the fault lies.
//
//   OneKeyARow     every row sees one key, so out is that key's V: a wrong place of Q, or a wrong order of keys or of
//                  columns, shows as another number
//   AllKeysAlike   equal scores: the sums over keys and tiles
//   Oracle         random numbers against fp64, feature by feature
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "cuda/gpu.h"
#include "support/matchers.h"
#include "support/mla_decode.h"

namespace sextant {
namespace {

using testing::gpu;
using testing::MlaDecode;
using testing::MlaDecodeCase;

bool is_multiplied_in_fp8(const MlaDecode& decode) { return decode.plan().rfind("mla_fp8 (", 0) == 0; }

// Head h looks for the positions that are h modulo 64.
double rope_query(int64_t, int32_t head, int32_t dim) { return dim - 512 == head % 64 ? 64.0 : 0.0; }
// Small integers; neighbours in either direction, and 8 or 16 away, differ.
double mixed_up(int64_t position, int32_t dim) {
  return static_cast<double>((position * 5 + position / 16 * 3 + dim * 7 + dim / 8 + dim / 128 * 2) % 17) - 8;
}
double rope_key(int64_t position, int32_t dim) {
  return dim < 512 ? mixed_up(position, dim) : position % 64 == dim - 512 ? 64.0 : 0.0;
}
double zero(int64_t, int32_t, int32_t) { return 0; }

TEST(CudaMlaFp8Queries, OneKeyARow) {
  SKIP_WITHOUT_GPU();
  for (const int32_t keys : {64, 128, 192, 320, 704})
    for (const int32_t block_size : {64, 16, 8, 3}) {
      MlaDecodeCase test;
      test.requests = {{1, keys}};
      test.heads = 128;
      test.block_size = block_size;
      test.q_scale = test.kv_scale = 0;
      test.q = rope_query;
      test.key = rope_key;
      MlaDecode decode(test);
      ASSERT_OK(decode.run(**gpu(), KernelFamily::kTuned));
      if ((*gpu())->info().has_tuned_kernels) {
        EXPECT_TRUE(is_multiplied_in_fp8(decode)) << decode.plan();
      }
      int wrong = 0;
      for (int32_t head = 0; head < test.heads; ++head)
        for (int32_t d = 0; d < test.rank && wrong < 8; ++d) {
          const int32_t alike = keys / 64;
          double expected = 0;
          for (int32_t i = 0; i < alike; ++i) expected += mixed_up(head % 64 + 64 * i, d) / alike;
          const double got = decode.out(0, head, d);
          if (std::fabs(got - expected) <= 0.004 * std::max(1.0, std::fabs(expected))) continue;  // rounded to bf16
          ++wrong;
          ADD_FAILURE() << keys << " keys, pages of " << block_size << ": out[0, " << head << ", " << d << "] is "
                        << got << "; V[" << head % 64 << " + 64 i, " << d << "] means " << expected;
        }
    }
}

TEST(CudaMlaFp8Queries, AllKeysAlike) {
  SKIP_WITHOUT_GPU();
  for (const int32_t keys : {1, 17, 64, 65, 130, 700}) {
    MlaDecodeCase test;
    test.requests = {{1, keys}};
    test.q_scale = test.kv_scale = 0;
    test.q = zero;
    test.key = rope_key;
    MlaDecode decode(test);
    ASSERT_OK(decode.run(**gpu(), KernelFamily::kTuned));
    for (int32_t d = 0; d < test.rank; ++d) {
      double expected = 0;
      for (int32_t key = 0; key < keys; ++key) expected += mixed_up(key, d) / keys;
      for (const int32_t head : {0, 31, 63})
        ASSERT_NEAR(decode.out(0, head, d), expected, 0.02 + 0.01 * std::fabs(expected))
            << keys << " keys, head " << head << ", column " << d;
    }
  }
}

struct Named {
  const char* name;
  MlaDecodeCase test;
};

// What the kernel that multiplies in fp8 serves.
std::vector<Named> fp8_cases() {
  std::vector<Named> cases;
  const auto add = [&cases](const char* name, std::vector<verify::RequestShape> requests,
                            int32_t heads) -> MlaDecodeCase& {
    MlaDecodeCase test;
    test.requests = std::move(requests);
    test.heads = heads;
    cases.push_back({name, test});
    return cases.back().test;
  };
  const std::vector<verify::RequestShape> ragged = {{1, 300}, {1, 64}, {2, 129}, {0, 0}, {1, 1}, {1, 2000}, {4, 70}};
  add("one tile", {{1, 64}}, 64);
  add("two tiles", {{1, 128}}, 64);
  add("ragged end", {{1, 77}}, 64);
  add("ragged", ragged, 64);
  add("ragged, 128 heads", ragged, 128);
  add("40 heads", ragged, 40);
  add("pages of 16", ragged, 128).block_size = 16;
  add("pages of 3", ragged, 64).block_size = 3;
  add("pages of 1", ragged, 64).block_size = 1;
  add("pages of 544", {{1, 1100}, {2, 545}}, 64).block_size = 544;
  add("scales of 1", ragged, 64).q_scale = 0;
  add("scales far from 1", ragged, 64).q_scale = 96;
  cases.back().test.kv_scale = 0.01F;
  add("rows of queries apart", ragged, 64).row_padding = 48;
  add("fp16", ragged, 128).dtype = DType::kF16;
  cases.back().test.out_dtype = DType::kF16;
  add("fp32 result", ragged, 64).out_dtype = DType::kF32;
  add("large scores", ragged, 64).magnitude = 6;
  add("window", ragged, 64).change = [](AttentionPlanArgs& a) { a.spec.sliding_window = 100; };
  add("softcap", ragged, 64).change = [](AttentionPlanArgs& a) { a.spec.logits_soft_cap = 6; };
  add("sinks", ragged, 64).change = [](AttentionPlanArgs& a) { a.spec.has_sinks = true; };
  add("alibi", ragged, 64).change = [](AttentionPlanArgs& a) { a.spec.has_alibi = true; };
  add("not causal", ragged, 64).change = [](AttentionPlanArgs& a) { a.spec.causal = false; };
  add("deterministic", ragged, 64).change = [](AttentionPlanArgs& a) { a.deterministic = true; };
  add("lengths to come", ragged, 128).change = [](AttentionPlanArgs& a) { a.bounds = {8, 40000}; };
  add("seven segments", ragged, 64).change = [](AttentionPlanArgs& a) { a.split = {SplitPolicy::Kind::kSegments, 7}; };
  add("more requests than blocks", std::vector<verify::RequestShape>(150, {1, 200}), 128);
  add("long context", {{1, 9000}, {1, 40000}}, 128);
  return cases;
}

TEST(CudaMlaFp8Queries, Oracle) {
  SKIP_WITHOUT_GPU();
  const bool tuned = (*gpu())->info().has_tuned_kernels;
  for (const Named& named : fp8_cases()) {
    SCOPED_TRACE(named.name);
    MlaDecode decode(named.test);
    ASSERT_OK(decode.run(**gpu(), KernelFamily::kTuned));
    EXPECT_EQ(is_multiplied_in_fp8(decode), tuned) << decode.plan();
    // Probabilities of 3 bits of mantissa: 2.6 % in the mean. Scores keep 13 bits below their largest product.
    const MlaDecode::Errors errors = decode.errors(12);
    EXPECT_LT(errors.out, tuned ? 0.04 : 8e-3);
    EXPECT_LT(errors.lse, 0.02 * std::max(1.0, named.test.magnitude));
    std::printf("%-28s error %.2e, of the LSE %.2e\n", named.name, errors.out, errors.lse);
  }
}

TEST(CudaMlaFp8Queries, RunningTwiceGivesTheSameBits) {
  SKIP_WITHOUT_GPU();
  for (const Named& named : fp8_cases()) {
    MlaDecode decode(named.test);
    ASSERT_OK(decode.run(**gpu(), KernelFamily::kTuned));
    const std::vector<uint8_t> first = decode.bytes();
    for (int i = 0; i < 3; ++i) {
      ASSERT_OK(decode.run(**gpu(), KernelFamily::kTuned));
      EXPECT_EQ(decode.bytes(), first) << named.name;
    }
  }
}

// What it does not serve is converted, all of it or in part.
TEST(CudaMlaFp8Queries, OthersAreConverted) {
  SKIP_WITHOUT_GPU();
  MlaDecodeCase test;
  test.requests = {{1, 300}, {2, 129}, {1, 1}, {1, 900}};
  const auto expect = [&](const MlaDecodeCase& changed, KernelFamily family, double allowed, const char* plan) {
    MlaDecode decode(changed);
    ASSERT_OK(decode.run(**gpu(), family));
    SCOPED_TRACE(decode.plan());
    if ((*gpu())->info().has_tuned_kernels) {
      EXPECT_EQ(decode.plan().rfind(plan, 0), 0U);
    }
    const MlaDecode::Errors errors = decode.errors(12);
    EXPECT_LT(errors.out, allowed);
    EXPECT_LT(errors.lse, 0.02);
  };
  constexpr double kHalves = 8e-3, kBytes = 0.04;
  expect(test, KernelFamily::kPortable, kHalves, "queries to bf16; mla_attention");
  for (const DType other : {DType::kF8E5M2, DType::kF8E4M3FNUZ}) {
    MlaDecodeCase queries = test, cache = test;
    queries.queries = other;
    cache.cache = other;
    expect(queries, KernelFamily::kTuned, kHalves, "queries to bf16; mla_wgmma");
    expect(cache, KernelFamily::kTuned, kHalves, "queries to bf16; mla_wgmma");
  }
  MlaDecodeCase changed = test;
  changed.cache = DType::kBF16;
  changed.kv_scale = 0;
  expect(changed, KernelFamily::kTuned, kHalves, "queries to bf16; mla_wgmma");
  changed = test;
  changed.heads = 8;
  expect(changed, KernelFamily::kTuned, kHalves, "queries to bf16; mla_bytes");
  changed.heads = 16;
  changed.requests = {{1, 300}, {4, 129}, {1, 1}, {3, 900}};
  changed.change = [](AttentionPlanArgs& a) { a.deterministic = true; };
  expect(changed, KernelFamily::kTuned, kBytes, "queries to bf16; mla_bytes");  // and mla_fp8, for the longer ones
  changed = test;
  changed.row_padding = 8;  // rows that are not aligned for copies of 16 bytes: found out when it runs
  expect(changed, KernelFamily::kTuned, kHalves, "mla_fp8");
}

}  // namespace
}  // namespace sextant
