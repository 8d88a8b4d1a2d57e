#include "devices/hip/emulator/mfma.h"

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

float element(MfmaShape shape, const void* data, int i) {
  if (shape == MfmaShape::kF32x4) return static_cast<const float*>(data)[i];
  uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(data) + 2 * i, sizeof(bits));
  const bool is_bf16 = shape == MfmaShape::kBf16x16 || shape == MfmaShape::kBf16x32;
  return is_bf16 ? as_float(static_cast<uint32_t>(bits) << 16) : half_to_float(bits);
}

}  // namespace

int k_extent(MfmaShape shape) {
  switch (shape) {
    case MfmaShape::kF32x4:
      return 4;
    case MfmaShape::kBf16x32:
    case MfmaShape::kF16x32:
      return 32;
    default:
      return 16;
  }
}

void multiply(const std::array<const MfmaOperands*, 64>& lanes) {
  const MfmaShape shape = lanes[0]->shape;
  const int extent = k_extent(shape);
  float a[32][16], b[32][16], d[16][16];  // A transposed: [k][row]; B [k][column]
  for (int l = 0; l < 64; ++l) {
    const MfmaOperands& lane = *lanes[static_cast<size_t>(l)];
    for (int e = 0; e < extent / 4; ++e) {
      const MfmaPosition at_a = mfma_a(extent, l, e), at_b = mfma_b(extent, l, e);
      a[at_a.column][at_a.row] = element(shape, lane.a, e);
      b[at_b.row][at_b.column] = element(shape, lane.b, e);
    }
    for (int e = 0; e < 4; ++e) d[mfma_d(l, e).row][mfma_d(l, e).column] = lane.d[e];
  }
  for (int k = 0; k < extent; ++k)
    for (int row = 0; row < 16; ++row)
      for (int column = 0; column < 16; ++column) d[row][column] += a[k][row] * b[k][column];
  for (int l = 0; l < 64; ++l)
    for (int e = 0; e < 4; ++e) lanes[static_cast<size_t>(l)]->d[e] = d[mfma_d(l, e).row][mfma_d(l, e).column];
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

}  // namespace sextant::hip::emulator
