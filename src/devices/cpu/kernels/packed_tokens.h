// Tokens of the packed cache layout whose blocks are no multiple of 16 tokens long, brought into whole panels: what
// lies together in a block is copied together.
#pragma once

#include "devices/cpu/kernels/engine_fma.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

struct PackedTokens {
  // Of runs whose pairs of dims lie a panel's row apart.
  template <int kBytes>
  static void copy_strided(const char* src, int64_t count, int64_t row_bytes, char* dst) {
    for (int64_t i = 0; i < count; ++i) __builtin_memcpy(dst + i * row_bytes, src + i * row_bytes, kBytes);
  }

  // Panel [dim / 2][16][2] of 16 keys, elements of kBytes. rows[i]: where token i has its first pair, inside a panel of
  // the cache; null: zeros.
  template <int kBytes>
  static void collect_key_panel(const char* const* rows, int64_t dim, char* dst) {
    constexpr int64_t kPairBytes = 2 * kBytes, kRowBytes = kPanel * kPairBytes;
    const int64_t pairs = (dim + 1) / 2;
    for (int64_t i = 0; i < kPanel;) {
      char* to = dst + i * kPairBytes;
      if (rows[i] == nullptr) {
        for (int64_t d = 0; d < pairs; ++d) __builtin_memset(to + d * kRowBytes, 0, kPairBytes);
        ++i;
        continue;
      }
      int64_t run = 1;
      while (i + run < kPanel && rows[i + run] == rows[i] + run * kPairBytes) ++run;
      if (run >= 8) {
        copy_strided<8 * kPairBytes>(rows[i], pairs, kRowBytes, to);
        i += 8;
      } else if (run >= 4) {
        copy_strided<4 * kPairBytes>(rows[i], pairs, kRowBytes, to);
        i += 4;
      } else {
        copy_strided<kPairBytes>(rows[i], pairs, kRowBytes, to);
        ++i;
      }
    }
  }

  // A token's values: the low or the high half of each pair. Null: zeros.
  struct HalfOfPairs {
    const char* pairs = nullptr;
    int half = 0;
  };
  // `token`: where the value of the first dim lies, of a token at this place in its block.
  static HalfOfPairs half_of_pairs(const char* token, int64_t place, int64_t bytes) {
    const int half = static_cast<int>(place % 2);
    return {token - half * bytes, half};
  }

  // Codes of two tokens as pairs, [dim][2].
  static void join_value_codes(HalfOfPairs a, HalfOfPairs b, int64_t dim, char* dst) {
    const char *x = a.pairs + a.half, *y = b.pairs + b.half;
    for (int64_t d = 0; d < 2 * dim; d += 2) {
      dst[d] = a.pairs != nullptr ? x[d] : '\0';
      dst[d + 1] = b.pairs != nullptr ? y[d] : '\0';
    }
  }

  static constexpr int64_t kPairBytes = 4;
  // bf16 values of two tokens as pairs, 16 dims every `panel_stride` elements.
  static void join_value_tokens(HalfOfPairs a, HalfOfPairs b, int64_t dim, int64_t panel_stride, uint16_t* dst) {
    const auto exists = [](HalfOfPairs x) { return static_cast<__mmask16>(x.pairs != nullptr ? 0xffff : 0); };
    const __mmask16 first = exists(a), second = exists(b);
    // A masked load of address 0 is right, but goes through microcode, hundreds of cycles long.
    if (a.pairs == nullptr) a.pairs = b.pairs;
    if (b.pairs == nullptr) b.pairs = a.pairs;
    if (a.pairs == nullptr) {
      for (int64_t d = 0; d < dim; d += kPanel, dst += panel_stride) _mm512_storeu_si512(dst, _mm512_setzero_si512());
      return;
    }
    const __m128i first_shift = _mm_cvtsi32_si128(a.half * 16), second_shift = _mm_cvtsi32_si128(b.half * 16);
    const __m512i low = _mm512_set1_epi32(0xffff);
    for (int64_t d = 0; d < dim; d += kPanel, dst += panel_stride) {
      const auto lanes = static_cast<__mmask16>(dim - d >= kPanel ? 0xffff : (1u << (dim - d)) - 1u);
      const __m512i x = _mm512_maskz_loadu_epi32(lanes & first, a.pairs + d * kPairBytes);
      const __m512i y = _mm512_maskz_loadu_epi32(lanes & second, b.pairs + d * kPairBytes);
      const __m512i x_low = _mm512_and_si512(_mm512_srl_epi32(x, first_shift), low);
      const __m512i y_high = _mm512_slli_epi32(_mm512_srl_epi32(y, second_shift), 16);
      _mm512_storeu_si512(dst, _mm512_or_si512(x_low, y_high));
    }
  }
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
