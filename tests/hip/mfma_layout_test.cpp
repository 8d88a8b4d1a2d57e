// The layout table of the matrix instructions against the product that defines them: with one-hot operands every
// element of A and B must land where the definition says, and with random ones all of D must agree.
#include "devices/hip/kernels/mfma_layout.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "devices/hip/emulator/workgroup.h"
#include "devices/hip/kernels/lane.h"
#include "support/sanitizers.h"

namespace sextant::hip {
namespace {

using emulator::MfmaShape;

struct Matrices {
  MfmaShape shape;
  int k;
  float a[32][32], b[32][32], c[32][32], d[32][32];
};
bool is_tall(MfmaShape shape) { return shape >= MfmaShape::kBf16x8Tall; }

uint16_t to_bits(MfmaShape shape, float x) {
  if (shape == MfmaShape::kF16x16 || shape == MfmaShape::kF16x32 || shape == MfmaShape::kF16x8Tall ||
      shape == MfmaShape::kF16x16Tall)
    return emulator::float_to_half(x);
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return static_cast<uint16_t>(bits >> 16);  // the tests' values are exact in bf16
}

// The first elements of a lane's operand, as the instructions take them.
template <class Words>
Words words_of(const uint16_t (&elements)[8]) {
  Words words;
  std::memcpy(&words, elements, sizeof(words));
  return words;
}

// The same for the shapes of 32 rows and columns.
void tall_kernel(const void* params) {
  auto& m = **static_cast<Matrices* const*>(params);
  const int lane = lane_index(), each = m.k / 2;
  uint16_t a[8] = {}, b[8] = {};
  for (int e = 0; e < each; ++e) {
    a[e] = to_bits(m.shape, m.a[lane % 32][each * (lane / 32) + e]);
    b[e] = to_bits(m.shape, m.b[each * (lane / 32) + e][lane % 32]);
  }
  f32x16 d;
  for (int r = 0; r < 16; ++r) d[r] = m.c[8 * (r / 4) + 4 * (lane / 32) + r % 4][lane % 32];
  const auto a2 = words_of<u32x2>(a), b2 = words_of<u32x2>(b);
  const auto a4 = words_of<u32x4>(a), b4 = words_of<u32x4>(b);
  if (m.shape == MfmaShape::kBf16x8Tall) d = mfma_32x32x8(bf16{}, a2, b2, d);
  if (m.shape == MfmaShape::kF16x8Tall) d = mfma_32x32x8(f16{}, a2, b2, d);
  if (m.shape == MfmaShape::kBf16x16Tall) d = mfma_32x32x16(bf16{}, a4, b4, d);
  if (m.shape == MfmaShape::kF16x16Tall) d = mfma_32x32x16(f16{}, a4, b4, d);
  for (int r = 0; r < 16; ++r) m.d[8 * (r / 4) + 4 * (lane / 32) + r % 4][lane % 32] = d[r];
}

// One wave loads its fragments as AMD's manual places them, written out here without the table's functions.
void mfma_kernel(const void* params) {
  auto& m = **static_cast<Matrices* const*>(params);
  const int lane = lane_index(), each = m.k / 4;
  uint16_t a[8] = {}, b[8] = {};
  for (int e = 0; e < each && m.shape != MfmaShape::kF32x4; ++e) {
    a[e] = to_bits(m.shape, m.a[lane % 16][each * (lane / 16) + e]);
    b[e] = to_bits(m.shape, m.b[each * (lane / 16) + e][lane % 16]);
  }
  f32x4 d;
  for (int r = 0; r < 4; ++r) d[r] = m.c[4 * (lane / 16) + r][lane % 16];
  const auto a2 = words_of<u32x2>(a), b2 = words_of<u32x2>(b);
  const auto a4 = words_of<u32x4>(a), b4 = words_of<u32x4>(b);
  switch (m.shape) {
    case MfmaShape::kBf16x16:
      d = mfma_16x16x16(bf16{}, a2, b2, d);
      break;
    case MfmaShape::kF16x16:
      d = mfma_16x16x16(f16{}, a2, b2, d);
      break;
    case MfmaShape::kBf16x32:
      d = mfma_16x16x32(bf16{}, a4, b4, d);
      break;
    case MfmaShape::kF16x32:
      d = mfma_16x16x32(f16{}, a4, b4, d);
      break;
    case MfmaShape::kF32x4:
      d = mfma_16x16x4(m.a[lane % 16][lane / 16], m.b[lane / 16][lane % 16], d);
      break;
    default:
      break;  // tall_kernel's
  }
  for (int r = 0; r < 4; ++r) m.d[4 * (lane / 16) + r][lane % 16] = d[r];
}

void run(Matrices& m) {
  emulator::Workgroup group;
  Matrices* pointer = &m;
  ASSERT_EQ(group.run(is_tall(m.shape) ? tall_kernel : mfma_kernel, &pointer, 0, 64, emulator::LaneOrder::kForward, {}),
            "");
}

class MfmaLayout : public ::testing::TestWithParam<std::pair<MfmaShape, int>> {};

TEST_P(MfmaLayout, IsTheMatrixProduct) {
  SKIP_UNDER_SANITIZERS();
  std::mt19937 random(3);
  std::uniform_int_distribution<int> small(-8, 8);  // exact in every type, and so is every sum
  Matrices m{};
  m.shape = GetParam().first;
  m.k = GetParam().second;
  const int side = is_tall(m.shape) ? 32 : 16;
  for (int k = 0; k < m.k; ++k)
    for (int i = 0; i < side; ++i) {
      m.a[i][k] = static_cast<float>(small(random));
      m.b[k][i] = static_cast<float>(small(random));
    }
  for (auto& row : m.c)
    for (float& x : row) x = static_cast<float>(small(random));
  run(m);
  for (int i = 0; i < side; ++i)
    for (int j = 0; j < side; ++j) {
      float sum = m.c[i][j];
      for (int k = 0; k < m.k; ++k) sum += m.a[i][k] * m.b[k][j];
      EXPECT_EQ(m.d[i][j], sum) << i << ", " << j;
    }
}

TEST_P(MfmaLayout, EveryPositionIsHeldOnce) {
  const int k_extent = GetParam().second;
  const bool tall = is_tall(GetParam().first);
  const int side = tall ? 32 : 16;
  std::vector<int> a(static_cast<size_t>(side * k_extent)), b(a), d(static_cast<size_t>(side * side));
  for (int lane = 0; lane < 64; ++lane) {
    for (int e = 0; e < k_extent * side / 64; ++e) {
      const MfmaPosition at_a = tall ? mfma_tall_a(k_extent, lane, e) : mfma_a(k_extent, lane, e);
      const MfmaPosition at_b = tall ? mfma_tall_b(k_extent, lane, e) : mfma_b(k_extent, lane, e);
      ++a[static_cast<size_t>(at_a.row * k_extent + at_a.column)];
      ++b[static_cast<size_t>(at_b.row * side + at_b.column)];
    }
    for (int e = 0; e < side * side / 64; ++e) {
      const MfmaPosition at = tall ? mfma_tall_d(lane, e) : mfma_d(lane, e);
      ++d[static_cast<size_t>(at.row * side + at.column)];
    }
  }
  for (const auto& held : {a, b, d})
    for (int count : held) EXPECT_EQ(count, 1);
}

INSTANTIATE_TEST_SUITE_P(Shapes, MfmaLayout,
                         ::testing::Values(std::pair{MfmaShape::kBf16x16, 16}, std::pair{MfmaShape::kF16x16, 16},
                                           std::pair{MfmaShape::kBf16x32, 32}, std::pair{MfmaShape::kF16x32, 32},
                                           std::pair{MfmaShape::kF32x4, 4}, std::pair{MfmaShape::kBf16x8Tall, 8},
                                           std::pair{MfmaShape::kF16x8Tall, 8}, std::pair{MfmaShape::kBf16x16Tall, 16},
                                           std::pair{MfmaShape::kF16x16Tall, 16}));

}  // namespace
}  // namespace sextant::hip
