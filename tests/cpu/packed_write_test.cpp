// Cache writes into the packed layout, where runs of slots go their own way, against the layout's definition.
#include "devices/cpu/packed_write.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <numeric>
#include <random>

#include "support/cases.h"
#include "support/isas.h"
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

// One layout's cache, written by the device.
struct WrittenCache {
  std::vector<uint8_t> k, v;
  std::vector<float> k_scales, v_scales;
};
WrittenCache write_codes(KvCacheSpec spec, KvLayout layout, std::vector<uint16_t>& k, std::vector<uint16_t>& v,
                         const std::vector<int64_t>& slots, const std::string& isa = "") {
  spec.layout = layout;
  EXPECT_OK(validate(spec));
  WrittenCache cache;
  cache.k.resize(static_cast<size_t>(k_elements(spec)), 0xff);
  cache.v.resize(static_cast<size_t>(v_elements(spec)), 0xff);
  const auto scales = static_cast<size_t>(std::max<int64_t>(spec.num_kv_heads, scale_elements(spec)));
  cache.k_scales.resize(scales, 0.5F);
  cache.v_scales.resize(scales, 0.25F);
  auto device = make_cpu_device({.executor = make_thread_pool(2), .isa = isa});
  EXPECT_OK(device);
  const auto tokens = static_cast<int64_t>(slots.size());
  ReshapeAndCacheArgs args;
  args.num_tokens = tokens;
  args.k = make_view(k.data(), DType::kBF16, {tokens, spec.num_kv_heads, spec.head_dim});
  args.v = make_view(v.data(), DType::kBF16, {tokens, spec.num_kv_heads, spec.head_dim_v});
  args.slot_mapping = slots.data();
  args.cache = make_kv_cache_view(spec, cache.k.data(), cache.v.data());
  args.cache.k_scale = cache.k_scales.data();
  args.cache.v_scale = cache.v_scales.data();
  args.cache.num_scales = spec.num_kv_heads;
  EXPECT_OK((*device)->ops(KernelFamily::kPortable).reshape_and_cache(args, {}));
  return cache;
}

// Runs of codes, and of rows that find their own scales, hold what single rows do.
TEST(PackedWrite, CodesAreThoseOfRows) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (const KvFormat& format :
       {KvFormat(DType::kF8E4M3FN), KvFormat(DType::kF8E5M2), KvFormat(DType::kF8E4M3FN, KvScales::kTokenHead),
        KvFormat(DType::kI8, KvScales::kTokenHead)})
    for (int32_t block_size : {5, 16, 48}) {
      SCOPED_TRACE(::testing::Message() << to_string(format) << ", block_size " << block_size);
      KvCacheSpec spec;
      spec.dtype = format.dtype;
      spec.scales = format.scales;
      spec.block_size = block_size;
      spec.num_blocks = 1 + 700 / block_size;
      spec.num_kv_heads = 3;
      spec.head_dim = 72;
      spec.head_dim_v = 33;
      const std::vector<int64_t> slots = random_slots(random, spec);
      const auto bf16s = [&](int64_t count) {
        std::vector<uint16_t> x(slots.size() * static_cast<size_t>(count));
        for (uint16_t& bits : x) bits = static_cast<uint16_t>(std::bit_cast<uint32_t>(normal(random)) >> 16);
        return x;
      };
      std::vector<uint16_t> k = bf16s(3 * 72), v = bf16s(3 * 33);
      const WrittenCache rows = write_codes(spec, KvLayout::kNHD, k, v, slots),
                         packed = write_codes(spec, KvLayout::kPacked, k, v, slots);
      EXPECT_EQ(packed.k_scales, rows.k_scales);
      EXPECT_EQ(packed.v_scales, rows.v_scales);
      KvCacheSpec packed_spec = spec;
      packed_spec.layout = KvLayout::kPacked;
      const KvAddressing k_rows = k_addressing(spec), v_rows = v_addressing(spec);
      const KvAddressing k_packed = k_addressing(packed_spec), v_packed = v_addressing(packed_spec);
      for (int64_t block = 0; block < spec.num_blocks; ++block)
        for (int64_t h = 0; h < 3; ++h)
          for (int64_t t = 0; t < block_size; ++t) {
            for (int64_t d = 0; d < 72; ++d)
              ASSERT_EQ(packed.k[static_cast<size_t>(k_packed.offset(block, h, t, d))],
                        rows.k[static_cast<size_t>(k_rows.offset(block, h, t, d))]);
            for (int64_t d = 0; d < 33; ++d)
              ASSERT_EQ(packed.v[static_cast<size_t>(v_packed.offset(block, h, t, d))],
                        rows.v[static_cast<size_t>(v_rows.offset(block, h, t, d))]);
          }
    }
}

// Every bf16 there is, NaN, infinity and subnormals too, becomes the same code whatever writes it.
TEST(PackedWrite, EveryIsaRoundsAlike) {
  for (DType dtype : {DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2}) {
    KvCacheSpec spec;
    spec.dtype = dtype;
    spec.block_size = 16;
    spec.num_blocks = 65536 / 16 / 72 + 1;
    spec.num_kv_heads = 1;
    spec.head_dim = spec.head_dim_v = 72;
    std::vector<int64_t> slots(static_cast<size_t>(spec.num_blocks * 16));
    std::iota(slots.begin(), slots.end(), 0);
    std::vector<uint16_t> k(slots.size() * 72);
    std::iota(k.begin(), k.end(), uint16_t{0});
    const WrittenCache scalar = write_codes(spec, KvLayout::kNHD, k, k, slots, "scalar");
    for (const std::string& isa : testing::available_isas()) {
      SCOPED_TRACE(::testing::Message() << to_string(dtype) << ", " << isa);
      EXPECT_EQ(write_codes(spec, KvLayout::kNHD, k, k, slots, isa).k, scalar.k);
    }
  }
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
