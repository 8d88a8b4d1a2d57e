// Matrix products in AMX-BF16 tiles of 16 x 16 x 32.
#pragma once

#include "devices/cpu/kernels/amx_products.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

// Tiles 0-3 accumulate, 4-5 hold a, 6-7 hold b: four products for four loads, each 16 cycles of the matrix unit.
template <bool kTwoPanels>
inline void amx_32_rows(int64_t depth, const uint16_t* a, int64_t lda, const uint16_t* b, int64_t panel_stride,
                        float* c, int64_t ldc, bool accumulate) {
  const int64_t row_bytes = ldc * 4, a_bytes = lda * 2;
  if (accumulate) {
    tile_load<0>(c, row_bytes);
    tile_load<2>(c + 16 * ldc, row_bytes);
    if constexpr (kTwoPanels) {
      tile_load<1>(c + 16, row_bytes);
      tile_load<3>(c + 16 * ldc + 16, row_bytes);
    }
  } else {
    tile_zero<0>();
    tile_zero<2>();
    if constexpr (kTwoPanels) {
      tile_zero<1>();
      tile_zero<3>();
    }
  }
  for (int64_t k = 0; k < depth; k += 32) {
    tile_load<6>(b + k * 16, 64);
    tile_load<4>(a + k, a_bytes);
    tile_dot<0, 4, 6>();
    tile_load<5>(a + 16 * lda + k, a_bytes);
    tile_dot<2, 5, 6>();
    if constexpr (kTwoPanels) {
      tile_load<7>(b + panel_stride + k * 16, 64);
      tile_dot<1, 4, 7>();
      tile_dot<3, 5, 7>();
    }
  }
  tile_store<0>(c, row_bytes);
  tile_store<2>(c + 16 * ldc, row_bytes);
  if constexpr (kTwoPanels) {
    tile_store<1>(c + 16, row_bytes);
    tile_store<3>(c + 16 * ldc + 16, row_bytes);
  }
}

// At most 16 rows: three panels beside each other hide the latency of a product.
template <int kPanels>
inline void amx_16_rows(int64_t depth, const uint16_t* a, int64_t lda, const uint16_t* b, int64_t panel_stride,
                        float* c, int64_t ldc, bool accumulate) {
  const int64_t row_bytes = ldc * 4;
  const auto start = [&]<int kTile>() {
    if (accumulate)
      tile_load<kTile>(c + kTile * 16, row_bytes);
    else
      tile_zero<kTile>();
  };
  start.template operator()<0>();
  if constexpr (kPanels > 1) start.template operator()<1>();
  if constexpr (kPanels > 2) start.template operator()<2>();
  for (int64_t k = 0; k < depth; k += 32) {
    tile_load<3>(a + k, lda * 2);
    tile_load<4>(b + k * 16, 64);
    tile_dot<0, 3, 4>();
    if constexpr (kPanels > 1) {
      tile_load<5>(b + panel_stride + k * 16, 64);
      tile_dot<1, 3, 5>();
    }
    if constexpr (kPanels > 2) {
      tile_load<6>(b + 2 * panel_stride + k * 16, 64);
      tile_dot<2, 3, 6>();
    }
  }
  tile_store<0>(c, row_bytes);
  if constexpr (kPanels > 1) tile_store<1>(c + 16, row_bytes);
  if constexpr (kPanels > 2) tile_store<2>(c + 32, row_bytes);
}

struct AmxEngine : Bf16Packing {
  static constexpr int64_t kRowBlock = 32;
  static constexpr int64_t kRowPad = 32;
  static constexpr int64_t kColumns = 32;
  static constexpr int64_t kDepthStep = kColumns;
  static constexpr bool kInterleaved = true;
  static int64_t depth(int64_t k) { return round_up(k, 32); }
  // Vector instructions flush results below the normal range, as the matrix unit does; see exp2_of.
  static unsigned begin() {
    const unsigned state = _mm_getcsr();
    _mm_setcsr(state | _MM_FLUSH_ZERO_ON);
    tile_configure();
    return state;
  }
  static void end(unsigned state) {
    tile_release();
    _mm_setcsr(state);
  }
  // Tiles that never leave their registers, four sums so that each waits for none. Numbers that differ in every bit: of
  // zeros the unit could do more.
  static double peak(int64_t iterations, uint16_t* scratch) {
    constexpr int kRounds = 8;
    for (uint32_t i = 0; i < 4 * kTileElements; ++i)
      scratch[i] = static_cast<uint16_t>(0x3c00u | (i * 40503u >> 3 & 0x807fu));
    const unsigned state = begin();
    tile_load<4>(scratch, 64);
    tile_load<5>(scratch + kTileElements, 64);
    tile_load<6>(scratch + 2 * kTileElements, 64);
    tile_load<7>(scratch + 3 * kTileElements, 64);
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    for (int64_t i = 0; i < iterations; ++i)
      for (int j = 0; j < kRounds; ++j) {
        tile_dot<0, 4, 6>();
        tile_dot<1, 4, 7>();
        tile_dot<2, 5, 6>();
        tile_dot<3, 5, 7>();
      }
    end(state);
    return 2.0 * static_cast<double>(iterations) * kRounds * 4 * 16 * 16 * 32;
  }
  // Queries as tiles of 16 rows: [rows / 16][depth / 32][16][32].
  template <DType T>
  static void pack_query(const void* src, int64_t n, int64_t depth, int64_t row, uint16_t* dst) {
    pack_row<T>(src, n, depth, dst + row / 16 * 16 * depth + row % 16 * 32, kTileElements);
  }

  // Rows are computed in full tiles: `a` and `c` have room for them. depth is a multiple of 32.
  template <class Between = NothingBetween>
  static void gemm(int64_t rows, int64_t panels, int64_t depth, const uint16_t* a, int64_t lda, const uint16_t* b,
                   int64_t panel_stride, float* c, int64_t ldc, bool accumulate, const Between& between = {}) {
    for (int64_t r = 0; r < rows; r += 32) {
      const bool half = rows - r <= 16;
      const uint16_t* rows_a = a + r * lda;
      float* rows_c = c + r * ldc;
      for (int64_t p = 0; p < panels;) {
        const uint16_t* rows_b = b + p * panel_stride;
        const int64_t left = panels - p;
        if (half) {
          const auto block = left >= 3 ? amx_16_rows<3> : left == 2 ? amx_16_rows<2> : amx_16_rows<1>;
          block(depth, rows_a, lda, rows_b, panel_stride, rows_c + p * 16, ldc, accumulate);
          p += smaller(left, 3);
        } else {
          const auto block = left >= 2 ? amx_32_rows<true> : amx_32_rows<false>;
          block(depth, rows_a, lda, rows_b, panel_stride, rows_c + p * 16, ldc, accumulate);
          p += smaller(left, 2);
        }
        between();
      }
    }
  }
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
