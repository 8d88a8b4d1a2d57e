// The AMX instructions that the kernels use, and a software form of the same with the same rounding, so that the whole
// AMX path can be tested on machines without AMX (ISA "amx_emulated"). Eight tiles of 16 rows x 64 bytes.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace sextant::cpu::SEXTANT_ISA {
namespace {

// What LDTILECFG reads: palette 1, all eight tiles at full size unless made smaller.
struct alignas(64) TileShape {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t column_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};

  void set(int tile, int tile_rows, int bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    column_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};

#if defined(SEXTANT_AMX_EMULATED)

struct Tile {
  alignas(64) unsigned char row[16][64];
};
thread_local Tile tiles[8];
thread_local TileShape tile_shape;

inline void tile_configure(const TileShape& new_shape = {}) { tile_shape = new_shape; }
inline void tile_release() {}
template <int kTile>
inline void tile_zero() {
  __builtin_memset(tiles[kTile].row, 0, sizeof(Tile));
}
template <int kTile>
inline void tile_load(const void* p, int64_t stride_bytes) {
  tile_zero<kTile>();  // what a tile does not cover is zero
  for (int i = 0; i < tile_shape.rows[kTile]; ++i)
    __builtin_memcpy(tiles[kTile].row[i], static_cast<const char*>(p) + i * stride_bytes,
                     tile_shape.column_bytes[kTile]);
}
template <int kTile>
inline void tile_load_once(const void* p, int64_t stride_bytes) {
  tile_load<kTile>(p, stride_bytes);
}
template <int kTile>
inline void tile_store(void* p, int64_t stride_bytes) {
  for (int i = 0; i < tile_shape.rows[kTile]; ++i)
    __builtin_memcpy(static_cast<char*>(p) + i * stride_bytes, tiles[kTile].row[i], tile_shape.column_bytes[kTile]);
}

// Subnormals count as zero, in operands and results (the instruction ignores MXCSR).
inline __m512 flush(__m512 x) {
  const __mmask16 subnormal = _mm512_fpclass_ps_mask(x, 0x20);
  return _mm512_castsi512_ps(
      _mm512_mask_and_epi32(_mm512_castps_si512(x), subnormal, _mm512_castps_si512(x), _mm512_set1_epi32(INT32_MIN)));
}

// TDPBF16PS: the products of even and of odd k are summed apart, each by FMA, then together, then onto the accumulator.
template <int kSum, int kA, int kB>
inline void tile_dot() {
  for (int m = 0; m < tile_shape.rows[kA]; ++m) {
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    for (int k = 0; k < tile_shape.column_bytes[kA] / 4; ++k) {
      uint32_t pair;
      __builtin_memcpy(&pair, tiles[kA].row[m] + 4 * k, 4);
      const __m512i b = _mm512_load_si512(tiles[kB].row[k]);
      const __m512 a0 = flush(_mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(pair << 16))));
      const __m512 a1 = flush(_mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(pair & 0xffff0000u))));
      const __m512 b0 = flush(_mm512_castsi512_ps(_mm512_slli_epi32(b, 16)));
      const __m512 b1 =
          flush(_mm512_castsi512_ps(_mm512_and_si512(b, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))));
      even = flush(_mm512_fmadd_ps(a0, b0, even));
      odd = flush(_mm512_fmadd_ps(a1, b1, odd));
    }
    float* sum = reinterpret_cast<float*>(tiles[kSum].row[m]);
    _mm512_store_ps(sum, flush(_mm512_add_ps(flush(_mm512_load_ps(sum)), flush(_mm512_add_ps(even, odd)))));
  }
}

#else

// Assembly: GCC 12's intrinsics take literal numbers only, and that of the configuration says that it reads eight
// bytes, so that the compiler may drop the rest.
inline void tile_configure(const TileShape& shape = {}) { __asm__ volatile("ldtilecfg %0" : : "m"(shape)); }
inline void tile_release() { __asm__ volatile("tilerelease"); }
template <int kTile>
inline void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
template <int kTile>
inline void tile_load(const void* p, int64_t stride_bytes) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride_bytes), "i"(kTile) : "memory");
}
// Of what is not needed again soon: the first-level cache keeps what it holds.
template <int kTile>
inline void tile_load_once(const void* p, int64_t stride_bytes) {
  __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride_bytes), "i"(kTile) : "memory");
}
template <int kTile>
inline void tile_store(void* p, int64_t stride_bytes) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride_bytes), "i"(kTile) : "memory");
}
template <int kSum, int kA, int kB>
inline void tile_dot() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
}

#endif

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
