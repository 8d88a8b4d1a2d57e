#include "sextant/kv_cache.h"

#include <gtest/gtest.h>

#include <set>

#include "support/matchers.h"

namespace sextant {
namespace {

KvCacheSpec spec_of(KvLayout layout, DType dtype, int32_t block_size, int32_t heads, int32_t dim, int32_t dim_v) {
  KvCacheSpec spec;
  spec.layout = layout;
  spec.dtype = dtype;
  spec.num_blocks = 3;
  spec.block_size = block_size;
  spec.num_kv_heads = heads;
  spec.head_dim = dim;
  spec.head_dim_v = dim_v;
  return spec;
}

// No two elements share an address, and all lie inside the tensor.
void expect_one_address_each(const KvCacheSpec& spec, const KvAddressing& address, int64_t elements, int32_t dim) {
  std::set<int64_t> seen;
  for (int64_t block = 0; block < spec.num_blocks; ++block)
    for (int32_t head = 0; head < spec.num_kv_heads; ++head)
      for (int32_t token = 0; token < spec.block_size; ++token)
        for (int32_t d = 0; d < dim; ++d) {
          const int64_t offset = address.offset(block, head, token, d);
          ASSERT_GE(offset, 0);
          ASSERT_LT(offset, elements);
          ASSERT_TRUE(seen.insert(offset).second) << to_string(spec.layout) << " " << token << " " << d;
        }
}

TEST(KvLayout, EveryElementHasItsOwnAddress) {
  for (KvLayout layout : {KvLayout::kNHD, KvLayout::kHND, KvLayout::kSplitK, KvLayout::kShuffled, KvLayout::kPacked})
    for (DType dtype : {DType::kBF16, DType::kF8E4M3FN})
      for (int32_t block_size : {1, 3, 16, 17})
        for (int32_t dim : {8, 24, 80}) {
          const KvCacheSpec spec = spec_of(layout, dtype, block_size, 2, dim, dim + 8);
          ASSERT_OK(validate(spec));
          expect_one_address_each(spec, k_addressing(spec), k_elements(spec), dim);
          expect_one_address_each(spec, v_addressing(spec), v_elements(spec), dim + 8);
        }
}

// The shapes that ROCM_ATTN documents: K [nb, Hkv, D/x, bs, x], V [nb, Hkv, D, bs].
TEST(KvLayout, SplitKIsAsDocumented) {
  const KvCacheSpec spec = spec_of(KvLayout::kSplitK, DType::kBF16, 16, 2, 64, 64);
  const KvAddressing k = k_addressing(spec), v = v_addressing(spec);
  EXPECT_EQ(k.offset(1, 1, 5, 19), (((1 * 2 + 1) * 8 + 19 / 8) * 16 + 5) * 8 + 19 % 8);
  EXPECT_EQ(v.offset(1, 1, 5, 19), ((1 * 2 + 1) * 64 + 19) * 16 + 5);
}

TEST(KvLayout, ShuffledIsAsDocumented) {
  const KvCacheSpec spec = spec_of(KvLayout::kShuffled, DType::kBF16, 16, 2, 64, 64);
  EXPECT_EQ(v_addressing(spec).offset(1, 1, 11, 19), (((1 * 2 + 1) * 2 + 11 / 8) * 64 + 19) * 8 + 11 % 8);
}

TEST(KvLayout, LatentSharesOneTensor) {
  KvCacheSpec spec = spec_of(KvLayout::kLatent, DType::kBF16, 16, 1, 576, 512);
  ASSERT_OK(validate(spec));
  EXPECT_EQ(k_elements(spec), 3 * 16 * 576);
  EXPECT_EQ(v_elements(spec), 0);
  int cell = 0;
  const KvCacheView view = make_kv_cache_view(spec, &cell, nullptr);
  EXPECT_EQ(view.v, &cell);
}

TEST(KvCacheSpec, RefusesWhatCannotBe) {
  KvCacheSpec spec = spec_of(KvLayout::kNHD, DType::kBF16, 0, 2, 64, 64);
  EXPECT_ERROR(validate(spec), StatusCode::kInvalidArgument, "cache.block_size is 0; allowed: >= 1");
  spec = spec_of(KvLayout::kPacked, DType::kF32, 16, 2, 64, 64);
  EXPECT_ERROR(validate(spec), StatusCode::kInvalidArgument, "layout packed allows 16-bit");
  spec = spec_of(KvLayout::kLatent, DType::kBF16, 16, 2, 576, 512);
  EXPECT_ERROR(validate(spec), StatusCode::kInvalidArgument, "num_kv_heads is 2; a latent cache has 1");
  spec = spec_of(KvLayout::kNHD, DType::kBF16, 16, 2, 64, 64);
  spec.num_blocks = int64_t{1} << 50;
  EXPECT_ERROR(validate(spec), StatusCode::kInvalidArgument, "allowed: a cache of at most 2^59 elements");
  spec.num_blocks = 0;
  spec.block_size = spec.num_kv_heads = 0x7fffffff;
  EXPECT_ERROR(validate(spec), StatusCode::kInvalidArgument, "allowed: a cache of at most 2^59 elements");
}

// Large caches need 64-bit offsets.
TEST(KvAddressing, DoesNotOverflow) {
  const KvCacheSpec spec = spec_of(KvLayout::kNHD, DType::kBF16, 16, 8, 128, 128);
  EXPECT_EQ(k_addressing(spec).offset(3'000'000, 0, 0, 0), int64_t{3'000'000} * 16 * 8 * 128);
}

}  // namespace
}  // namespace sextant
