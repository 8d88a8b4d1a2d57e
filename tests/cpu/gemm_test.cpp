// gemm of every ISA against sums in double precision: both orders of b, sizes on and off the extents that kernels take
// at once, batches of one and of many (which some kernels divide among workers in another way).
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "reference/numbers.h"
#include "sextant/device.h"
#include "support/isas.h"
#include "support/matchers.h"

namespace sextant {
namespace {

struct Shape {
  int64_t batch, m, k, n;
};

class Gemm : public ::testing::TestWithParam<std::string> {
 protected:
  // Rows of c are longer than n, and what lies between them must stay as it was.
  static constexpr int64_t kGap = 7;
  static constexpr uint16_t kUntouched = 0x7fc1;

  void SetUp() override {
    auto device = make_cpu_device({.executor = make_thread_pool(2), .isa = GetParam()});
    ASSERT_OK(device);
    device_ = *device;
  }

  static std::vector<uint16_t> random_bf16(int64_t count, std::mt19937_64& random) {
    std::vector<uint16_t> values(static_cast<size_t>(count));
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < count; ++i) reference::store(DType::kBF16, values.data(), i, normal(random));
    return values;
  }
  static double at(const std::vector<uint16_t>& values, int64_t i) {
    return reference::load(DType::kBF16, values.data(), i);
  }

  // columns_together: b's columns lie together in memory, as W_UV's do; else its rows.
  void expect_right(const Shape& s, bool columns_together) {
    SCOPED_TRACE(::testing::Message() << s.batch << " x [" << s.m << ", " << s.k << "] x [" << s.k << ", " << s.n
                                      << "], " << (columns_together ? "columns" : "rows") << " of b together");
    std::mt19937_64 random(static_cast<uint64_t>(s.batch * 1000 + s.m * 100 + s.k + s.n));
    std::vector<uint16_t> a = random_bf16(s.batch * s.m * s.k, random), b = random_bf16(s.batch * s.k * s.n, random);
    std::vector<uint16_t> c(static_cast<size_t>(s.batch * s.m * (s.n + kGap)), kUntouched);
    GemmArgs args;
    args.a = make_view(a.data(), DType::kBF16, {s.batch, s.m, s.k});
    args.b = make_view(b.data(), DType::kBF16, {s.batch, s.k, s.n});
    if (columns_together) {
      args.b.stride[1] = 1;
      args.b.stride[2] = s.k;
    }
    args.c = make_view(c.data(), DType::kBF16, {s.batch, s.m, s.n});
    args.c.stride[1] = s.n + kGap;
    args.c.stride[0] = s.m * (s.n + kGap);
    const Status status = device_->ops(KernelFamily::kTuned).gemm(args, {});
    ASSERT_TRUE(status) << status.message();
    int64_t wrong = 0;
    for (int64_t i = 0; i < s.batch; ++i)
      for (int64_t r = 0; r < s.m; ++r) {
        const int64_t row = (i * s.m + r) * (s.n + kGap);
        for (int64_t n = 0; n < s.n; ++n) {
          double sum = 0, mass = 0;
          for (int64_t k = 0; k < s.k; ++k) {
            const double x = at(a, (i * s.m + r) * s.k + k) *
                             at(b, columns_together ? (i * s.n + n) * s.k + k : (i * s.k + k) * s.n + n);
            sum += x;
            mass += std::fabs(x);
          }
          // Half a unit of bf16, and the rounding of fp32 sums.
          const double allowed = std::fabs(sum) * 0x1p-8 + mass * 1e-6;
          wrong += !(std::fabs(at(c, row + n) - sum) <= allowed);
        }
        for (int64_t n = s.n; n < s.n + kGap; ++n) wrong += c[static_cast<size_t>(row + n)] != kUntouched;
      }
    EXPECT_EQ(wrong, 0);
  }

  std::shared_ptr<Device> device_;
};

TEST_P(Gemm, BatchesOfWeights) {
  for (bool columns_together : {false, true})
    for (const Shape& s : {Shape{1, 5, 64, 64}, Shape{3, 1, 128, 192}, Shape{5, 16, 96, 64}, Shape{2, 17, 32, 128},
                           Shape{4, 33, 160, 64}, Shape{70, 2, 32, 64}, Shape{2, 3, 768, 64}, Shape{2, 3, 800, 64}})
      expect_right(s, columns_together);
}

TEST_P(Gemm, ExtentsOffEveryMultiple) {
  for (bool columns_together : {false, true})
    for (const Shape& s : {Shape{3, 5, 33, 64}, Shape{3, 5, 64, 50}, Shape{2, 7, 1, 3}, Shape{2, 200, 48, 300}})
      expect_right(s, columns_together);
}

INSTANTIATE_TEST_SUITE_P(Isas, Gemm, ::testing::ValuesIn(testing::available_isas()),
                         [](const auto& isa) { return isa.param; });

}  // namespace
}  // namespace sextant
