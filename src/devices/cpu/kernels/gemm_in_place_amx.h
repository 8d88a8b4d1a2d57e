// c[i] = a[i] * b[i] for a batch of matrices of weights that are read once and therefore not packed: the products of
// MLA decode with kv_b_proj, one matrix a head, for the few rows of a batch of tokens.
//
//   b's columns lie together (W_UV)   C^T = B^T A^T    B^T is the first operand, which wants rows as they lie
//   b's rows lie together (W_UK)      C = A B          B is the second operand, which wants pairs of rows: rows are
//   taken as
//                                                      they lie and multiplied by (a, 0) and (0, a), as in latent_amx.h
//
// The next matrix comes into the second-level cache while this one is at work. The order of a row's sums depends on
// nothing but k, so that the other rows of a batch change no bit.
#pragma once

#include "devices/cpu/kernels/engine_amx.h"
#include "devices/cpu/kernels/gemm_kernel.h"
#include "devices/cpu/kernels/prefetch.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

class InPlaceGemm {
 public:
  static constexpr int64_t kRows = 16, kColumns = 64, kMaxExtent = 768;
  static_assert(4 * kRows * kMaxExtent <= GemmShape<AmxEngine>::kRows * GemmShape<AmxEngine>::kDepth);

  static bool takes(const GemmItem& it) {
    return it.dtype == DType::kBF16 && it.a_col_stride == 1 && it.k % 32 == 0 && it.n % kColumns == 0 &&
           it.k <= kMaxExtent && it.n <= kMaxExtent && (it.b_row_stride == 1) != (it.b_col_stride == 1);
  }

  explicit InPlaceGemm(const GemmItem& it)
      : it_(it),
        columns_together_(it.b_row_stride == 1),
        stride_(columns_together_ ? it.b_col_stride : it.b_row_stride) {
    GemmScratch<AmxEngine> scratch(it.scratch);
    a_ = scratch.a;
    c_ = scratch.c;
  }

  void run() {
    const auto state = AmxEngine::begin();
    for (int64_t i = 0; i < it_.batch; ++i) {
      const auto* a = static_cast<const uint16_t*>(it_.a) + i * it_.a_batch_stride;
      const auto* b = static_cast<const uint16_t*>(it_.b) + i * it_.b_batch_stride;
      char* c = static_cast<char*>(it_.c) + i * it_.c_batch_stride * element_bytes(it_.c_dtype);
      fetch_next(i + 1 < it_.batch ? b + it_.b_batch_stride : nullptr);
      for (int64_t r = 0; r < it_.m; r += kRows) {
        const int64_t rows = smaller(it_.m - r, kRows);
        columns_together_ ? pack_turned(a + r * it_.a_row_stride, rows) : pack_apart(a + r * it_.a_row_stride, rows);
        for (int64_t n = 0; n < it_.n; n += kColumns) {
          columns_together_ ? turned_product(b + n * stride_) : product(b + n);
          write(c + (r * it_.c_row_stride + n) * element_bytes(it_.c_dtype), rows);
        }
      }
    }
    AmxEngine::end(state);
  }

 private:
  void fetch_next(const uint16_t* b) {
    ahead_.finish();
    if (b == nullptr) return;
    const int64_t count = columns_together_ ? it_.n : it_.k, bytes = 2 * (columns_together_ ? it_.k : it_.n);
    for (int64_t i = 0; i < count; ++i) rows_[i] = reinterpret_cast<const char*>(b + i * stride_);
    ahead_.add(rows_, count / 2, 0, bytes, 0, 1);
    ahead_.add(rows_ + count / 2, count - count / 2, 0, bytes, 0, 1);
    ahead_.start((it_.m + kRows - 1) / kRows * (it_.n / kColumns) * it_.k / 8);
  }

  // Rows of a that do not exist are zero.
  __m512i row_of_a(const uint16_t* a, int64_t row, int64_t rows, int64_t k) const {
    return row < rows ? _mm512_loadu_si512(a + row * it_.a_row_stride + k) : _mm512_setzero_si512();
  }
  // A^T in tiles of 16 pairs of k x 16 rows.
  void pack_turned(const uint16_t* a, int64_t rows) {
    for (int64_t k = 0; k < it_.k; k += 32) {
      __m512i w[16];
      for (int64_t i = 0; i < 16; ++i) w[i] = row_of_a(a, i, rows, k);
      transpose(w);
      for (int64_t i = 0; i < 16; ++i) _mm512_storeu_si512(a_ + k * kRows + i * 32, w[i]);
    }
  }
  // A in tiles of 16 rows x 16 k, as pairs (a, 0) and as pairs (0, a).
  void pack_apart(const uint16_t* a, int64_t rows) {
    for (int64_t k = 0; k < it_.k; k += 32)
      for (int64_t i = 0; i < 16; ++i) {
        const __m512i w = row_of_a(a, i, rows, k);
        uint16_t* to = a_ + 4 * k * kRows + i * 32;
        for (int half = 0; half < 2; ++half, to += 2 * kTileElements) {
          const __m512i pairs =
              _mm512_cvtepu16_epi32(half ? _mm512_extracti64x4_epi64(w, 1) : _mm512_castsi512_si256(w));
          _mm512_storeu_si512(to, pairs);
          _mm512_storeu_si512(to + kTileElements, _mm512_slli_epi32(pairs, 16));
        }
      }
  }

  // c_[64 columns][16 rows]: 64 columns of b from `b` on.
  void turned_product(const uint16_t* b) {
    const int64_t bytes = 2 * stride_;
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    for (int64_t k = 0; k < it_.k; k += 32) {
      tile_load<6>(a_ + k * kRows, 64);
      const auto columns = [&]<int kGroup>() __attribute__((always_inline)) {
        ahead_.step();
        tile_load<4 + kGroup % 2>(b + kGroup * 16 * stride_ + k, bytes);
        tile_dot<kGroup, 4 + kGroup % 2, 6>();
      };
      columns.template operator()<0>();
      columns.template operator()<1>();
      columns.template operator()<2>();
      columns.template operator()<3>();
    }
    tile_store<0>(c_, 64);
    tile_store<1>(c_ + 256, 64);
    tile_store<2>(c_ + 512, 64);
    tile_store<3>(c_ + 768, 64);
    for (float* c = c_; c < c_ + 1024; c += 256) turn_tile(c);
  }
  // c_[16 rows] of [even columns of 32][odd columns of 32], twice, from `b` on: joined to tiles of 16 x 16 columns.
  void product(const uint16_t* b) {
    const int64_t bytes = 2 * stride_;
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    for (int64_t k = 0; k < it_.k; k += 16) {
      const uint16_t* a = a_ + 4 * k * kRows;
      ahead_.step();
      tile_load<4>(a, 64);
      tile_load<6>(b + k * stride_, bytes);
      tile_dot<0, 4, 6>();
      tile_load<5>(a + kTileElements, 64);
      tile_dot<1, 5, 6>();
      ahead_.step();
      tile_load<7>(b + k * stride_ + 32, bytes);
      tile_dot<2, 4, 7>();
      tile_dot<3, 5, 7>();
    }
    tile_store<0>(c_, 64);
    tile_store<1>(c_ + 256, 64);
    tile_store<2>(c_ + 512, 64);
    tile_store<3>(c_ + 768, 64);
    join_columns(c_);
    join_columns(c_ + 512);
  }

  static void turn_tile(float* c) {
    __m512i w[16];
    for (int i = 0; i < 16; ++i) w[i] = _mm512_loadu_si512(c + i * 16);
    transpose(w);
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(c + i * 16, w[i]);
  }
  static void join_columns(float* c) {
    for (int i = 0; i < 16; ++i) {
      const auto [low, high] = join_even_odd(_mm512_loadu_ps(c + i * 16), _mm512_loadu_ps(c + 256 + i * 16));
      _mm512_storeu_ps(c + i * 16, low);
      _mm512_storeu_ps(c + 256 + i * 16, high);
    }
  }

  // Four tiles of 16 rows x 16 columns.
  void write(char* c, int64_t rows) const {
    dispatch_dtype(it_.c_dtype, [&]<DType T>() {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t n = 0; n < kColumns; n += 16)
          write_scaled<T>(c_ + n * 16 + r * 16, 1.0f, 16, c + (r * it_.c_row_stride + n) * kElementBytes<T>);
    });
  }

  const GemmItem& it_;
  const bool columns_together_;
  const int64_t stride_;  // of b's columns or rows, whichever do not lie together
  uint16_t* a_;           // 16 rows, packed
  float* c_;              // [4][16][16]
  Prefetcher ahead_;
  const char* rows_[kMaxExtent];
};

inline bool takes_in_place(const GemmItem& item) { return InPlaceGemm::takes(item); }
inline void gemm_in_place(const GemmItem& item) { InPlaceGemm(item).run(); }

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
