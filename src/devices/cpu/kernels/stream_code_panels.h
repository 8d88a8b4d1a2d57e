// Decode from 8-bit codes in the packed cache layout: the same pairs as of bf16 in half of the bytes. A register of
// codes is two pairs of dims of 16 keys, or one pair of tokens of 32 dims, and becomes two registers of bf16 on its way
// to the products, which are bf16's own in their order: widened in registers or in memory beforehand, the bits are the
// same.
//
//   scores:  16 keys side by side need no folding of sums, which takes a quarter of the time from rows (stream_codes.h)
//   output:  no joining of two tokens
#pragma once

#include "devices/cpu/kernels/engine_bf16.h"
#include "devices/cpu/kernels/stream_rows.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

constexpr int64_t kPairCodes = 2 * kPanel;  // of one pair of dims of a panel, or of 16 dims of a pair of tokens

inline __m512bh pair_weight(const uint16_t* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, 4);
  return as_bf16(_mm512_set1_epi32(pair));
}

// K [16 keys] as [dim / 2][16][2]. Groups are widened two at a time: what is widened and the sums fit the registers.
template <DType T, int kRows, int kGroups>
inline void code_panel_scores(const CodeTables<T>& tables, const char* const* panels, int64_t dim, const uint16_t* q,
                              int64_t depth, float* s, Prefetcher& ahead) {
  constexpr int kAtOnce = kGroups < 2 ? kGroups : 2;
  F32 sum[kRows][kGroups];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) sum[r][g] = set1(0.0f);
  const auto step = [&](int64_t d, int64_t codes) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int g0 = 0; g0 < kGroups; g0 += kAtOnce) {
      __m512bh x[kAtOnce], y[kAtOnce];
#pragma GCC unroll 2
      for (int g = 0; g < kAtOnce; ++g)
        tables.widen_in_order(load_codes(panels[g0 + g] + d * kPanel, codes), x[g], y[g]);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const __m512bh first = pair_weight(q + r * depth + d), second = pair_weight(q + r * depth + d + 2);
#pragma GCC unroll 2
        for (int g = 0; g < kAtOnce; ++g) sum[r][g0 + g] = {_mm512_dpbf16_ps(sum[r][g0 + g].v, first, x[g])};
#pragma GCC unroll 2
        for (int g = 0; g < kAtOnce; ++g) sum[r][g0 + g] = {_mm512_dpbf16_ps(sum[r][g0 + g].v, second, y[g])};
      }
    }
  };
  int64_t d = 0;
  for (; d + 4 <= dim; d += 4) {
    if (d % 8 == 0) ahead.step();
    step(d, kCodeChunk);
  }
  if (d < dim) step(d, kPairCodes);  // the query is padded with zeros
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) store(s + r * kStreamKeys + g * kPanel, sum[r][g]);
}

// V in pairs of tokens, [dim][2] each. n: codes of the last register that exist.
template <DType T, int kRows, int kVectors>
inline void code_pair_output(const CodeTables<T>& tables, const char* const* pairs, int64_t count, int64_t d, int64_t n,
                             const uint16_t* p, float* o, int64_t o_stride, Prefetcher& ahead) {
  F32 sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < kVectors; ++c) sum[r][c] = load(o + r * o_stride + d + c * kLanes);
  for (int64_t t = 0; t < count; t += 2) {
    if (t % kStepKeys == 0) ahead.step();
    __m512bh v[kVectors];
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; c += 2)
      tables.widen_in_order(load_codes(pairs[t / 2] + 2 * (d + c * kLanes), c + 2 < kVectors ? kCodeChunk : n), v[c],
                            v[c + 1]);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512bh x = pair_weight(p + r * kStreamKeys + t);
#pragma GCC unroll 8
      for (int c = 0; c < kVectors; ++c) sum[r][c] = {_mm512_dpbf16_ps(sum[r][c].v, x, v[c])};
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < kVectors; ++c) store(o + r * o_stride + d + c * kLanes, sum[r][c]);
}

// Every block of rows widens the codes again, so that blocks are larger than those of bf16.
template <class Block>
inline void for_code_row_blocks(int64_t rows, const Block& block) {
  int64_t r = 0;
  for (; r + 8 <= rows; r += 8) block.template operator()<8>(r);
  if (r < rows) for_row_blocks(rows - r, [&]<int kRows>(int64_t at) { block.template operator()<kRows>(r + at); });
}

struct CodePanels {
  static void scores_of_code_panels(DType dtype, const char* const* panels, int64_t groups, int64_t dim,
                                    const uint16_t* q, int64_t depth, int64_t rows, float* s, Prefetcher& ahead) {
    with_code_type(dtype, [&]<DType T>() {
      const CodeTables<T> tables;
      for_code_row_blocks(rows, [&]<int kRows>(int64_t r) {
        constexpr int kGroups = kRows == 8 ? 2 : 4;
        int64_t g = 0;
        for (; g + kGroups <= groups; g += kGroups)
          code_panel_scores<T, kRows, kGroups>(tables, panels + g, dim, q + r * depth, depth,
                                               s + r * kStreamKeys + g * kPanel, ahead);
        for (; g < groups; ++g)
          code_panel_scores<T, kRows, 1>(tables, panels + g, dim, q + r * depth, depth,
                                         s + r * kStreamKeys + g * kPanel, ahead);
      });
    });
  }
  static void output_of_code_pairs(DType dtype, const char* const* pairs, int64_t count, int64_t dim, const uint16_t* p,
                                   int64_t rows, float* o, int64_t o_stride, Prefetcher& ahead) {
    with_code_type(dtype, [&]<DType T>() {
      const CodeTables<T> tables;
      for_code_row_blocks(rows, [&]<int kRows>(int64_t r) {
        constexpr int kVectors = kRows == 8 ? 2 : 4;
        constexpr int64_t kDims = kVectors * kLanes;
        int64_t d = 0;
        for (; d + kDims <= dim; d += kDims)
          code_pair_output<T, kRows, kVectors>(tables, pairs, count, d, kCodeChunk, p + r * kStreamKeys,
                                               o + r * o_stride, o_stride, ahead);
        for (; d < dim; d += 2 * kLanes)
          code_pair_output<T, kRows, 2>(tables, pairs, count, d, smaller(2 * (dim - d), kCodeChunk),
                                        p + r * kStreamKeys, o + r * o_stride, o_stride, ahead);
      });
    });
  }
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
