// The vector functions of every ISA that this machine has.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "cpu/vec_probe.h"
#include "devices/cpu/cpu_isa.h"
#include "reference/numbers.h"

namespace sextant::testing {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<const VecProbe*> available_probes() {
  std::vector<const VecProbe*> probes;
#if defined(__x86_64__)
  const std::vector<const VecProbe*> built = {&scalar_probe(), &avx2_probe(), &avx512_probe(), &avx512_bf16_probe()};
#else
  const std::vector<const VecProbe*> built = {&scalar_probe()};
#endif
  for (const VecProbe* probe : built)
    for (const cpu::IsaInfo& isa : cpu::all_isas())
      if (isa.name == probe->isa && isa.available) probes.push_back(probe);
  return probes;
}

class Vec : public ::testing::TestWithParam<const VecProbe*> {
 protected:
  const VecProbe& probe() const { return *GetParam(); }
  float exp2(float x) const {
    float y;
    probe().exp2(5, &x, &y, 1);
    return y;
  }
  float tanh(float x) const {
    float y;
    probe().tanh(5, &x, &y, 1);
    return y;
  }
};

TEST_P(Vec, Exp2IsAsExactAsItsDegreeSays) {
  std::vector<float> x;
  for (int i = -126 * 512; i <= 126 * 512; ++i) x.push_back(static_cast<float>(i) / 512.0F + 1e-4F);
  std::vector<float> y(x.size());
  for (const auto& [degree, allowed] : {std::pair{3, 1.1e-4}, {4, 3.0e-6}, {5, 2.0e-7}}) {
    probe().exp2(degree, x.data(), y.data(), static_cast<int64_t>(x.size()));
    double largest = 0;
    for (size_t i = 0; i < x.size(); ++i)
      largest = std::max(largest, std::fabs(static_cast<double>(y[i]) / std::exp2(static_cast<double>(x[i])) - 1));
    EXPECT_LT(largest, allowed) << "degree " << degree;
  }
}

TEST_P(Vec, Exp2AtTheEdges) {
  EXPECT_EQ(exp2(0), 1.0F);
  EXPECT_EQ(exp2(-127), 0.0F);
  EXPECT_EQ(exp2(-1e30F), 0.0F);
  EXPECT_EQ(exp2(-kInf), 0.0F);
  EXPECT_TRUE(std::isnan(exp2(NAN)));
  for (int n = -126; n <= 127; ++n) EXPECT_EQ(exp2(static_cast<float>(n)), std::ldexp(1.0F, n));
}

TEST_P(Vec, TanhIsExactToAFewUnits) {
  std::vector<float> x;
  for (int i = -20000; i <= 20000; ++i) x.push_back(static_cast<float>(i) * 6e-4F);
  for (float tiny : {1e-30F, -1e-20F, 1e-7F}) x.push_back(tiny);
  std::vector<float> y(x.size());
  probe().tanh(5, x.data(), y.data(), static_cast<int64_t>(x.size()));
  for (size_t i = 0; i < x.size(); ++i) {
    const double exact = std::tanh(static_cast<double>(x[i]));
    ASSERT_NEAR(y[i], exact, 4e-7 * std::fabs(exact)) << "tanh(" << x[i] << ")";
  }
  // Of degree 4 the difference counts, not its share: a logit's difference is a probability's share.
  for (float edge : {kInf, -kInf, 50.0F, -50.0F}) x.push_back(edge);
  y.resize(x.size());
  probe().tanh(4, x.data(), y.data(), static_cast<int64_t>(x.size()));
  for (size_t i = 0; i < x.size(); ++i)
    ASSERT_NEAR(y[i], std::tanh(static_cast<double>(x[i])), 2e-6) << "tanh(" << x[i] << ")";
  EXPECT_EQ(tanh(kInf), 1.0F);
  EXPECT_EQ(tanh(-kInf), -1.0F);
  EXPECT_EQ(tanh(50), 1.0F);
  EXPECT_TRUE(std::isnan(tanh(NAN)));
}

TEST_P(Vec, WidensEveryFp8CodeToBf16Exactly) {
  std::vector<uint8_t> codes(256 + 5);  // an odd length: the tail is converted apart
  std::iota(codes.begin(), codes.end(), uint8_t{0});
  for (DType dtype : {DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2}) {
    std::vector<uint16_t> wide(codes.size() + 1, 0x1234);
    probe().widen_fp8(dtype, codes.data(), wide.data(), static_cast<int64_t>(codes.size()));
    EXPECT_EQ(wide.back(), 0x1234);
    for (size_t i = 0; i < codes.size(); ++i) {
      const double expected = reference::load(dtype, codes.data(), static_cast<int64_t>(i));
      const double actual = reference::load(DType::kBF16, wide.data(), static_cast<int64_t>(i));
      if (std::isnan(expected)) {
        EXPECT_TRUE(std::isnan(actual)) << to_string(dtype) << " code " << i;
      } else {
        EXPECT_EQ(actual, expected) << to_string(dtype) << " code " << i;
        EXPECT_EQ(std::signbit(actual), std::signbit(expected)) << to_string(dtype) << " code " << i;
      }
    }
  }
}

TEST_P(Vec, ReduceLanesSumsEveryVector) {
  const int lanes = probe().lanes;
  std::vector<float> x(static_cast<size_t>(lanes * lanes)), sums(static_cast<size_t>(lanes));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * i % 97);
  probe().reduce_lanes(x.data(), sums.data());
  for (int i = 0; i < lanes; ++i)
    EXPECT_EQ(sums[static_cast<size_t>(i)], std::accumulate(x.begin() + i * lanes, x.begin() + (i + 1) * lanes, 0.0F));
}

TEST_P(Vec, LoadTwoSeparatesEvenAndOdd) {
  const auto lanes = static_cast<size_t>(probe().lanes);
  std::vector<uint16_t> x(2 * lanes);
  std::vector<float> two(2 * lanes);
  for (size_t i = 0; i < x.size(); ++i)
    reference::store(DType::kBF16, x.data(), static_cast<int64_t>(i), 1.0 + static_cast<double>(i));
  probe().load_two_bf16(x.data(), two.data());
  for (size_t i = 0; i < lanes; ++i) {
    EXPECT_EQ(two[i], 1.0F + static_cast<float>(2 * i));
    EXPECT_EQ(two[lanes + i], 2.0F + static_cast<float>(2 * i));
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, Vec, ::testing::ValuesIn(available_probes()),
                         [](const auto& probe) { return std::string(probe.param->isa); });

}  // namespace
}  // namespace sextant::testing
