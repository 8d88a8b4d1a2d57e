// Cache writes into the packed layout, where runs of slots go their own way, against the layout's definition.
#include "devices/cpu/packed_write.h"

#include <gtest/gtest.h>

#include <random>

#include "support/cases.h"
#include "support/matchers.h"

namespace sextant {
namespace {

// Slots in runs of random length from random places, none twice, with padding between.
std::vector<int64_t> random_slots(std::mt19937& random, const KvCacheSpec& cache) {
  const int64_t slots = cache.num_blocks * cache.block_size;
  std::vector<int64_t> mapping;
  std::vector<bool> taken(static_cast<size_t>(slots), false);
  for (int run = 0; run < 24; ++run) {
    int64_t slot = std::uniform_int_distribution<int64_t>(0, slots - 1)(random);
    const int64_t length = std::uniform_int_distribution<int64_t>(1, 40)(random);
    for (int64_t i = 0; i < length && slot < slots && !taken[static_cast<size_t>(slot)]; ++i, ++slot) {
      taken[static_cast<size_t>(slot)] = true;
      mapping.push_back(slot);
    }
    if (run % 3 == 0) mapping.push_back(-1);
  }
  return mapping;
}

std::vector<uint16_t> random_bits(std::mt19937& random, int64_t count) {
  std::vector<uint16_t> bits(static_cast<size_t>(count));
  for (uint16_t& x : bits) x = static_cast<uint16_t>(random());
  return bits;
}

void expect_exact(int32_t block_size, int32_t dim, int32_t dim_v, uint32_t seed) {
  SCOPED_TRACE(::testing::Message() << "block_size " << block_size << ", head_dim " << dim << ", head_dim_v " << dim_v);
  std::mt19937 random(seed);
  KvCacheSpec spec;
  spec.layout = KvLayout::kPacked;
  spec.dtype = DType::kBF16;
  spec.block_size = block_size;
  spec.num_blocks = 1 + 700 / block_size;
  spec.num_kv_heads = 3;
  spec.head_dim = dim;
  spec.head_dim_v = dim_v;
  ASSERT_OK(validate(spec));
  const std::vector<int64_t> slots = random_slots(random, spec);
  const auto tokens = static_cast<int64_t>(slots.size());
  std::vector<uint16_t> k = random_bits(random, tokens * 3 * dim), v = random_bits(random, tokens * 3 * dim_v);
  std::vector<uint16_t> k_cache(static_cast<size_t>(k_elements(spec)), 0xffff),
      v_cache(static_cast<size_t>(v_elements(spec)), 0xffff);
  std::vector<uint16_t> k_expected = k_cache, v_expected = v_cache;
  const KvAddressing k_at = k_addressing(spec), v_at = v_addressing(spec);
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t slot = slots[static_cast<size_t>(t)], block = slot / block_size, token = slot % block_size;
    for (int64_t h = 0; h < 3 && slot >= 0; ++h) {
      for (int64_t d = 0; d < dim; ++d)
        k_expected[static_cast<size_t>(k_at.offset(block, h, token, d))] =
            k[static_cast<size_t>((t * 3 + h) * dim + d)];
      for (int64_t d = 0; d < dim_v; ++d)
        v_expected[static_cast<size_t>(v_at.offset(block, h, token, d))] =
            v[static_cast<size_t>((t * 3 + h) * dim_v + d)];
    }
  }
  auto device = make_cpu_device({.executor = make_thread_pool(2)});
  ASSERT_OK(device);
  ReshapeAndCacheArgs args;
  args.num_tokens = tokens;
  args.k = make_view(k.data(), DType::kBF16, {tokens, 3, dim});
  args.v = make_view(v.data(), DType::kBF16, {tokens, 3, dim_v});
  args.slot_mapping = slots.data();
  args.cache = make_kv_cache_view(spec, k_cache.data(), v_cache.data());
  ASSERT_OK((*device)->ops(KernelFamily::kPortable).reshape_and_cache(args, {}));
  EXPECT_EQ(k_cache, k_expected);  // slots that nobody wrote keep their bytes
  EXPECT_EQ(v_cache, v_expected);
}

TEST(PackedWrite, EverySlotAndNoOtherGetsItsRow) {
  uint32_t seed = 1;
  for (int32_t block_size : {1, 3, 16, 64, 544})
    for (const auto& [dim, dim_v] : {std::pair{128, 128}, {72, 40}, {2, 33}})
      expect_exact(block_size, dim, dim_v, seed++);
}

TEST(PackedWrite, RunsEndAtPanelsBlocksAndGaps) {
  const int64_t slots[] = {30, 31, 32, 33, 47, 48, -1, 5, 7};
  EXPECT_EQ(cpu::run_of_slots(slots, 0, 9, 64), 2);  // a panel ends
  EXPECT_EQ(cpu::run_of_slots(slots, 2, 9, 64), 2);  // a gap
  EXPECT_EQ(cpu::run_of_slots(slots, 4, 9, 64), 1);
  EXPECT_EQ(cpu::run_of_slots(slots, 0, 9, 11), 3);  // tokens 8, 9, 10 of a block of 11
  EXPECT_EQ(cpu::run_of_slots(slots, 2, 3, 64), 1);  // the end of the task
  EXPECT_EQ(cpu::run_of_slots(slots, 7, 9, 64), 1);
}

}  // namespace
}  // namespace sextant
