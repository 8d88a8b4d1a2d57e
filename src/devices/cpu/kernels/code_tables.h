// 8-bit codes (fp8, int8) become bf16 in registers, exactly: the low and the high byte of a code's bf16 are looked up,
// each in a table of 128 bytes that stays in two registers (vpermi2b). Joining the bytes is an unpack.
#pragma once

#include "devices/cpu/kernels/engine_fma.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

inline __m512i as_int(__m512bh x) { return reinterpret_cast<__m512i>(x); }
inline __m512bh as_bf16(__m512i x) { return reinterpret_cast<__m512bh>(x); }

constexpr int64_t kCodeChunk = 64;  // codes of one register

template <DType T>
constexpr uint16_t code_as_bf16(int code) {
  if constexpr (T == DType::kI8) {
    const auto value = static_cast<float>(code < 128 ? code : code - 256);
    return static_cast<uint16_t>(__builtin_bit_cast(uint32_t, value) >> 16);  // 8 bits are exact
  } else {
    using F = Fp8AsBf16<T>;
    const int magnitude = code & 0x7f;
    if (magnitude < F::kFirstNormal) return subnormal_as_bf16<T>(magnitude);
    if (T == DType::kF8E4M3FN && magnitude == 0x7f) return F::kNan;
    const auto bits = static_cast<uint16_t>((magnitude << F::kShift) + F::kRebias);
    return T == DType::kF8E5M2 && magnitude >= 0x7c ? static_cast<uint16_t>(bits | 0x7f80) : bits;
  }
}

// Bytes of the bf16 of codes [kFirst, kFirst + 128).
template <DType T, int kFirst>
struct CodeBytes {
  alignas(64) uint8_t low[128] = {}, high[128] = {};
  constexpr CodeBytes() {
    for (int i = 0; i < 128; ++i) {
      const uint16_t bits = code_as_bf16<T>(kFirst + i);
      low[i] = static_cast<uint8_t>(bits & 0xff);
      high[i] = static_cast<uint8_t>(bits >> 8);
    }
  }
};

#if defined(__GFNI__)
// Where the exponent needs no carry, each byte of the bf16 is bits of the code, some of them inverted (gf2p8affine, one
// instruction; vpermi2b takes three). Numbers below the normal range, infinities and NaN are looked up: turned left by
// one bit, their codes are [-kBelow, kFrom] modulo 256, and differ in their low six bits.
template <DType T>
struct AffineCodes {
  static constexpr bool kExists = T == DType::kF8E4M3FN || T == DType::kF8E5M2;
  static constexpr bool kFour = T == DType::kF8E4M3FN;  // bits of exponent
  static constexpr int kBelow = kFour ? 2 : 8, kFrom = kFour ? 15 : 7, kInverted = kFour ? 0x3c : 0x38;
  struct Rows {
    int of_bit[8];
  };
  static constexpr Rows kLow = kFour ? Rows{{0, 0, 0, 0, 1, 2, 4, 8}} : Rows{{0, 0, 0, 0, 0, 1, 2, 4}};
  static constexpr Rows kHigh =
      kFour ? Rows{{16, 32, 64, 64, 64, 64, 64, 128}} : Rows{{8, 16, 32, 64, 64, 64, 64, 128}};
  static constexpr Rows kTurned = {{128, 1, 2, 4, 8, 16, 32, 64}};
  static constexpr uint64_t matrix(const Rows& rows) {
    uint64_t m = 0;
    for (int i = 0; i < 8; ++i) m |= static_cast<uint64_t>(rows.of_bit[i]) << 8 * (7 - i);
    return m;
  }
  static constexpr int turned(int code) { return (code << 1 & 0xff) | code >> 7; }
  static constexpr bool special(int code) { return ((turned(code) + kBelow) & 0xff) <= kFrom + kBelow; }
  struct Special {
    alignas(64) uint8_t low[64] = {}, high[64] = {};
    constexpr Special() {
      for (int code = 0; code < 256; ++code) {
        if (!special(code)) continue;
        const int bits = code_as_bf16<T>(code & 0x7f) | (code & 0x80) << 8;
        low[turned(code) & 63] = static_cast<uint8_t>(bits & 0xff);
        high[turned(code) & 63] = static_cast<uint8_t>(bits >> 8);
      }
    }
  };
  static constexpr Special kSpecial{};
  static constexpr int apply(const Rows& rows, int code) {
    int byte = 0;
    for (int i = 0; i < 8; ++i) byte |= __builtin_parity(static_cast<unsigned>(rows.of_bit[i] & code)) << i;
    return byte;
  }
  static constexpr bool exact() {
    for (int code = 0; code < 256; ++code) {
      const int at = turned(code) & 63;
      const int low = special(code) ? kSpecial.low[at] : apply(kLow, code);
      const int high = special(code) ? kSpecial.high[at] : apply(kHigh, code) ^ kInverted;
      if ((low | high << 8) != (code_as_bf16<T>(code & 0x7f) | (code & 0x80) << 8)) return false;
    }
    return true;
  }

  inline __attribute__((always_inline)) static void widen(__m512i codes, __m512i& low_bytes, __m512i& high_bytes) {
    const auto by = [&](const Rows& rows) { return _mm512_set1_epi64(static_cast<int64_t>(matrix(rows))); };
    const __m512i turned_codes = _mm512_gf2p8affine_epi64_epi8(codes, by(kTurned), 0);
    const __mmask64 specials = _mm512_cmple_epu8_mask(_mm512_add_epi8(turned_codes, _mm512_set1_epi8(kBelow)),
                                                      _mm512_set1_epi8(kFrom + kBelow));
    low_bytes = _mm512_mask_permutexvar_epi8(_mm512_gf2p8affine_epi64_epi8(codes, by(kLow), 0), specials, turned_codes,
                                             _mm512_load_si512(kSpecial.low));
    high_bytes = _mm512_mask_permutexvar_epi8(_mm512_gf2p8affine_epi64_epi8(codes, by(kHigh), kInverted), specials,
                                              turned_codes, _mm512_load_si512(kSpecial.high));
  }
};
static_assert(AffineCodes<DType::kF8E4M3FN>::exact() && AffineCodes<DType::kF8E5M2>::exact());
#endif

// A sign and a magnitude of seven bits, so that one half of the table does.
template <DType T>
struct CodeTables {
  static constexpr CodeBytes<T, 0> kLower{};
  __m512i low[2], high[2];

  CodeTables() {
    for (int i = 0; i < 2; ++i) {
      low[i] = _mm512_load_si512(kLower.low + 64 * i);
      high[i] = _mm512_load_si512(kLower.high + 64 * i);
    }
  }

  // bf16 of 64 codes, the bytes apart.
  inline __attribute__((always_inline)) void widen(__m512i codes, __m512i& low_bytes, __m512i& high_bytes) const {
#if defined(__GFNI__)
    if constexpr (AffineCodes<T>::kExists) return AffineCodes<T>::widen(codes, low_bytes, high_bytes);
#endif
    const __m512i magnitudes = T == DType::kI8 ? _mm512_abs_epi8(codes) : codes;
    low_bytes = _mm512_permutex2var_epi8(low[0], magnitudes, low[1]);  // bit 7 of an index does not count
    high_bytes = _mm512_permutex2var_epi8(high[0], magnitudes, high[1]);
    // high | (codes & sign)
    high_bytes = _mm512_ternarylogic_epi32(high_bytes, codes, _mm512_set1_epi8(INT8_MIN), 0xf8);
    if constexpr (T == DType::kI8) {  // -128 has no magnitude of seven bits; the low byte of it and of 0 is 0
      const __mmask64 least = _mm512_cmpeq_epi8_mask(codes, _mm512_set1_epi8(INT8_MIN));
      high_bytes =
          _mm512_mask_mov_epi8(high_bytes, least, _mm512_set1_epi8(static_cast<char>(code_as_bf16<T>(128) >> 8)));
    }
    if constexpr (T == DType::kF8E4M3FNUZ) {  // minus zero is the only NaN
      const __mmask64 nan = _mm512_cmpeq_epi8_mask(codes, _mm512_set1_epi8(INT8_MIN));
      low_bytes = _mm512_mask_mov_epi8(low_bytes, nan, _mm512_set1_epi8(static_cast<char>(Fp8AsBf16<T>::kNan & 0xff)));
      high_bytes = _mm512_mask_mov_epi8(high_bytes, nan, _mm512_set1_epi8(Fp8AsBf16<T>::kNan >> 8));
    }
  }
  // Dims 16 l + i and 16 l + 8 + i of a chunk, i < 8, in 128-bit lane l of x and y.
  inline __attribute__((always_inline)) void widen_dims(__m512i codes, __m512bh& x, __m512bh& y) const {
    __m512i low_bytes, high_bytes;
    widen(codes, low_bytes, high_bytes);
    x = as_bf16(_mm512_unpacklo_epi8(low_bytes, high_bytes));
    y = as_bf16(_mm512_unpackhi_epi8(low_bytes, high_bytes));
  }
  // The same in their order: codes 0 .. 31 in x, 32 .. 63 in y.
  inline __attribute__((always_inline)) void widen_in_order(__m512i codes, __m512bh& x, __m512bh& y) const {
    widen_dims(_mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), codes), x, y);
  }
  // Pairs of two tokens: dims 16 l + 4 j + i, i < 4, in lane l of v[j].
  inline __attribute__((always_inline)) void widen_pairs(__m512i a, __m512i b, __m512bh (&v)[4]) const {
    widen_dims(_mm512_unpacklo_epi8(a, b), v[0], v[1]);
    widen_dims(_mm512_unpackhi_epi8(a, b), v[2], v[3]);
  }
};

inline __m512i load_codes(const char* p, int64_t n) {
  if (n >= kCodeChunk) return _mm512_loadu_si512(p);
  return _mm512_maskz_loadu_epi8((uint64_t{1} << n) - 1, p);
}

// bf16 of 16 pairs times the scales of their first and of their second halves, rounded again.
inline __m512bh scale_pairs(__m512bh pairs, __m512 first, __m512 second) {
  const __m512i x = as_int(pairs);
  const __m512 low = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)), first);
  const __m512 high =
      _mm512_mul_ps(_mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(INT32_MIN >> 15))), second);
  return as_bf16(_mm512_or_si512(_mm512_cvtepu16_epi32(narrow_bf16({low})),
                                 _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow_bf16({high})), 16)));
}

// Calls f<dtype>().
template <class F>
inline void with_code_type(DType dtype, const F& f) {
  if (dtype == DType::kI8) return f.template operator()<DType::kI8>();
  if (dtype == DType::kF8E5M2) return f.template operator()<DType::kF8E5M2>();
  if (dtype == DType::kF8E4M3FNUZ) return f.template operator()<DType::kF8E4M3FNUZ>();
  f.template operator()<DType::kF8E4M3FN>();
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
