// gemm for MLA's projections: c[i] = a[i] b[i] with any strides. A workgroup of 4 waves makes a 64 x 64 tile of C^T, 32
// values of k at a time through shared memory; a wave makes 64 columns of 16 rows. The next values of k come to
// registers while these are multiplied, and go to the other of two buffers: one barrier a step.
#pragma once

#include "devices/hip/kernels/mma.h"

namespace sextant::hip {

constexpr int kGemmTile = 64, kGemmStep = 32, kGemmThreads = 256;

template <class T>
struct GemmShape {
  static constexpr int kStride = kGemmStep + 16 / static_cast<int>(sizeof(T));
  static constexpr int kTileBytes = kGemmTile * kStride * static_cast<int>(sizeof(T));
};

// How a thread's 8 elements of a tile lie: along k, along the lines, or one by one.
enum class GemmOrder { kAlongK, kAlongLines, kScattered };

// One operand, whose element (line, k) lies at line * line_stride + k * k_stride.
template <class T>
struct GemmOperand {
  const T* data;
  int64_t line_stride, k_stride, lines, k_end, line0;
  GemmOrder order;
  // Of this thread's elements: the first, and lines from one to the next. Numbers and not branches, which would give
  // each order its own waits.
  int32_t first_line, first_k, line_step;

  // This thread's elements of [line0, line0 + 64) x [k0, k0 + 32); zeros outside.
  SEXTANT_DEVICE_MEMBER Fragment<T> fetch(int64_t k0) const {
    Fragment<T> x = zero_fragment<T>();
    const int64_t line = line0 + first_line, k = k0 + first_k;
    if (k >= k_end) return x;
    const T* from = data + line * line_stride + k * k_stride;
    if (order != GemmOrder::kScattered) {
      if (line < lines) x = load_fragment<T>(from);
      return x;
    }
    SEXTANT_UNROLL
    for (int e = 0; e < 8; ++e)
      if (line + e * line_step < lines) set_element(x, e, from[e * line_step * line_stride]);
    return x;
  }
  // To the tile [64 lines][32 k].
  SEXTANT_DEVICE_MEMBER void put(const Fragment<T>& x, T* tile) const {
    constexpr int kStride = GemmShape<T>::kStride;
    T* to = tile + first_line * kStride + first_k;
    if (order == GemmOrder::kAlongK) {
      store_fragment<T>(to, x);
      return;
    }
    SEXTANT_UNROLL
    for (int e = 0; e < 8; ++e) to[e * line_step * kStride] = get_element(x, e);
  }

 private:
  SEXTANT_DEVICE_MEMBER static T get_element(const Fragment<T>& x, int e) {
    if constexpr (sizeof(T) == 4) {
      return e < 4 ? x.low[e % 4] : x.high[e % 4];
    } else {
      return T{static_cast<uint16_t>(x.words[e / 2] >> (16 * (e % 2)))};
    }
  }
  SEXTANT_DEVICE_MEMBER static void set_element(Fragment<T>& x, int e, T value) {
    if constexpr (sizeof(T) == 4) {
      (e < 4 ? x.low : x.high)[e % 4] = value;
    } else {
      x.words[e / 2] |= static_cast<uint32_t>(value.bits) << (16 * (e % 2));
    }
  }
};
template <class T>
SEXTANT_DEVICE GemmOperand<T> gemm_operand(const Tensor3& t, int64_t base, int64_t line_stride, int64_t k_stride,
                                           int64_t lines, int64_t k_end, int64_t line0) {
  GemmOrder order = GemmOrder::kScattered;
  if (t.aligned != 0 && k_stride == 1) order = GemmOrder::kAlongK;
  if (t.aligned != 0 && k_stride != 1 && line_stride == 1) order = GemmOrder::kAlongLines;
  const bool along_k = order == GemmOrder::kAlongK, along_lines = order == GemmOrder::kAlongLines;
  const int i = thread_index();
  return {static_cast<const T*>(t.data) + base,
          line_stride,
          k_stride,
          lines,
          k_end,
          line0,
          order,
          along_k       ? i / 4
          : along_lines ? i % 8 * 8
                        : i / kGemmStep,
          along_k       ? i % 4 * 8
          : along_lines ? i / 8
                        : i % kGemmStep,
          along_lines ? 1 : kGemmThreads / kGemmStep};
}

template <class T>
SEXTANT_DEVICE void gemm(const GemmParams& g) {
  constexpr int kStride = GemmShape<T>::kStride;
  // Two buffers of A [64 of M][32 of K] and B [64 of N][32 of K].
  T* shared = reinterpret_cast<T*>(shared_memory<4 * GemmShape<T>::kTileBytes>());
  constexpr int kTile = GemmShape<T>::kTileBytes / static_cast<int>(sizeof(T));
  const int32_t tiles = g.m_tiles * g.n_tiles;
  const int32_t batch = block_index() / tiles, tile = block_index() - batch * tiles;
  const int64_t m0 = static_cast<int64_t>(tile / g.n_tiles) * kGemmTile;
  const int64_t n0 = static_cast<int64_t>(tile % g.n_tiles) * kGemmTile;
  const int64_t m_end = g.c.shape[1], n_end = g.c.shape[2], k_end = g.a.shape[2];
  const int lane = lane_index(), wave = wave_index();
  const bool has_rows = m0 + 16 * wave < m_end;  // the same in all lanes of the wave
  f32x4 c[4] = {};
  const auto a = gemm_operand<T>(g.a, batch * g.a.stride[0], g.a.stride[1], g.a.stride[2], m_end, k_end, m0);
  const auto b = gemm_operand<T>(g.b, batch * g.b.stride[0], g.b.stride[2], g.b.stride[1], n_end, k_end, n0);
  if (k_end > 0) {
    a.put(a.fetch(0), shared);
    b.put(b.fetch(0), shared + kTile);
  }
  barrier();
  int buffer = 0;
  for (int64_t k0 = 0; k0 < k_end; k0 += kGemmStep) {
    const bool more = k0 + kGemmStep < k_end;
    Fragment<T> next_a = zero_fragment<T>(), next_b = zero_fragment<T>();
    if (more) {
      next_a = a.fetch(k0 + kGemmStep);
      next_b = b.fetch(k0 + kGemmStep);
    }
    const T *a_tile = shared + buffer * 2 * kTile, *b_tile = a_tile + kTile;
    if (has_rows) {
      const Fragment<T> x = load_fragment<T>(a_tile + (16 * wave + lane % 16) * kStride + 8 * (lane / 16));
      SEXTANT_UNROLL
      for (int n = 0; n < 4; ++n)
        c[n] = multiply<T>(load_fragment<T>(b_tile + (16 * n + lane % 16) * kStride + 8 * (lane / 16)), x, c[n]);
    }
    buffer ^= 1;
    if (more) {
      a.put(next_a, shared + buffer * 2 * kTile);
      b.put(next_b, shared + buffer * 2 * kTile + kTile);
    }
    barrier();
  }
  const int64_t m = m0 + 16 * wave + lane % 16;
  if (m >= m_end) return;
  SEXTANT_UNROLL
  for (int n = 0; n < 4; ++n) {
    SEXTANT_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int64_t column = n0 + 16 * n + 4 * (lane / 16) + e;
      if (column < n_end)
        store_wide_element(sizeof(T) == 4 || g.c.format == Format::kF32 ? Format::kF32 : TypeTraits<T>::kFormat,
                           g.c.data, batch * g.c.stride[0] + m * g.c.stride[1] + column, c[n][e]);
    }
  }
}

}  // namespace sextant::hip
