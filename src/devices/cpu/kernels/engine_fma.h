// Matrix products in fp32 with the FMA units, and the packing of operands for them.
//
// Both products of attention have one form, c[m, n] (+)= a[m, k] * b[k, n], with `a` in rows and `b` in panels of 16
// columns, [n / 16][k][16]: for scores, a = Q [rows, D] and b = K [tokens / 16][D][16]; for the output, a = P [rows,
// tokens] and b = V [Dv / 16][tokens][16]. Every element of c is one chain of FMAs over k in ascending order, whatever
// the blocking, so its bits do not depend on how many rows are computed together.
#pragma once

#include "devices/cpu/simd/vec.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

constexpr int64_t kPanel = 16;                  // columns of b, and of c, in one panel
constexpr int kPanelVectors = kPanel / kLanes;  // vectors that hold them
constexpr int kTokensAtOnce = 64;               // packing granule of keys; a tile is a multiple of it

// What packing calls after every kilobyte or so, and a product after each block, where nothing is to be done in
// between.
struct NothingBetween {
  void operator()() const {}
};

constexpr int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

template <int kRows, int kPanels>
inline void fma_block(int64_t depth, const float* a, int64_t lda, const float* b, int64_t panel_stride, float* c,
                      int64_t ldc, bool accumulate) {
  constexpr int kVectors = kPanels * kPanelVectors;
  F32 sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) sum[i][j] = accumulate ? load(c + i * ldc + j * kLanes) : set1(0.0f);
  for (int64_t k = 0; k < depth; ++k) {
    F32 column[kVectors];
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j)
      column[j] = load(b + (j / kPanelVectors) * panel_stride + k * kPanel + (j % kPanelVectors) * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const F32 x = set1(a[i * lda + k]);
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) sum[i][j] = fmadd(x, column[j], sum[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) store(c + i * ldc + j * kLanes, sum[i][j]);
}

// Panels computed together at most: with few rows more panels, so that enough independent chains hide the latency of an
// FMA.
constexpr int panels_for(int rows) {
  const int chains = kLanes == 16 ? 24 : kLanes == 8 ? 12 : 8;
  const int panels = chains / (rows * kPanelVectors);
  return panels < 1 ? 1 : panels >= 8 ? 8 : panels >= 4 ? 4 : panels;
}

// Runs Block<rows, panels>::run over all of c. Rows are divided evenly into blocks of at most kMax; columns in the
// outer loop, so that the panels of b stay in the first-level cache for all rows.
template <template <int, int> class Block, int kMax, class Elem>
struct BlockedProduct {
  using Function = void (*)(int64_t, const Elem*, int64_t, const Elem*, int64_t, float*, int64_t, bool);
  static constexpr int kWidths[] = {1, 2, 3, 4, 8};  // in panels
  struct Entry {
    Function of_width[5];
    int64_t panels;
  };
  template <int kRows, int kPanels>
  static constexpr Function block() {
    if constexpr (kPanels <= panels_for(kRows)) return &Block<kRows, kPanels>::run;
    return nullptr;
  }
  template <int kRows>
  static constexpr Entry entry() {
    return {{block<kRows, 1>(), block<kRows, 2>(), block<kRows, 3>(), block<kRows, 4>(), block<kRows, 8>()},
            panels_for(kRows)};
  }
  static const Entry& entry_for(int64_t rows) {
    static constexpr Entry kEntries[] = {entry<1>(),
                                         entry<smaller(2, kMax)>(),
                                         entry<smaller(3, kMax)>(),
                                         entry<smaller(4, kMax)>(),
                                         entry<smaller(5, kMax)>(),
                                         entry<smaller(6, kMax)>()};
    static_assert(kMax <= 6);
    return kEntries[rows - 1];
  }
  // The widest of kWidths up to `panels`.
  static constexpr int width_index(int64_t panels) {
    return panels >= 8 ? 4 : panels >= 4 ? 3 : static_cast<int>(panels) - 1;
  }

  template <class Between>
  static void run(int64_t rows, int64_t panels, int64_t depth, const Elem* a, int64_t lda, const Elem* b,
                  int64_t panel_stride, float* c, int64_t ldc, bool accumulate, const Between& between) {
    const int64_t blocks = (rows + kMax - 1) / kMax, base = rows / blocks, extra = rows % blocks;
    const int64_t most = entry_for(base + (extra > 0 ? 1 : 0)).panels;
    for (int64_t p = 0; p < panels;) {
      const int width = width_index(smaller(most, panels - p));
      for (int64_t i = 0, row = 0; i < blocks; ++i) {
        const int64_t count = base + (i < extra ? 1 : 0);
        entry_for(count).of_width[width](depth, a + row * lda, lda, b + p * panel_stride, panel_stride,
                                         c + row * ldc + p * kPanel, ldc, accumulate);
        row += count;
        between();
      }
      p += kWidths[width];
    }
  }
};

template <int kRows, int kPanels>
struct FmaBlock {
  static void run(int64_t depth, const float* a, int64_t lda, const float* b, int64_t panel_stride, float* c,
                  int64_t ldc, bool accumulate) {
    fma_block<kRows, kPanels>(depth, a, lda, b, panel_stride, c, ldc, accumulate);
  }
};

struct FmaEngine {
  using Elem = float;
  static constexpr int kUnit = 1;                 // consecutive k that one lane holds
  static constexpr int kParts = 1;                // numbers of the products that stand for one
  static constexpr DType kRowType = DType::kF32;  // of rows that are multiplied by a scale before they are packed
  static constexpr bool kReadsPairs = false;      // of the packed cache layout
  static constexpr int kExpDegree = 5;
  static constexpr int64_t kRowBlock = 24;
  static constexpr int64_t kRowPad = 1;      // rows of a and c are padded to a multiple of this
  static constexpr int64_t kColumns = 16;    // columns of scores are multiplied by so many
  static constexpr int64_t kDepthStep = 1;   // a depth is a multiple of this
  static constexpr int64_t kMaskedRows = 6;  // of a block that the mask cuts
  static constexpr int64_t kBlockRows = kIsaRows, kBlockColumns = 4 * kPanel;  // of a product, at most
  static int64_t depth(int64_t k) { return k; }
  static constexpr bool kInterleaved = false;
  static int begin() { return 0; }
  static void end(int) {}

  template <class Between = NothingBetween>
  static void gemm(int64_t rows, int64_t panels, int64_t depth, const float* a, int64_t lda, const float* b,
                   int64_t panel_stride, float* c, int64_t ldc, bool accumulate, const Between& between = {}) {
    BlockedProduct<FmaBlock, kIsaRows, float>::run(rows, panels, depth, a, lda, b, panel_stride, c, ldc, accumulate,
                                                   between);
  }

  template <DType T>
  static void pack_query(const void* src, int64_t n, int64_t depth, int64_t row, float* dst) {
    pack_row<T>(src, n, depth, dst + row * depth);
  }
  // One row of a: n elements, then zeros up to `padded`.
  template <DType T>
  static void pack_row(const void* src, int64_t n, int64_t padded, float* dst) {
    const char* p = static_cast<const char*>(src);
    for (int64_t i = 0; i < n; i += kLanes)
      store_first<DType::kF32>(dst + i, load_first<T>(p + i * kElementBytes<T>, n - i), padded - i);
    for (int64_t i = round_up(n, kLanes); i < padded; ++i) dst[i] = 0.0f;
  }

  // Keys as columns: dst [count / 16][panel_depth][16] from one pointer a token. count is a multiple of 16.
  template <DType T, class Between>
  static void pack_keys(const char* const* rows, int64_t count, int64_t dim, int64_t panel_depth, float* dst,
                        const Between&) {
    for (int64_t t = 0; t < count; t += kLanes) {
      float* panel = dst + (t / kPanel) * panel_depth * kPanel + t % kPanel;
      for (int64_t d = 0; d < dim; d += kLanes) {
        F32 r[kLanes];
        for (int i = 0; i < kLanes; ++i) r[i] = load_first<T>(rows[t + i] + d * kElementBytes<T>, dim - d);
        transpose_store(r, panel + d * kPanel, kPanel);
      }
    }
  }

  // Values as rows: dst [dim / 16][panel_tokens][16].
  template <DType T, class Between>
  static void pack_values(const char* const* rows, int64_t count, int64_t dim, int64_t panel_tokens, float* dst,
                          const Between&) {
    for (int64_t t = 0; t < count; ++t)
      for (int64_t d = 0; d < dim; d += kLanes)
        store(dst + (d / kPanel) * panel_tokens * kPanel + t * kPanel + d % kPanel,
              load_first<T>(rows[t] + d * kElementBytes<T>, dim - d));
  }

  static void store_p(float* p, int64_t j, F32 a) { store(p + j, a); }
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
