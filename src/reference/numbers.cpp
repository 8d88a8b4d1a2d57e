// Encodes and decodes number formats by their definitions.
#include "reference/numbers.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <vector>

namespace sextant::reference {
namespace {

// A binary floating-point format: value = (-1)^s * 2^(e - bias) * 1.m, subnormal at e == 0.
struct Format {
  int exponent_bits;
  int mantissa_bits;
  int bias;
  enum class Specials { kIeee, kOneNan /* e4m3fn: only all-ones is NaN */, kNegativeZeroNan /* fnuz */ } specials;
};

using S = Format::Specials;
constexpr Format kF32Format{8, 23, 127, S::kIeee};
constexpr Format kF16Format{5, 10, 15, S::kIeee};
constexpr Format kBF16Format{8, 7, 127, S::kIeee};
constexpr Format kE4M3FNFormat{4, 3, 7, S::kOneNan};
constexpr Format kE4M3FNUZFormat{4, 3, 8, S::kNegativeZeroNan};
constexpr Format kE5M2Format{5, 2, 15, S::kIeee};

const Format& format_of(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return kF16Format;
    case DType::kBF16:
      return kBF16Format;
    case DType::kF8E4M3FN:
      return kE4M3FNFormat;
    case DType::kF8E4M3FNUZ:
      return kE4M3FNUZFormat;
    case DType::kF8E5M2:
      return kE5M2Format;
    default:
      return kF32Format;
  }
}

double decode(const Format& f, uint32_t bits) {
  const int sign_shift = f.exponent_bits + f.mantissa_bits;
  const uint32_t mantissa = bits & ((1u << f.mantissa_bits) - 1);
  const uint32_t exponent = (bits >> f.mantissa_bits) & ((1u << f.exponent_bits) - 1);
  const uint32_t exponent_max = (1u << f.exponent_bits) - 1;
  const double sign = (bits >> sign_shift) & 1 ? -1.0 : 1.0;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  if (f.specials == S::kIeee && exponent == exponent_max)
    return mantissa ? nan : sign * std::numeric_limits<double>::infinity();
  if (f.specials == S::kOneNan && exponent == exponent_max && mantissa == (1u << f.mantissa_bits) - 1) return nan;
  if (f.specials == S::kNegativeZeroNan && bits == 1u << sign_shift) return nan;
  const int subnormal = exponent == 0;
  const double significand = mantissa + (subnormal ? 0.0 : std::ldexp(1.0, f.mantissa_bits));
  return sign * std::ldexp(significand, static_cast<int>(exponent) + subnormal - f.bias - f.mantissa_bits);
}

// Every code of a 16-bit or 8-bit format, decoded once: an oracle reads each element many times.
template <DType T>
const double* decoded() {
  static const std::vector<double> values = [] {
    std::vector<double> all(size_t{1} << 8 * size_of(T));
    for (size_t bits = 0; bits < all.size(); ++bits) all[bits] = decode(format_of(T), static_cast<uint32_t>(bits));
    return all;
  }();
  return values.data();
}

// 2^e and the exponent of a positive number, from the bits of a double: std::ldexp and std::frexp would take most of
// the time in which a test makes its data. Every format's exponents are normal in double precision.
double power_of_two(int e) { return std::bit_cast<double>(static_cast<uint64_t>(e + 1023) << 52); }
int exponent_of(double x) { return static_cast<int>(std::bit_cast<uint64_t>(x) >> 52) - 1023; }

double largest(const Format& f) {
  const int exponent_max = (1 << f.exponent_bits) - 1;
  const int top_exponent = f.specials == S::kIeee ? exponent_max - 1 : exponent_max;
  const double top_significand = 2.0 - power_of_two((f.specials == S::kOneNan ? 1 : 0) - f.mantissa_bits);
  return top_significand * power_of_two(top_exponent - f.bias);
}

uint32_t nan_bits(const Format& f) {
  const int sign_shift = f.exponent_bits + f.mantissa_bits;
  return f.specials == S::kNegativeZeroNan ? 1u << sign_shift : (1u << sign_shift) - 1;
}

uint32_t encode(const Format& f, double value, bool saturate) {
  if (std::isnan(value)) return nan_bits(f);
  const int sign_shift = f.exponent_bits + f.mantissa_bits;
  const uint32_t sign = std::signbit(value) ? 1u << sign_shift : 0;
  const uint32_t infinity = ((1u << f.exponent_bits) - 1) << f.mantissa_bits;
  double magnitude = std::fabs(value);
  if (std::isinf(magnitude) && !saturate) return sign | infinity;
  magnitude = std::min(magnitude, 0x1p200);  // beyond every format
  // Quantise to the spacing of the binade (never below that of the subnormals), ties to even.
  int exponent = std::max(exponent_of(magnitude), 1 - f.bias);
  double significand = std::nearbyint(magnitude * power_of_two(f.mantissa_bits - exponent));
  if (significand * power_of_two(exponent - f.mantissa_bits) > largest(f)) {
    if (!saturate) return sign | infinity;
    exponent = exponent_of(largest(f));
    significand = largest(f) * power_of_two(f.mantissa_bits - exponent);
  }
  if (significand == 0) return f.specials == S::kNegativeZeroNan ? 0 : sign;
  // A significand that rounded up to 2 carries into the exponent; a subnormal one (no implicit bit) has exponent 0.
  const uint32_t implicit = 1u << f.mantissa_bits;
  return sign | (static_cast<uint32_t>(exponent + f.bias - 1) * implicit + static_cast<uint32_t>(significand));
}

// Elements are copied out and in byte by byte: recorded tensors lie at any offset of a file.
template <typename T>
T element(const void* data, int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const std::byte*>(data) + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <typename T>
void set_element(void* data, int64_t index, T value) {
  std::memcpy(static_cast<std::byte*>(data) + index * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}

}  // namespace

double load(DType dtype, const void* data, int64_t index) {
  switch (dtype) {
    case DType::kF32:
      return element<float>(data, index);
    case DType::kI32:
      return element<int32_t>(data, index);
    case DType::kI64:
      return static_cast<double>(element<int64_t>(data, index));
    case DType::kI8:
      return element<int8_t>(data, index);
    case DType::kF16:
      return decoded<DType::kF16>()[element<uint16_t>(data, index)];
    case DType::kBF16:
      return decoded<DType::kBF16>()[element<uint16_t>(data, index)];
    case DType::kF8E4M3FN:
      return decoded<DType::kF8E4M3FN>()[element<uint8_t>(data, index)];
    case DType::kF8E4M3FNUZ:
      return decoded<DType::kF8E4M3FNUZ>()[element<uint8_t>(data, index)];
    default:
      return decoded<DType::kF8E5M2>()[element<uint8_t>(data, index)];
  }
}

void store(DType dtype, void* data, int64_t index, double value) {
  switch (dtype) {
    case DType::kF32:
      return set_element(data, index, static_cast<float>(value));
    case DType::kI32:
      return set_element(data, index, static_cast<int32_t>(value));
    case DType::kI64:
      return set_element(data, index, static_cast<int64_t>(value));
    case DType::kI8:
      return set_element(data, index, static_cast<int8_t>(std::clamp(std::nearbyint(value), -128.0, 127.0)));
    case DType::kF16:
    case DType::kBF16:
      return set_element(data, index, static_cast<uint16_t>(encode(format_of(dtype), value, false)));
    default:
      return set_element(data, index, static_cast<uint8_t>(encode(format_of(dtype), value, true)));
  }
}

double max_finite(DType dtype) { return largest(format_of(dtype)); }
double epsilon(DType dtype) { return std::ldexp(1.0, -format_of(dtype).mantissa_bits); }

}  // namespace sextant::reference
