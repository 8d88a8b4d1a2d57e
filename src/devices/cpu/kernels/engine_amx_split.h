// Products of fp16 numbers on a matrix unit that has bf16 alone. An fp16 number is exactly the sum of two bf16 numbers,
// its first eight bits and the rest: x = high + low. So
//
//   x y = high_x high_y + low_x high_y + high_x low_y      (+ low_x low_y, less than 2^-17 of it, left out)
//
// is one product of three times the depth. Every 32 of the depth become 96, a tile each:
//
//   a   [high of 32][low of 32][high of 32]        b   [high of 32][high of 32][low of 32]
//
// The same holds for P, which is split after the exponential. Three products at the unit's speed are several times as
// fast as fp32 multiply-adds, and as accurate as fp16 asks for.
#pragma once

#include "devices/cpu/kernels/engine_amx.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

struct SplitBf16 {
  __m512i high, low;  // of 32 numbers
};

inline F32 widen_bf16(__m256i x) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16))}; }
// What is left of x; of infinity nothing.
inline __m512 rest_of(F32 x, __m256i high) {
  const __m512 rest = sub(x, widen_bf16(high)).v;
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(rest, rest, _CMP_ORD_Q), rest);
}
inline SplitBf16 split(F32 first, F32 second) {
  const __m512i high = as_int(_mm512_cvtne2ps_pbh(second.v, first.v));
  const __m512 first_rest = rest_of(first, _mm512_castsi512_si256(high));
  const __m512 second_rest = rest_of(second, _mm512_extracti64x4_epi64(high, 1));
  return {high, as_int(_mm512_cvtne2ps_pbh(second_rest, first_rest))};
}
// 32 numbers, the first n of them.
template <DType T>
inline SplitBf16 load_split(const char* p, int64_t n) {
  return split(load_first<T>(p, n), load_first<T>(p + kLanes * kElementBytes<T>, n - kLanes));
}

struct AmxSplitEngine {
  using Elem = uint16_t;
  static constexpr int kUnit = 2;
  static constexpr int kParts = 3;
  static constexpr int kExpDegree = 4;
  static constexpr DType kRowType = DType::kF16;
  static constexpr bool kReadsPairs = false;
  static constexpr bool kInterleaved = false;
  static constexpr int64_t kRowBlock = 64;
  static constexpr int64_t kBlockRows = 32, kBlockColumns = 32;  // of a product, at most
  static constexpr int64_t kRowPad = 32;
  static constexpr int64_t kColumns = 32;
  static constexpr int64_t kDepthStep = kColumns;
  static constexpr int64_t kMaskedRows = 32;
  static int64_t depth(int64_t k) { return kParts * round_up(k, 32); }
  static unsigned begin() { return AmxEngine::begin(); }
  static void end(unsigned state) { AmxEngine::end(state); }

  template <DType T>
  static void pack_query(const void* src, int64_t n, int64_t depth, int64_t row, uint16_t* dst) {
    dst += row * depth;
    for (int64_t i = 0; i < n; i += 32, dst += 32 * kParts) {
      const SplitBf16 x = load_split<T>(static_cast<const char*>(src) + i * kElementBytes<T>, n - i);
      _mm512_storeu_si512(dst, x.high);
      _mm512_storeu_si512(dst + 32, x.low);
      _mm512_storeu_si512(dst + 64, x.high);
    }
  }

  template <DType T, class Between>
  static void pack_keys(const char* const* rows, int64_t count, int64_t dim, int64_t panel_depth, uint16_t* dst,
                        const Between&) {
    for (int64_t t = 0; t < count; t += kPanel) {
      uint16_t* tile = dst + t * panel_depth;
      for (int64_t d = 0; d < dim; d += 32, tile += kParts * kTileElements) {
        __m512i high[16], low[16];
        for (int i = 0; i < 16; ++i) {
          const SplitBf16 x = load_split<T>(rows[t + i] + d * kElementBytes<T>, dim - d);
          high[i] = x.high;
          low[i] = x.low;
        }
        transpose(high);
        transpose(low);
        for (int i = 0; i < 16; ++i) {
          _mm512_storeu_si512(tile + i * 32, high[i]);
          _mm512_storeu_si512(tile + kTileElements + i * 32, high[i]);
          _mm512_storeu_si512(tile + 2 * kTileElements + i * 32, low[i]);
        }
      }
    }
  }

  template <DType T, class Between>
  static void pack_values(const char* const* rows, int64_t count, int64_t dim, int64_t panel_tokens, uint16_t* dst,
                          const Between&) {
    for (int64_t t = 0; t < count; t += 2)
      for (int64_t d = 0; d < dim; d += 32) {
        const SplitBf16 a = load_split<T>(rows[t] + d * kElementBytes<T>, dim - d);
        const SplitBf16 b = load_split<T>(rows[t + 1] + d * kElementBytes<T>, dim - d);
        uint16_t* pair = dst + d / kPanel * panel_tokens * kPanel + place(t) * kPanel;
        const int64_t next_panel = dim - d > kPanel ? panel_tokens * kPanel : 0;
        store_pairs(a.high, b.high, next_panel, pair);
        store_pairs(a.high, b.high, next_panel, pair + 32 * kPanel);
        store_pairs(a.low, b.low, next_panel, pair + 64 * kPanel);
      }
  }

  // Columns j .. j + 15 of a row of P.
  static void store_p(uint16_t* p, int64_t j, F32 x) {
    const __m256i high = narrow_bf16(x);
    auto* at = reinterpret_cast<__m256i*>(p + place(j));
    _mm256_storeu_si256(at, high);
    _mm256_storeu_si256(at + 2, narrow_bf16({rest_of(x, high)}));
    _mm256_storeu_si256(at + 4, high);
  }

  template <class Between = NothingBetween>
  static void gemm(int64_t rows, int64_t panels, int64_t depth, const uint16_t* a, int64_t lda, const uint16_t* b,
                   int64_t panel_stride, float* c, int64_t ldc, bool accumulate, const Between& between = {}) {
    AmxEngine::gemm(rows, panels, depth, a, lda, b, panel_stride, c, ldc, accumulate, between);
  }

 private:
  // Where the first part of number i of the depth lies.
  static int64_t place(int64_t i) { return i / 32 * 32 * kParts + i % 32; }

  // 32 dims of two tokens side by side, into two panels; next_panel 0: the second does not exist.
  static void store_pairs(__m512i a, __m512i b, int64_t next_panel, uint16_t* dst) {
    _mm512_storeu_si512(dst, Bf16Packing::first_pairs(a, b));
    if (next_panel > 0) _mm512_storeu_si512(dst + next_panel, Bf16Packing::last_pairs(a, b));
  }
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
