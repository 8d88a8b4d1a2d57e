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
      for (int64_t j = 0; j < run; ++j) {
        const int32_t token = static_cast<int32_t>(offset + j), outer = token / a.token_tile;
        rows[i + j] =
            base + (outer * a.token_outer_stride + (token - outer * a.token_tile) * a.token_inner_stride) * bytes;
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

// fp8 -> bf16, exact: every fp8 format's exponents and mantissas fit.
inline void widen_fp8_row(DType dtype, const char* src, int64_t n, uint16_t* dst) {
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

inline uint16_t element_at(const char* p, int64_t i) {
  uint16_t x;
  __builtin_memcpy(&x, p + 2 * i, 2);
  return x;
}
inline void copy_pair(const char* src, uint16_t* dst) { __builtin_memcpy(dst, src, 4); }

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
