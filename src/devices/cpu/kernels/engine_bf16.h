// Packing of bf16 operands, shared by vdpbf16ps and AMX: a lane of 32 bits holds two consecutive k.
//
//   a in rows           [rows][k]
//   b in panels of 16   [n / 16][k / 2][16][2]     (one panel of 32 k is one AMX tile, 1 KiB)
#pragma once

#include "devices/cpu/kernels/code_tables.h"
#include "devices/cpu/kernels/engine_fma.h"
#include "devices/cpu/kernels/packed_tokens.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

// 32 elements as bf16, the first n of them (the others 0).
template <DType T>
inline __m512i load_bf16(const void* p, int64_t n) {
  if constexpr (T == DType::kBF16) {
    if (n >= 32) return _mm512_loadu_si512(p);
    return _mm512_maskz_loadu_epi16((1u << n) - 1u, p);
  } else {
    const char* bytes = static_cast<const char*>(p);
    const F32 low = load_first<T>(bytes, n), high = load_first<T>(bytes + kLanes * kElementBytes<T>, n - kLanes);
    return as_int(_mm512_cvtne2ps_pbh(high.v, low.v));
  }
}

struct Bf16Packing : PackedTokens {
  using Elem = uint16_t;
  static constexpr int kUnit = 2;
  static constexpr int kParts = 1;
  static constexpr DType kRowType = DType::kBF16;
  static constexpr bool kReadsPairs = true;
  static constexpr int kExpDegree = 4;  // P is rounded to 8 bits

  // Each 32 elements `step` after the last.
  template <DType T>
  static void pack_row(const void* src, int64_t n, int64_t padded, uint16_t* dst, int64_t step = 32) {
    const char* p = static_cast<const char*>(src);
    for (int64_t i = 0; i < padded; i += 32, dst += step) {
      const __m512i x = i < n ? load_bf16<T>(p + i * kElementBytes<T>, n - i) : _mm512_setzero_si512();
      _mm512_storeu_si512(dst, x);  // padded is a multiple of 32
    }
  }

  // Dims d .. d + 31 of 16 rows of bf16, as [16 pairs][16 keys][2].
  static void pack_key_tile(const char* const* rows, int64_t dim, int64_t d, uint16_t* dst) {
    __m512i r[16];
    for (int i = 0; i < 16; ++i) r[i] = load_bf16<DType::kBF16>(rows[i] + 2 * d, dim - d);
    transpose(r);
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(dst + i * 32, r[i]);
  }

  template <DType T, class Between>
  static void pack_keys(const char* const* rows, int64_t count, int64_t dim, int64_t panel_depth, uint16_t* dst,
                        const Between& between) {
    for (int64_t t = 0; t < count; t += kPanel) {
      uint16_t* panel = dst + t * panel_depth;
      for (int64_t d = 0; d < dim; d += 32) {
        __m512i r[16];
        for (int i = 0; i < 16; ++i) r[i] = load_bf16<T>(rows[t + i] + d * kElementBytes<T>, dim - d);
        transpose(r);
        for (int i = 0; i < 16; ++i) _mm512_storeu_si512(panel + (d / 2 + i) * 32, r[i]);
        between();
      }
    }
  }

  // Elements i of two rows, side by side: the first 16 and the last 16 of 32.
  static __m512i first_pairs(__m512i a, __m512i b) { return _mm512_permutex2var_epi16(a, pair_places(), b); }
  static __m512i last_pairs(__m512i a, __m512i b) {
    return _mm512_permutex2var_epi16(a, _mm512_add_epi16(pair_places(), _mm512_set1_epi16(16)), b);
  }
  static __m512i pair_places() {
    alignas(64) static constexpr uint16_t kPlaces[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                         8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    return _mm512_load_si512(kPlaces);
  }

  template <DType T, class Between>
  static void pack_values(const char* const* rows, int64_t count, int64_t dim, int64_t panel_tokens, uint16_t* dst,
                          const Between& between) {
    for (int64_t t = 0; t < count; t += 2) {
      for (int64_t d = 0; d < dim; d += 32) {
        const __m512i a = load_bf16<T>(rows[t] + d * kElementBytes<T>, dim - d);
        const __m512i b = load_bf16<T>(rows[t + 1] + d * kElementBytes<T>, dim - d);
        uint16_t* pair = dst + (d / kPanel) * panel_tokens * kPanel + t * kPanel;
        _mm512_storeu_si512(pair, first_pairs(a, b));
        if (dim - d > kPanel) _mm512_storeu_si512(pair + panel_tokens * kPanel, last_pairs(a, b));
      }
      between();
    }
  }

  // One pair of tokens, [dim][2] as the packed cache layout has it, into panels of 16 dims. `keep` masks each pair.
  static void copy_value_pairs(const uint16_t* src, uint32_t keep, int64_t dim, int64_t panel_stride, uint16_t* dst) {
    const __m512i mask = _mm512_set1_epi32(static_cast<int>(keep));
    for (int64_t d = 0; d < dim; d += kPanel, dst += panel_stride) {
      __m512i x = _mm512_setzero_si512();
      if (keep != 0) {
        const __mmask16 lanes = dim - d >= kPanel ? 0xffff : static_cast<__mmask16>((1u << (dim - d)) - 1u);
        x = _mm512_and_si512(_mm512_maskz_loadu_epi32(lanes, src + 2 * d), mask);
      }
      _mm512_storeu_si512(dst, x);
    }
  }

  // Rows of two tokens as pairs, [dim][2]; dst has room for whole vectors.
  static void join_value_rows(const char* first, const char* second, int64_t dim, uint16_t* dst) {
    for (int64_t d = 0; d < dim; d += 32, dst += 64) {
      const __m512i a = load_bf16<DType::kBF16>(first + 2 * d, dim - d);
      const __m512i b = load_bf16<DType::kBF16>(second + 2 * d, dim - d);
      _mm512_storeu_si512(dst, first_pairs(a, b));
      if (dim - d > kPanel) _mm512_storeu_si512(dst + 32, last_pairs(a, b));
    }
  }

  // Calls f(tables of the codes).
  template <class F>
  static void with_tables(DType dtype, const F& f) {
    with_code_type(dtype, [&]<DType T>() { f(CodeTables<T>()); });
  }
  // A row of codes as bf16; dst has room for whole registers.
  template <DType T>
  static void widen_row(const CodeTables<T>& tables, const char* codes, int64_t dim, uint16_t* dst) {
    for (int64_t d = 0; d < dim; d += kCodeChunk) {
      __m512bh x, y;
      tables.widen_in_order(load_codes(codes + d, dim - d), x, y);
      _mm512_storeu_si512(dst + d, as_int(x));
      _mm512_storeu_si512(dst + d + 32, as_int(y));
    }
  }
  // A panel of keys in codes, [dim / 2][16][2], as bf16. scales: of its 16 keys; null: none.
  template <DType T>
  static void widen_key_panel(const CodeTables<T>& tables, const char* codes, int64_t dim, const float* scales,
                              uint16_t* dst) {
    for (int64_t d = 0; d < dim; d += 4, dst += 4 * kPanel) {
      __m512bh x, y;
      tables.widen_in_order(load_codes(codes + d * kPanel, (dim - d) * kPanel), x, y);
      if (scales != nullptr) {
        const __m512 factors = _mm512_loadu_ps(scales);
        x = scale_pairs(x, factors, factors);
        y = scale_pairs(y, factors, factors);
      }
      _mm512_storeu_si512(dst, as_int(x));
      if (dim - d > 2) _mm512_storeu_si512(dst + 2 * kPanel, as_int(y));
    }
  }
  // A pair of tokens in codes, [dim][2], as bf16 in panels of 16 dims. `keep` masks each pair; scales: of both; null:
  // none.
  template <DType T>
  static void widen_value_pairs(const CodeTables<T>& tables, const char* codes, uint32_t keep, int64_t dim,
                                const float* scales, int64_t panel_stride, uint16_t* dst) {
    const __m512i mask = _mm512_set1_epi32(static_cast<int>(keep));
    for (int64_t d = 0; d < dim; d += 2 * kPanel, dst += 2 * panel_stride) {
      __m512bh x, y;
      tables.widen_in_order(load_codes(codes + 2 * d, 2 * (dim - d)), x, y);
      if (scales != nullptr) {
        const __m512 first = _mm512_set1_ps(scales[0]), second = _mm512_set1_ps(scales[1]);
        x = scale_pairs(x, first, second);
        y = scale_pairs(y, first, second);
      }
      _mm512_storeu_si512(dst, _mm512_and_si512(as_int(x), mask));
      if (dim - d > kPanel) _mm512_storeu_si512(dst + panel_stride, _mm512_and_si512(as_int(y), mask));
    }
  }

  static void store_p(uint16_t* p, int64_t j, F32 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + j), narrow_bf16(a));
  }
};

template <int kRows, int kPanels>
struct DotBlock {
  static void run(int64_t depth, const uint16_t* a, int64_t lda, const uint16_t* b, int64_t panel_stride, float* c,
                  int64_t ldc, bool accumulate) {
    __m512 sum[kRows][kPanels];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < kPanels; ++j)
        sum[i][j] = accumulate ? _mm512_loadu_ps(c + i * ldc + j * kPanel) : _mm512_setzero_ps();
    for (int64_t k = 0; k < depth; k += 2) {
      __m512bh column[kPanels];
#pragma GCC unroll 16
      for (int j = 0; j < kPanels; ++j) column[j] = as_bf16(_mm512_loadu_si512(b + j * panel_stride + k * kPanel));
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        int32_t pair;
        __builtin_memcpy(&pair, a + i * lda + k, 4);
        const __m512bh x = as_bf16(_mm512_set1_epi32(pair));
#pragma GCC unroll 16
        for (int j = 0; j < kPanels; ++j) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], x, column[j]);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < kPanels; ++j) _mm512_storeu_ps(c + i * ldc + j * kPanel, sum[i][j]);
  }
};

// vdpbf16ps: 32 products an instruction.
struct DotEngine : Bf16Packing {
  static constexpr int64_t kRowBlock = 24;
  static constexpr int64_t kRowPad = 1;
  static constexpr int64_t kColumns = 16;  // columns of scores are multiplied by so many
  static constexpr int64_t kDepthStep = 2;
  static constexpr int64_t kMaskedRows = 6;                                    // of a block that the mask cuts
  static constexpr int64_t kBlockRows = kIsaRows, kBlockColumns = 4 * kPanel;  // of a product, at most
  static int64_t depth(int64_t k) { return round_up(k, 2); }
  static constexpr bool kInterleaved = false;
  static int begin() { return 0; }
  static void end(int) {}
  template <DType T>
  static void pack_query(const void* src, int64_t n, int64_t depth, int64_t row, uint16_t* dst) {
    pack_row<T>(src, n, depth, dst + row * depth);
  }
  template <class Between = NothingBetween>
  static void gemm(int64_t rows, int64_t panels, int64_t depth, const uint16_t* a, int64_t lda, const uint16_t* b,
                   int64_t panel_stride, float* c, int64_t ldc, bool accumulate, const Between& between = {}) {
    BlockedProduct<DotBlock, kIsaRows, uint16_t>::run(rows, panels, depth, a, lda, b, panel_stride, c, ldc, accumulate,
                                                      between);
  }
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
