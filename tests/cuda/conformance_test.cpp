// Every backend on the GPU against the oracle, and the bytes of fp8 caches.
#include <cmath>

#include "cuda/gpu.h"
#include "reference/numbers.h"
#include "support/matchers.h"
#include "verify/device_buffer.h"
#include "verify/verify.h"

namespace sextant {
namespace {

using testing::gpu;

// The whole sweep is `sextant verify --device cuda`; this one has other data.
TEST(CudaConformance, OracleSweep) {
  SKIP_WITHOUT_GPU();
  verify::VerifyOptions options;
  options.reduced = true;
  options.seed = 31;
  const verify::SuiteResult suite = verify::run_oracle_sweep(**gpu(), options);
  EXPECT_GT(suite.passed, 200);
  EXPECT_EQ(suite.skipped, 0);
  for (const std::string& message : suite.messages) ADD_FAILURE() << message;
}

// Every finite bf16 number, zeros and subnormals included, becomes the code that the format's definition gives.
class CudaFp8 : public ::testing::TestWithParam<DType> {};

TEST_P(CudaFp8, EveryNumberBecomesItsCode) {
  SKIP_WITHOUT_GPU();
  constexpr int64_t kTokens = 255, kHeads = 4, kDim = 64;  // 2 * 0x7f80 finite numbers
  std::vector<uint16_t> numbers;
  for (int sign = 0; sign < 2; ++sign)
    for (int bits = 0; bits < 0x7f80; ++bits) numbers.push_back(static_cast<uint16_t>(sign * 0x8000 + bits));
  ASSERT_EQ(numbers.size(), static_cast<size_t>(kTokens * kHeads * kDim));
  std::vector<int64_t> slots(kTokens);
  for (size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<int64_t>(i);
  KvCacheSpec cache;
  cache.dtype = GetParam();
  cache.num_blocks = 16;
  cache.num_kv_heads = kHeads;
  cache.head_dim = cache.head_dim_v = kDim;
  std::vector<uint8_t> expected(numbers.size());
  for (size_t i = 0; i < numbers.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    reference::store(cache.dtype, expected.data(), at, reference::load(DType::kBF16, numbers.data(), at));
  }
  for (KernelFamily family : {KernelFamily::kPortable, KernelFamily::kTuned}) {
    auto source = DeviceBuffer::make(**gpu(), numbers.data(), numbers.size() * 2);
    auto slot_mapping = DeviceBuffer::make(**gpu(), slots.data(), slots.size() * 8);
    auto k = DeviceBuffer::make(**gpu(), static_cast<size_t>(k_elements(cache)));
    auto v = DeviceBuffer::make(**gpu(), static_cast<size_t>(v_elements(cache)));
    ASSERT_TRUE(source && slot_mapping && k && v);
    ReshapeAndCacheArgs args;
    args.k = args.v = make_view(source->data(), DType::kBF16, {kTokens, kHeads, kDim});
    args.slot_mapping = slot_mapping->as<int64_t>();
    args.num_tokens = kTokens;
    args.cache = make_kv_cache_view(cache, k->data(), v->data());
    ASSERT_OK((*gpu())->ops(family).reshape_and_cache(args, {}));
    for (const DeviceBuffer* written : {&*k, &*v}) {
      std::vector<uint8_t> bytes(expected.size());
      ASSERT_OK(written->read(bytes.data(), bytes.size()));
      for (size_t i = 0; i < bytes.size(); ++i)
        ASSERT_EQ(bytes[i], expected[i]) << "bf16 bits " << numbers[i] << ", " << to_string(family);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, CudaFp8, ::testing::Values(DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2),
                         [](const auto& dtype) { return std::string(to_string(dtype.param)); });

}  // namespace
}  // namespace sextant
