// Number conversions of every ISA's table against the definitions, exhaustively.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "devices/cpu/cpu_isa.h"
#include "reference/numbers.h"

namespace sextant::cpu {
namespace {

std::vector<const IsaInfo*> isas_with_tables() {
  std::vector<const IsaInfo*> isas;
  for (const IsaInfo& isa : all_isas())
    if (isa.available && isa.kernels->convert_mul != nullptr) isas.push_back(&isa);
  return isas;
}

class Conversion : public ::testing::TestWithParam<const IsaInfo*> {
 protected:
  // Converts all values of `from` to `to` and compares with the reference; `count` codes.
  template <class Code>
  void compare(DType from, DType to, int64_t count) const {
    std::vector<Code> source(static_cast<size_t>(count));
    std::iota(source.begin(), source.end(), Code{0});
    std::vector<uint8_t> actual(source.size() * size_of(to)), expected(actual.size());
    GetParam()->kernels->convert_mul(source.data(), from, actual.data(), to, count, 1.0F);
    for (int64_t i = 0; i < count; ++i) {
      const double value = reference::load(from, source.data(), i);
      reference::store(to, expected.data(), i, value);
      const double a = reference::load(to, actual.data(), i), e = reference::load(to, expected.data(), i);
      if (std::isnan(e))
        ASSERT_TRUE(std::isnan(a)) << to_string(from) << " code " << i << " as " << to_string(to);
      else
        ASSERT_EQ(a, e) << to_string(from) << " code " << i << " as " << to_string(to);
    }
  }
};

TEST_P(Conversion, EveryFp8CodeToEveryType) {
  for (DType from : {DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2})
    for (DType to : {DType::kF32, DType::kF16, DType::kBF16}) compare<uint8_t>(from, to, 256);
}

TEST_P(Conversion, EverySixteenBitNumberRoundsToFp8) {
  for (DType from : {DType::kBF16, DType::kF16})
    for (DType to : {DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2}) compare<uint16_t>(from, to, 65536);
}

TEST_P(Conversion, EverySixteenBitNumberToEveryFloat) {
  for (DType from : {DType::kBF16, DType::kF16})
    for (DType to : {DType::kF32, DType::kF16, DType::kBF16}) compare<uint16_t>(from, to, 65536);
}

TEST_P(Conversion, ScalesMultiplyOnLoadAndDivideOnStore) {
  std::vector<float> x(37), y(37);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i) - 18.0F;
  GetParam()->kernels->convert_mul(x.data(), DType::kF32, y.data(), DType::kF32, 37, 0.25F);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], x[i] * 0.25F);
  GetParam()->kernels->convert_div(x.data(), DType::kF32, y.data(), DType::kF32, 37, 3.0F);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], x[i] / 3.0F);
}

INSTANTIATE_TEST_SUITE_P(Isas, Conversion, ::testing::ValuesIn(isas_with_tables()),
                         [](const auto& isa) { return std::string(isa.param->name); });

}  // namespace
}  // namespace sextant::cpu
