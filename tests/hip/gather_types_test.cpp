// gather_cache into rows of another type than the cache's: every pair, by chunks of 8 and element by element, on the
// emulator and by the machine code of each chip.
#include <gtest/gtest.h>

#include <cmath>

#include "devices/hip/emulator/emulated_device.h"
#include "hip/isa/runner.h"
#include "reference/numbers.h"
#include "support/matchers.h"
#include "support/sanitizers.h"

namespace sextant::hip {
namespace {

// Numbers of which the other 16-bit type cannot hold all: some round, some are subnormal in fp16.
double number(int64_t i) {
  return std::ldexp(std::sin(0.7 * static_cast<double>(i) + 0.3), static_cast<int>(i % 23) - 18);
}

void expect_gathered(const Ops& ops, DType cached, DType rows, int32_t dim) {
  KvCacheSpec spec;
  spec.dtype = cached;
  spec.num_blocks = 3;
  spec.block_size = 4;
  spec.num_kv_heads = 2;
  spec.head_dim = spec.head_dim_v = dim;
  const int64_t elements = k_elements(spec), count = int64_t{6} * 2 * dim;
  std::vector<std::byte> k(static_cast<size_t>(elements) * size_of(cached)), v(k);
  for (int64_t i = 0; i < elements; ++i) {
    reference::store(cached, k.data(), i, number(i));
    reference::store(cached, v.data(), i, number(i + 5));
  }
  std::vector<std::byte> out_k(static_cast<size_t>(count) * size_of(rows)), out_v(out_k), expected(out_k);
  const std::vector<int32_t> table = {2, 1}, starts = {0, 6};
  GatherCacheArgs args;
  args.cache = make_kv_cache_view(spec, k.data(), v.data());
  args.block_table = table.data();
  args.block_table_stride = 2;
  args.num_requests = 1;
  args.key_start_loc = starts.data();
  args.chunk_begin = 1;
  args.max_rows = 6;
  args.k = make_view(out_k.data(), rows, {6, 2, dim});
  args.v = make_view(out_v.data(), rows, {6, 2, dim});
  ASSERT_OK(ops.gather_cache(args, {}));
  for (const bool values : {false, true}) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = i / (2 * dim), head = i / dim % 2, at = row + 1;
      const int64_t from = args.cache.k_addr.offset(table[static_cast<size_t>(at / 4)], head, at % 4, i % dim);
      reference::store(rows, expected.data(), i, reference::load(cached, values ? v.data() : k.data(), from));
    }
    EXPECT_EQ(values ? out_v : out_k, expected) << to_string(cached) << " to " << to_string(rows) << ", " << dim;
  }
}

void expect_every_pair(const Device& device) {
  for (DType cached : {DType::kF32, DType::kF16, DType::kBF16})
    for (DType rows : {DType::kF32, DType::kF16, DType::kBF16})
      for (int32_t dim : {16, 20}) expect_gathered(device.ops(KernelFamily::kTuned), cached, rows, dim);
}

TEST(HipGather, BetweenTypes) {
  SKIP_UNDER_SANITIZERS();
  expect_every_pair(*make_emulated_device());
  for (const char* chip : {"gfx90a", "gfx942", "gfx950"}) {
    isa::MachineCode code(chip, "", "ops");
    if (code.available()) expect_every_pair(*code.device());
  }
}

}  // namespace
}  // namespace sextant::hip
