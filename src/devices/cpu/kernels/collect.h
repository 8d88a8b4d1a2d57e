// Tokens of layouts that scatter their dims, collected into rows: V of the split-K and shuffled layouts has tokens next
// to each other and dims apart, so groups of tokens are transposed in registers; K has 16 bytes of dims together.
#pragma once

#include "devices/cpu/kernels/kernel_table.h"
#include "devices/cpu/simd/vec.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

template <class Unit>
inline void collect_token(const KvAddressing& addr, const char* token, int64_t dim, char* dst) {
  constexpr int64_t kSize = sizeof(Unit);
  const int64_t tile = addr.dim_tile, outer = addr.dim_outer_stride * kSize, inner = addr.dim_inner_stride * kSize;
  for (int64_t d = 0; d < dim; d += tile, token += outer)
    for (int64_t i = 0; i < tile && d + i < dim; ++i) __builtin_memcpy(dst + (d + i) * kSize, token + i * inner, kSize);
}

inline void collect(const KvAddressing& addr, int64_t bytes, const char* token, int64_t dim, char* dst) {
  if (bytes == 4)
    collect_token<uint32_t>(addr, token, dim, dst);
  else if (bytes == 2)
    collect_token<uint16_t>(addr, token, dim, dst);
  else
    collect_token<uint8_t>(addr, token, dim, dst);
}

#if defined(__x86_64__)
inline __m128i load_16_bytes(const char* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline void store_16_bytes(char* p, __m128i x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x); }

// Eight tokens of 16-bit elements; dim d of all of them lies at src + d * step. Rows of dst are `row` bytes apart.
inline void collect_8_tokens_of_16_bits(const char* src, int64_t step, int64_t dim, char* dst, int64_t row) {
  for (int64_t d = 0; d + 8 <= dim; d += 8) {
    __m128i a[8], b[8];
    for (int i = 0; i < 8; ++i) a[i] = load_16_bytes(src + (d + i) * step);
    for (int i = 0; i < 4; ++i) {  // dims 2i and 2i + 1: tokens 0..3, tokens 4..7
      b[i] = _mm_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
      b[i + 4] = _mm_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
    }
    for (int h = 0; h < 8; h += 4) {
      a[h] = _mm_unpacklo_epi32(b[h], b[h + 1]);  // dims 0..3: tokens 0, 1
      a[h + 1] = _mm_unpackhi_epi32(b[h], b[h + 1]);
      a[h + 2] = _mm_unpacklo_epi32(b[h + 2], b[h + 3]);
      a[h + 3] = _mm_unpackhi_epi32(b[h + 2], b[h + 3]);
    }
    for (int t = 0; t < 8; ++t) {
      const int h = t / 4 * 4, pair = t % 4 / 2;
      const __m128i low = a[h + pair], high = a[h + 2 + pair];
      store_16_bytes(dst + t * row + d * 2, t % 2 == 0 ? _mm_unpacklo_epi64(low, high) : _mm_unpackhi_epi64(low, high));
    }
  }
}

// Sixteen tokens of bytes, 16 dims at a time: four rounds of interleaving the first half with the second.
inline void collect_16_tokens_of_8_bits(const char* src, int64_t step, int64_t dim, char* dst, int64_t row) {
  for (int64_t d = 0; d + 16 <= dim; d += 16) {
    __m128i a[16], b[16];
    for (int i = 0; i < 16; ++i) a[i] = load_16_bytes(src + (d + i) * step);
    for (int round = 0; round < 4; ++round) {
      for (int i = 0; i < 8; ++i) {
        b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
        b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
      }
      for (int i = 0; i < 16; ++i) a[i] = b[i];
    }
    for (int t = 0; t < 16; ++t) store_16_bytes(dst + t * row + d, a[t]);
  }
}

// Pairs of codes of two tokens, [dim][2], into a row each.
inline void collect_2_tokens_of_8_bits(const char* src, int64_t dim, char* dst, int64_t row) {
  const __m128i low = _mm_set1_epi16(0xff);
  for (int64_t d = 0; d + 16 <= dim; d += 16) {
    const __m128i x = load_16_bytes(src + 2 * d), y = load_16_bytes(src + 2 * d + 16);
    store_16_bytes(dst + d, _mm_packus_epi16(_mm_and_si128(x, low), _mm_and_si128(y, low)));
    store_16_bytes(dst + row + d, _mm_packus_epi16(_mm_srli_epi16(x, 8), _mm_srli_epi16(y, 8)));
  }
}
#endif

inline void collect_16_byte_groups(const char* token, int64_t step, int64_t groups, char* dst) {
  for (int64_t i = 0; i < groups; ++i) __builtin_memcpy(dst + i * 16, token + i * step, 16);
}

// Tokens rows[from .. to) into dst, `row` bytes a token; rows then point there.
inline void collect_rows(const KvAddressing& addr, int64_t bytes, int64_t dim, int64_t from, int64_t to, char* dst,
                         int64_t row, const char** rows) {
  const int64_t step = addr.dim_outer_stride * bytes;
  if (addr.dim_inner_stride == 1 && addr.dim_tile * bytes == 16 && dim * bytes % 16 == 0) {
    for (int64_t i = from; i < to; ++i) {
      collect_16_byte_groups(rows[i], step, dim * bytes / 16, dst + i * row);
      rows[i] = dst + i * row;
    }
    return;
  }
  [[maybe_unused]] const bool packed_codes = bytes == 1 && dim % 16 == 0;
  for (int64_t i = from; i < to;) {
    int64_t done = 1;
#if defined(__x86_64__)
    if (addr.dim_tile == 1 && bytes == 2 && dim % 8 == 0 && i + 8 <= to && rows[i + 7] == rows[i] + 14) {
      collect_8_tokens_of_16_bits(rows[i], step, dim, dst + i * row, row);
      done = 8;
    } else if (addr.dim_tile == 1 && bytes == 1 && dim % 16 == 0 && i + 16 <= to && rows[i + 15] == rows[i] + 15) {
      collect_16_tokens_of_8_bits(rows[i], step, dim, dst + i * row, row);
      done = 16;
    } else if (packed_codes && addr.dim_tile == 2 && i + 8 <= to && rows[i + 7] == rows[i] + 14) {
      collect_8_tokens_of_16_bits(rows[i], step, dim / 2, dst + i * row, row);  // a pair of dims is 16 bits
      done = 8;
    } else if (packed_codes && addr.token_tile == 2 && step == 2 && i + 2 <= to && rows[i + 1] == rows[i] + 1) {
      collect_2_tokens_of_8_bits(rows[i], dim, dst + i * row, row);
      done = 2;
    }
#endif
    if (done == 1) collect(addr, bytes, rows[i], dim, dst + i * row);
    for (int64_t j = i; j < i + done; ++j) rows[j] = dst + j * row;
    i += done;
  }
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
