#include "reference/numbers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

namespace sextant::reference {
namespace {

double round_trip(DType dtype, double x) {
  uint8_t cell[8];
  store(dtype, cell, 0, x);
  return load(dtype, cell, 0);
}

TEST(Numbers, Fp8CodesRoundTrip) {
  for (DType dtype : {DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2})
    for (int code = 0; code < 256; ++code) {
      const auto byte = static_cast<uint8_t>(code);
      const double value = load(dtype, &byte, 0);
      if (!std::isfinite(value)) continue;
      uint8_t back = 0;
      store(dtype, &back, 0, value);
      EXPECT_EQ(back, byte) << to_string(dtype) << " " << value;
    }
}

TEST(Numbers, LargestValues) {
  EXPECT_EQ(max_finite(DType::kF8E4M3FN), 448);
  EXPECT_EQ(max_finite(DType::kF8E4M3FNUZ), 240);
  EXPECT_EQ(max_finite(DType::kF8E5M2), 57344);
  EXPECT_EQ(max_finite(DType::kF16), 65504);
  EXPECT_EQ(round_trip(DType::kF8E4M3FN, 1e6), 448);
  EXPECT_TRUE(std::isinf(round_trip(DType::kF16, 1e6)));
}

TEST(Numbers, TiesGoToEven) {
  EXPECT_EQ(round_trip(DType::kBF16, 1 + std::ldexp(1, -8)), 1);
  EXPECT_EQ(round_trip(DType::kBF16, 1 + 3 * std::ldexp(1, -8)), 1 + std::ldexp(1, -6));
  EXPECT_EQ(round_trip(DType::kF16, 2049), 2048);
  EXPECT_EQ(round_trip(DType::kF8E4M3FN, 17), 16);
}

TEST(Numbers, SubnormalsAreExact) {
  EXPECT_EQ(round_trip(DType::kF16, std::ldexp(1, -24)), std::ldexp(1, -24));
  EXPECT_EQ(round_trip(DType::kF8E4M3FN, std::ldexp(1, -9)), std::ldexp(1, -9));
  EXPECT_EQ(round_trip(DType::kF8E4M3FN, std::ldexp(1, -11)), 0);
}

TEST(Numbers, FnuzHasOneNanAndNoNegativeZero) {
  uint8_t byte = 0x80;
  EXPECT_TRUE(std::isnan(load(DType::kF8E4M3FNUZ, &byte, 0)));
  store(DType::kF8E4M3FNUZ, &byte, 0, -0.0);
  EXPECT_EQ(byte, 0);
}

}  // namespace
}  // namespace sextant::reference
