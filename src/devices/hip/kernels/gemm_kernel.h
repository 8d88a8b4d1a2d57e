// gemm for MLA's projections: c[i] = a[i] b[i] with any strides. A workgroup of 4 waves makes a 64 x 64 tile of C^T, 32
// values of k at a time through shared memory; a wave makes 64 columns of 16 rows.
#pragma once

#include "devices/hip/kernels/mma.h"

namespace sextant::hip {

constexpr int kGemmTile = 64, kGemmStep = 32, kGemmThreads = 256;

template <class T>
struct GemmShape {
  static constexpr int kStride = kGemmStep + 16 / static_cast<int>(sizeof(T));
  static constexpr int kTileBytes = kGemmTile * kStride * static_cast<int>(sizeof(T));
};

// tile[line][k] of an operand whose element (line, k) lies at line * line_stride + k * k_stride.
template <class T>
SEXTANT_DEVICE void stage_operand(const Tensor3& t, int64_t base, int64_t line_stride, int64_t k_stride, int64_t lines,
                                  int64_t k_end, int64_t line0, int64_t k0, T* tile) {
  constexpr int kStride = GemmShape<T>::kStride;
  const T* data = static_cast<const T*>(t.data) + base;
  if (k_stride == 1 && t.aligned != 0) {
    const int line = thread_index() / 4, k = thread_index() % 4 * 8;
    Fragment<T> x = zero_fragment<T>();
    if (line0 + line < lines && k0 + k < k_end) x = load_fragment<T>(data + (line0 + line) * line_stride + k0 + k);
    store_fragment<T>(tile + line * kStride + k, x);
    return;
  }
  if (line_stride == 1 && t.aligned != 0) {
    const int k = thread_index() / 8, line = thread_index() % 8 * 8;
    Fragment<T> x = zero_fragment<T>();
    if (line0 + line < lines && k0 + k < k_end) x = load_fragment<T>(data + (k0 + k) * k_stride + line0 + line);
    SEXTANT_UNROLL
    for (int i = 0; i < 8; ++i) {
      if constexpr (sizeof(T) == 4) {
        tile[(line + i) * kStride + k] = i < 4 ? x.low[i % 4] : x.high[i % 4];
      } else {
        tile[(line + i) * kStride + k].bits = static_cast<uint16_t>(x.words[i / 2] >> (16 * (i % 2)));
      }
    }
    return;
  }
  for (int i = thread_index(); i < kGemmTile * kGemmStep; i += kGemmThreads) {
    const int line = i / kGemmStep, k = i % kGemmStep;
    T x = {};
    if (line0 + line < lines && k0 + k < k_end) x = data[(line0 + line) * line_stride + (k0 + k) * k_stride];
    tile[line * kStride + k] = x;
  }
}

template <class T>
SEXTANT_DEVICE void gemm(const GemmParams& g) {
  constexpr int kStride = GemmShape<T>::kStride;
  char* shared = shared_memory<2 * GemmShape<T>::kTileBytes>();
  T* a_tile = reinterpret_cast<T*>(shared);                             // [64 of M][32 of K]
  T* b_tile = reinterpret_cast<T*>(shared + GemmShape<T>::kTileBytes);  // [64 of N][32 of K]
  const int32_t tiles = g.m_tiles * g.n_tiles;
  const int32_t batch = block_index() / tiles, tile = block_index() - batch * tiles;
  const int64_t m0 = static_cast<int64_t>(tile / g.n_tiles) * kGemmTile;
  const int64_t n0 = static_cast<int64_t>(tile % g.n_tiles) * kGemmTile;
  const int64_t m_end = g.c.shape[1], n_end = g.c.shape[2], k_end = g.a.shape[2];
  const int lane = lane_index(), wave = wave_index();
  const bool has_rows = m0 + 16 * wave < m_end;  // the same in all lanes of the wave
  f32x4 c[4] = {};
  for (int64_t k0 = 0; k0 < k_end; k0 += kGemmStep) {
    barrier();
    stage_operand<T>(g.a, batch * g.a.stride[0], g.a.stride[1], g.a.stride[2], m_end, k_end, m0, k0, a_tile);
    stage_operand<T>(g.b, batch * g.b.stride[0], g.b.stride[2], g.b.stride[1], n_end, k_end, n0, k0, b_tile);
    barrier();
    if (!has_rows) continue;
    const Fragment<T> a = load_fragment<T>(a_tile + (16 * wave + lane % 16) * kStride + 8 * (lane / 16));
    SEXTANT_UNROLL
    for (int n = 0; n < 4; ++n)
      c[n] = multiply<T>(load_fragment<T>(b_tile + (16 * n + lane % 16) * kStride + 8 * (lane / 16)), a, c[n]);
  }
  const int64_t m = m0 + 16 * wave + lane % 16;
  if (m >= m_end) return;
  SEXTANT_UNROLL
  for (int n = 0; n < 4; ++n) {
    SEXTANT_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int64_t column = n0 + 16 * n + 4 * (lane / 16) + e;
      if (column < n_end)
        store_element(g.c.format, g.c.data, batch * g.c.stride[0] + m * g.c.stride[1] + column, c[n][e]);
    }
  }
}

}  // namespace sextant::hip
