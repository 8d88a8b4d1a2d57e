// Caches with a scale a token and head, op by op: written, copied with their scales, gathered.
#include <cmath>

#include "support/cases.h"

namespace sextant {
namespace {

class TokenScales : public ::testing::TestWithParam<std::pair<DeviceKind, DType>> {};

TEST_P(TokenScales, AreWrittenCopiedAndGathered) {
  const auto [kind, dtype] = GetParam();
  auto device = open_device(kind);
  ASSERT_OK(device);
  KvCacheSpec spec;
  spec.dtype = dtype;
  spec.scales = KvScales::kTokenHead;
  spec.num_blocks = 3;
  spec.block_size = 2;
  spec.num_kv_heads = 2;
  spec.head_dim = spec.head_dim_v = 16;
  std::vector<float> k(3 * 2 * 16), v(k.size()), out_k(k.size(), -1), out_v(k.size(), -1);
  for (size_t i = 0; i < k.size(); ++i) {
    k[i] = std::sin(static_cast<float>(i)) * static_cast<float>(1 + i / 16);
    v[i] = std::cos(static_cast<float>(i));
  }
  for (size_t i = 0; i < 16; ++i) v[i] = 0;  // a row of zeros has the smallest scale, not 0 / 0
  std::vector<uint8_t> k_memory(3 * 2 * 2 * 16, 0xff), v_memory(k_memory.size(), 0xff);
  std::vector<float> k_scale(3 * 2 * 2, NAN), v_scale(k_scale.size(), NAN);
  KvCacheView cache = make_kv_cache_view(spec, k_memory.data(), v_memory.data());
  cache.k_scale = k_scale.data();
  cache.v_scale = v_scale.data();
  const auto rows = [](std::vector<float>& x) { return make_view(x.data(), DType::kF32, {3, 2, 16}); };
  for (KernelFamily family : {KernelFamily::kPortable, KernelFamily::kTuned}) {
    const Ops& ops = (*device)->ops(family);
    const std::vector<int64_t> slots = {0, 1, 4};
    ASSERT_OK(ops.reshape_and_cache({rows(k), rows(v), slots.data(), 3, cache}, {}));
    EXPECT_EQ(v_scale[0], kSmallestTokenScale);
    EXPECT_TRUE(std::isnan(k_scale[2 * 2]) || family == KernelFamily::kTuned);  // slot 2 was not written
    const std::vector<int64_t> pair = {0, 1};
    ASSERT_OK(ops.copy_blocks({cache, pair.data(), 1}, {}));
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(k_scale[4 + i], k_scale[i]);
      EXPECT_EQ(v_scale[4 + i], v_scale[i]);
    }
    const std::vector<int32_t> table = {1, 2}, starts = {0, 3};
    GatherCacheArgs gather;
    gather.cache = cache;
    gather.block_table = table.data();
    gather.block_table_stride = 2;
    gather.num_requests = 1;
    gather.key_start_loc = starts.data();
    gather.max_rows = 3;
    gather.k = rows(out_k);
    gather.v = rows(out_v);
    ASSERT_OK(ops.gather_cache(gather, {}));
    const float step = dtype == DType::kI8 ? 0.5F / 127 : 1.0F / 16;  // of a row's largest, 6
    for (size_t i = 0; i < k.size(); ++i) {
      ASSERT_NEAR(out_k[i], k[i], 6 * step + 1e-6F) << i;
      ASSERT_NEAR(out_v[i], v[i], step + 1e-6F) << i;
    }
  }
}

// K and V of a block behind one another, as some engines lay out their cache, and nothing behind the last block.
class CopyBlocks : public ::testing::TestWithParam<DeviceKind> {};

TEST_P(CopyBlocks, OfInterleavedMemoryMovesElementsAlone) {
  const auto device = open_device({GetParam()});
  if (!device.is_ok()) GTEST_SKIP() << device.status().message();
  constexpr int64_t kBlocks = 4, kTokens = 3, kHeads = 2, kDim = 16, kHalf = kTokens * kHeads * kDim;
  KvCacheSpec spec;
  spec.layout = KvLayout::kStrided;
  spec.dtype = DType::kF16;
  spec.num_blocks = kBlocks;
  spec.block_size = kTokens;
  spec.num_kv_heads = kHeads;
  spec.head_dim = spec.head_dim_v = kDim;
  for (KernelFamily family : {KernelFamily::kPortable, KernelFamily::kTuned}) {
    std::vector<uint16_t> memory(2 * kBlocks * kHalf);
    for (size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<uint16_t>(i);
    KvCacheView cache;
    cache.spec = spec;
    cache.k = memory.data();
    cache.v = memory.data() + kHalf;
    cache.k_addr = cache.v_addr = {
        .block_stride = 2 * kHalf, .head_stride = kDim, .token_outer_stride = kHeads * kDim, .dim_outer_stride = 1};
    const std::vector<int64_t> pair = {1, kBlocks - 1};
    ASSERT_OK((*device)->ops(family).copy_blocks({cache, pair.data(), 1}, {}));
    for (size_t i = 0; i < memory.size(); ++i)
      ASSERT_EQ(memory[i], i < 2 * (kBlocks - 1) * kHalf ? i : i - 2 * (kBlocks - 2) * kHalf) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, CopyBlocks, ::testing::Values(DeviceKind::kCpu, DeviceKind::kHipEmulated));

INSTANTIATE_TEST_SUITE_P(Devices, TokenScales,
                         ::testing::Values(std::pair{DeviceKind::kCpu, DType::kI8},
                                           std::pair{DeviceKind::kCpu, DType::kF8E4M3FN},
                                           std::pair{DeviceKind::kHipEmulated, DType::kI8},
                                           std::pair{DeviceKind::kHipEmulated, DType::kF8E4M3FNUZ}),
                         [](const auto& param) {
                           return std::string(param.param.first == DeviceKind::kCpu ? "cpu_" : "hip_emulated_") +
                                  to_string(param.param.second);
                         });

}  // namespace
}  // namespace sextant
