// Decode from a cache of 8-bit codes (fp8, int8) with vdpbf16ps: codes become bf16 in registers, on their way from the
// cache to the product. Half of bf16's bytes are then nearly half of its time.
//
// A code is looked up: the low and the high byte of its bf16, each in a table of 128 bytes that stays in two registers
// (vpermi2b). Joining the bytes is an unpack, which leaves dims in an order of its own: queries are packed in the same
// order, and a row of output is put right when it is written.
#pragma once

#include "devices/cpu/kernels/engine_bf16.h"
#include "devices/cpu/kernels/stream_rows.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

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

// fp8 codes are a sign and a magnitude, so that one half of the table does.
template <DType T>
struct CodeTables {
  static constexpr CodeBytes<T, 0> kLower{};
  static constexpr CodeBytes<T, 128> kUpper{};
  __m512i low[2], high[2], upper_low[2], upper_high[2];

  CodeTables() {
    for (int i = 0; i < 2; ++i) {
      low[i] = _mm512_load_si512(kLower.low + 64 * i);
      high[i] = _mm512_load_si512(kLower.high + 64 * i);
      upper_low[i] = _mm512_load_si512(kUpper.low + 64 * i);
      upper_high[i] = _mm512_load_si512(kUpper.high + 64 * i);
    }
  }

  // bf16 of 64 codes, the bytes apart.
  inline __attribute__((always_inline)) void widen(__m512i codes, __m512i& low_bytes, __m512i& high_bytes) const {
    low_bytes = _mm512_permutex2var_epi8(low[0], codes, low[1]);  // bit 7 of an index does not count
    high_bytes = _mm512_permutex2var_epi8(high[0], codes, high[1]);
    if constexpr (T == DType::kI8) {
      const __mmask64 upper = _mm512_movepi8_mask(codes);
      low_bytes = _mm512_mask_blend_epi8(upper, low_bytes, _mm512_permutex2var_epi8(upper_low[0], codes, upper_low[1]));
      high_bytes =
          _mm512_mask_blend_epi8(upper, high_bytes, _mm512_permutex2var_epi8(upper_high[0], codes, upper_high[1]));
    } else {
      // high | (codes & sign)
      high_bytes = _mm512_ternarylogic_epi32(high_bytes, codes, _mm512_set1_epi8(INT8_MIN), 0xf8);
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

template <class F>
inline void with_code_type(DType dtype, const F& f) {
  if (dtype == DType::kI8) return f.template operator()<DType::kI8>();
  if (dtype == DType::kF8E5M2) return f.template operator()<DType::kF8E5M2>();
  if (dtype == DType::kF8E4M3FNUZ) return f.template operator()<DType::kF8E4M3FNUZ>();
  f.template operator()<DType::kF8E4M3FN>();
}

// A query in the order of widen_dims; `padded` is a multiple of 64.
template <DType T>
void pack_query_for_codes(const void* src, int64_t n, int64_t padded, uint16_t* dst) {
  for (int64_t d = 0; d < padded; d += kCodeChunk) {
    alignas(64) uint16_t row[kCodeChunk];
    Bf16Packing::pack_row<T>(static_cast<const char*>(src) + d * kElementBytes<T>, n - d, kCodeChunk, row);
    for (int64_t lane = 0; lane < 4; ++lane)
      for (int64_t half = 0; half < 2; ++half)
        __builtin_memcpy(dst + d + half * 32 + lane * 8, row + lane * 16 + half * 8, 16);
  }
}

template <DType T, int kRows>
void code_scores(const char* const* keys, int64_t count, int64_t dim, const uint16_t* q, int64_t depth, float* s,
                 Prefetcher& ahead) {
  constexpr int kKeys = kLanes / kRows;
  const CodeTables<T> tables;
  for (int64_t j = 0; j < count; j += kKeys) {
    ahead.step();
    F32 sum[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) sum[i] = set1(0.0f);
    const auto step = [&](int64_t d, int64_t n) __attribute__((always_inline)) {
#pragma GCC unroll 16
      for (int i = 0; i < kKeys; ++i) {
        __m512bh x, y;
        tables.widen_dims(load_codes(keys[j + i] + d, n), x, y);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const uint16_t* row = q + r * depth + d;
          F32& total = sum[r * kKeys + i];
          total = {_mm512_dpbf16_ps(total.v, x, as_bf16(_mm512_loadu_si512(row)))};
          total = {_mm512_dpbf16_ps(total.v, y, as_bf16(_mm512_loadu_si512(row + 32)))};
        }
      }
    };
    int64_t d = 0;
    for (; d + kCodeChunk <= dim; d += kCodeChunk) step(d, kCodeChunk);
    if (d < dim) step(d, dim - d);
    float totals[kLanes];
    store(totals, reduce_lanes(sum));
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
      __builtin_memcpy(s + r * kStreamKeys + j, totals + r * kKeys, kKeys * sizeof(float));
  }
}

template <DType T, int kRows>
void code_output(const char* const* values, int64_t count, int64_t dim, const uint16_t* p, float* o, int64_t o_stride,
                 Prefetcher& ahead) {
  const CodeTables<T> tables;
  for (int64_t d = 0; d < dim; d += kCodeChunk) {
    F32 sum[kRows][4];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) sum[r][c] = load(o + r * o_stride + d + c * kLanes);
    for (int64_t t = 0; t < count; t += 2) {
      if (t % kStepKeys == 0) ahead.step();
      __m512bh v[4];
      tables.widen_pairs(load_codes(values[t] + d, dim - d), load_codes(values[t + 1] + d, dim - d), v);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        int32_t pair;
        __builtin_memcpy(&pair, p + r * kStreamKeys + t, 4);
        const __m512bh weights = as_bf16(_mm512_set1_epi32(pair));
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) sum[r][c] = {_mm512_dpbf16_ps(sum[r][c].v, weights, v[c])};
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) store(o + r * o_stride + d + c * kLanes, sum[r][c]);
  }
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
