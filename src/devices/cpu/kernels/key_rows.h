// Finds the keys or values of a run of positions: one pointer a token, ready for packing.
//
// Where the dims of a token lie together (NHD, HND, latent, packed rows), the pointer goes straight into the cache.
// Other layouts are first collected into a staging buffer of the same element type. Tokens outside the wanted range
// point to zeros: nothing past a sequence's end is ever read, so that an unwritten tail cannot reach a result.
#pragma once

#include "devices/cpu/kernels/collect.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

inline int64_t element_bytes(DType dtype) {
  return dtype == DType::kF32 ? 4 : dtype == DType::kF16 || dtype == DType::kBF16 ? 2 : 1;
}

inline bool dims_adjacent(const KvAddressing& a) {
  return a.dim_inner_stride == 1 ? a.dim_tile == 1 ? a.dim_outer_stride == 1 : a.dim_outer_stride == a.dim_tile
                                 : a.dim_tile == 1 && a.dim_outer_stride == 1;
}

// One of a source's two tensors.
struct KeyTensor {
  const char* base;
  const KvAddressing* addr;
  int64_t row_stride;
  int64_t dim;
};

// rows[i] for positions first + i, i in [from, to): where the token's first dim lies.
inline void locate_rows(const KeySource& s, const KeyTensor& t, int64_t first, int64_t from, int64_t to,
                        const char** rows) {
  const int64_t bytes = element_bytes(s.dtype);
  if (s.block_table == nullptr) {
    for (int64_t i = from; i < to; ++i) rows[i] = t.base + (first + i - s.first_position) * t.row_stride * bytes;
    return;
  }
  const KvAddressing& a = *t.addr;
  for (int64_t i = from; i < to;) {
    const int64_t position = first + i, block = position / s.block_size, offset = position % s.block_size;
    const int64_t run = s.block_size - offset < to - i ? s.block_size - offset : to - i;
    const char* base = t.base + static_cast<int64_t>(s.block_table[block]) * a.block_stride * bytes;
    if (a.token_tile == 1) {
      const int64_t step = a.token_outer_stride * bytes;
      base += offset * step;
      for (int64_t j = 0; j < run; ++j) rows[i + j] = base + j * step;
    } else {
      int64_t outer = offset / a.token_tile, inner = offset % a.token_tile;
      for (int64_t j = 0; j < run; ++j) {
        rows[i + j] = base + (outer * a.token_outer_stride + inner * a.token_inner_stride) * bytes;
        if (++inner < a.token_tile) continue;
        inner = 0;
        ++outer;
      }
    }
    i += run;
  }
}

// rows[i] for positions first + i, i in [0, count), ready to be read along the dims; those outside [begin, end) get
// `zeros`. `staging` holds count rows of dim elements.
inline void find_rows(const KeySource& s, const KeyTensor& t, int64_t first, int64_t count, int64_t begin, int64_t end,
                      const char* zeros, char* staging, const char** rows) {
  const int64_t bytes = element_bytes(s.dtype);
  const int64_t from = begin > first ? begin - first : 0;
  const int64_t to = end - first < count ? end - first : count;
  for (int64_t i = 0; i < from && i < count; ++i) rows[i] = zeros;
  for (int64_t i = to > 0 ? to : 0; i < count; ++i) rows[i] = zeros;
  locate_rows(s, t, first, from, to, rows);
  if (s.block_table == nullptr || dims_adjacent(*t.addr)) return;
  collect_rows(*t.addr, bytes, t.dim, from, to, staging, t.dim * bytes, rows);
}

// fp8 or int8 -> bf16, exact: every fp8 format's exponents and mantissas fit, and so do eight bits of an integer.
inline void widen_codes_row(DType dtype, const char* src, int64_t n, uint16_t* dst) {
  if (dtype == DType::kI8) {
    for (int64_t i = 0; i < n; ++i)
      dst[i] = static_cast<uint16_t>(bits_of(static_cast<float>(static_cast<int8_t>(src[i]))) >> 16);
    return;
  }
  dispatch_dtype(dtype, [&]<DType T>() {
    if constexpr (kElementBytes<T> == 1) {
      int64_t i = 0;
      for (; i + 2 * kLanes <= n; i += 2 * kLanes) widen_fp8_to_bf16<T>(src + i, dst + i);
      if (i == n) return;
      char codes[2 * kLanes] = {};
      uint16_t wide[2 * kLanes];
      __builtin_memcpy(codes, src + i, static_cast<size_t>(n - i));
      widen_fp8_to_bf16<T>(codes, wide);
      __builtin_memcpy(dst + i, wide, static_cast<size_t>(n - i) * 2);
    }
  });
}

// stored * scale as kTo, of a row of fp8 or int8.
template <DType kTo, class Elem>
inline void scale_row_to(DType stored, const char* src, float scale, int64_t n, Elem* dst) {
  const auto put = [&](int64_t i, F32 x) {
    store_first<kTo>(reinterpret_cast<char*>(dst + i), mul(x, set1(scale)), n - i);
  };
  if (stored == DType::kI8) {
    for (int64_t i = 0; i < n; i += kLanes) {
      alignas(64) float x[kLanes] = {};
      for (int64_t j = 0; j < kLanes && i + j < n; ++j) x[j] = static_cast<float>(static_cast<int8_t>(src[i + j]));
      put(i, load(x));
    }
    return;
  }
  dispatch_dtype(stored, [&]<DType T>() {
    if constexpr (kElementBytes<T> == 1)
      for (int64_t i = 0; i < n; i += kLanes) put(i, load_first<T>(src + i, n - i));
  });
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
