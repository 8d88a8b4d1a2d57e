// Computes a matrix instruction for all lanes of a wave.
#include "devices/hip/emulator/mfma.h"

#include <cmath>
#include <cstring>

#include "devices/hip/kernels/mfma_layout.h"

namespace sextant::hip::emulator {
namespace {

float as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
uint32_t as_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

bool is_bf16(MfmaShape shape) {
  return shape == MfmaShape::kBf16x16 || shape == MfmaShape::kBf16x32 || shape == MfmaShape::kBf16x8Tall ||
         shape == MfmaShape::kBf16x16Tall;
}
bool is_tall(MfmaShape shape) { return shape >= MfmaShape::kBf16x8Tall; }

float element(MfmaShape shape, const void* data, int i) {
  if (shape == MfmaShape::kF32x4) return static_cast<const float*>(data)[i];
  uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(data) + 2 * i, sizeof(bits));
  return is_bf16(shape) ? as_float(static_cast<uint32_t>(bits) << 16) : half_to_float(bits);
}

// One shape's positions: kSide rows and columns.
template <int kSide>
void multiply_sides(const std::array<const MfmaOperands*, 64>& lanes) {
  constexpr bool kTall = kSide == 32;
  const MfmaShape shape = lanes[0]->shape;
  const int extent = k_extent(shape);
  const int operands = extent * kSide / 64, results = kSide * kSide / 64;
  float a[32][kSide], b[32][kSide], d[kSide][kSide];  // A transposed: [k][row]; B [k][column]
  for (int l = 0; l < 64; ++l) {
    const MfmaOperands& lane = *lanes[static_cast<size_t>(l)];
    for (int e = 0; e < operands; ++e) {
      const MfmaPosition at_a = kTall ? mfma_tall_a(extent, l, e) : mfma_a(extent, l, e);
      const MfmaPosition at_b = kTall ? mfma_tall_b(extent, l, e) : mfma_b(extent, l, e);
      a[at_a.column][at_a.row] = element(shape, lane.a, e);
      b[at_b.row][at_b.column] = element(shape, lane.b, e);
    }
    for (int e = 0; e < results; ++e) {
      const MfmaPosition at = kTall ? mfma_tall_d(l, e) : mfma_d(l, e);
      d[at.row][at.column] = lane.d[e];
    }
  }
  for (int k = 0; k < extent; ++k)
    for (int row = 0; row < kSide; ++row)
      for (int column = 0; column < kSide; ++column) d[row][column] += a[k][row] * b[k][column];
  for (int l = 0; l < 64; ++l)
    for (int e = 0; e < results; ++e) {
      const MfmaPosition at = kTall ? mfma_tall_d(l, e) : mfma_d(l, e);
      lanes[static_cast<size_t>(l)]->d[e] = d[at.row][at.column];
    }
}

}  // namespace

int k_extent(MfmaShape shape) {
  switch (shape) {
    case MfmaShape::kF32x4:
      return 4;
    case MfmaShape::kBf16x8Tall:
    case MfmaShape::kF16x8Tall:
      return 8;
    case MfmaShape::kBf16x32:
    case MfmaShape::kF16x32:
      return 32;
    default:
      return 16;
  }
}

void multiply(const std::array<const MfmaOperands*, 64>& lanes) {
  if (is_tall(lanes[0]->shape)) {
    multiply_sides<32>(lanes);
  } else {
    multiply_sides<16>(lanes);
  }
}

float half_to_float(uint16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000u) << 16, magnitude = x & 0x7fffu;
  if (magnitude >= 0x7c00u) return as_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // The exponent's bias is 15 there and 127 here; the product also makes subnormals right.
  return as_float(as_bits(as_float(magnitude << 13) * as_float(0x77800000u)) | sign);
}

uint16_t float_to_half(float x) {
  const uint32_t bits = as_bits(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 leaves units of 2^-24, rounded to even, in the low bits.
    return static_cast<uint16_t>(sign | (as_bits(as_float(magnitude) + 0.5f) - as_bits(0.5f)));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13);
}

uint16_t cut_to_half(float x) {
  const uint16_t near = float_to_half(x);
  // Nearest went past x: one step back. Halves of one sign count up with their bits.
  const bool past = std::fabs(half_to_float(near)) > std::fabs(x);
  return past ? static_cast<uint16_t>(near - 1) : near;
}

}  // namespace sextant::hip::emulator
