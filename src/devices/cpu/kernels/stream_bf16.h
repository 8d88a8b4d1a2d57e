// Decode with vdpbf16ps: rows of bf16 or of 8-bit codes as they lie, or the panels of the packed cache layout.
#pragma once

#include "devices/cpu/kernels/engine_bf16.h"
#include "devices/cpu/kernels/stream_code_panels.h"
#include "devices/cpu/kernels/stream_codes.h"
#include "devices/cpu/kernels/stream_rows.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

constexpr int64_t kStepDims = 8;                    // dims of the score product between two steps of the prefetcher
constexpr int kPanelGroups = kStreamKeys / kPanel;  // of 16 keys in a tile

struct DotStream : CodePanels {
  using Elem = uint16_t;
  using Values = __m512bh;
  using Packing = Bf16Packing;
  static constexpr int kUnit = 2;
  static constexpr int kExpDegree = Bf16Packing::kExpDegree;
  static constexpr int64_t kSoftmaxSteps = 3;
  static constexpr bool kReadsPanels = true;
  static constexpr bool kReadsTiles = false;
  static constexpr bool kReadsCodes = true;
  static ChunkOrder order(DType) { return ChunkOrder::kPairs; }

  template <DType T>
  static void pack_query(const void* src, int64_t n, int64_t padded, DType, uint16_t* dst) {
    Bf16Packing::pack_row<T>(src, n, padded, dst);
  }
  template <DType T>
  static __m512bh load_chunk(const char* p, int64_t n) {
    return as_bf16(load_bf16<T>(p, n));
  }
  static F32 dot(__m512bh k, const uint16_t* q, F32 sum) {
    return {_mm512_dpbf16_ps(sum.v, k, as_bf16(_mm512_loadu_si512(q)))};
  }
  // Two tokens side by side: one shuffle a vector.
  template <DType T>
  static void load_values(const char* const* rows, int64_t offset, int64_t n, __m512bh& x, __m512bh& y) {
    const __m512i a = load_bf16<T>(rows[0] + offset, n), b = load_bf16<T>(rows[1] + offset, n);
    x = as_bf16(_mm512_unpacklo_epi16(a, b));
    y = as_bf16(_mm512_unpackhi_epi16(a, b));
  }
  static __m512bh weight(const uint16_t* p) { return pair_weight(p); }
  static F32 weigh(__m512bh weight, __m512bh v, F32 sum) { return {_mm512_dpbf16_ps(sum.v, weight, v)}; }
  static void store_p(uint16_t* p, int64_t j, F32 x) { Bf16Packing::store_p(p, j, x); }

  static void scores(DType, const char* const* keys, int64_t count, int64_t dim, const uint16_t* q, int64_t depth,
                     int64_t rows, float* s, Prefetcher& ahead) {
    for_row_blocks(rows, [&]<int kRows>(int64_t r) {
      stream_scores<DotStream, DType::kBF16, kRows>(keys, count, dim, q + r * depth, depth, s + r * kStreamKeys, ahead);
    });
  }
  static void output(DType, const char* const* values, int64_t count, int64_t dim, const uint16_t* p, int64_t rows,
                     float* o, int64_t o_stride, Prefetcher& ahead) {
    for_row_blocks(rows, [&]<int kRows>(int64_t r) {
      stream_output<DotStream, DType::kBF16, kRows>(values, count, dim, p + r * kStreamKeys, o + r * o_stride, o_stride,
                                                    ahead);
    });
  }

  template <DType T>
  static void pack_query_of_codes(const void* src, int64_t n, int64_t padded, uint16_t* dst) {
    pack_query_for_codes<T>(src, n, padded, dst);
  }
  static void scores_of_codes(DType dtype, const char* const* keys, int64_t count, int64_t dim, const uint16_t* q,
                              int64_t depth, int64_t rows, float* s, Prefetcher& ahead) {
    with_code_type(dtype, [&]<DType T>() {
      for_row_blocks(rows, [&]<int kRows>(int64_t r) {
        code_scores<T, kRows>(keys, count, dim, q + r * depth, depth, s + r * kStreamKeys, ahead);
      });
    });
  }
  static void output_of_codes(DType dtype, const char* const* values, int64_t count, int64_t dim, const uint16_t* p,
                              int64_t rows, float* o, int64_t o_stride, Prefetcher& ahead) {
    with_code_type(dtype, [&]<DType T>() {
      for_row_blocks(rows, [&]<int kRows>(int64_t r) {
        code_output<T, kRows>(values, count, dim, p + r * kStreamKeys, o + r * o_stride, o_stride, ahead);
      });
    });
  }

  // K [16 keys] as [dim / 2][16][2]: a vector holds one pair of dims of all 16, so scores need no folding.
  template <int kRows, int kGroups>
  static void panel_scores(const char* const* panels, int64_t dim, const uint16_t* q, int64_t depth, float* s,
                           Prefetcher& ahead) {
    F32 sum[kRows][kGroups];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int g = 0; g < kGroups; ++g) sum[r][g] = set1(0.0f);
    for (int64_t d = 0; d < dim; d += 2) {
      if (d % kStepDims == 0) ahead.step();
      __m512bh k[kGroups];
#pragma GCC unroll 4
      for (int g = 0; g < kGroups; ++g) k[g] = as_bf16(_mm512_loadu_si512(panels[g] + 2 * d * kPanel));
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const __m512bh x = weight(q + r * depth + d);
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; ++g) sum[r][g] = weigh(x, k[g], sum[r][g]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int g = 0; g < kGroups; ++g) store(s + r * kStreamKeys + g * kPanel, sum[r][g]);
  }
  static void scores_of_panels(const char* const* panels, int64_t groups, int64_t dim, const uint16_t* q, int64_t depth,
                               int64_t rows, float* s, Prefetcher& ahead) {
    for_row_blocks(rows, [&]<int kRows>(int64_t r) {
      if (groups == kPanelGroups)
        return panel_scores<kRows, kPanelGroups>(panels, dim, q + r * depth, depth, s + r * kStreamKeys, ahead);
      for (int64_t g = 0; g < groups; ++g)
        panel_scores<kRows, 1>(panels + g, dim, q + r * depth, depth, s + r * kStreamKeys + g * kPanel, ahead);
    });
  }

  // V in pairs of tokens, [dim][2] each.
  template <int kRows, int kVectors>
  static void pair_output(const char* const* pairs, int64_t count, int64_t d, int64_t dim, const uint16_t* p, float* o,
                          int64_t o_stride, Prefetcher& ahead) {
    F32 sum[kRows][kVectors];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < kVectors; ++c) sum[r][c] = load(o + r * o_stride + d + c * kLanes);
    const Mask last = first_lanes(dim - d - (kVectors - 1) * kLanes);
    for (int64_t t = 0; t < count; t += 2) {
      if (t % kStepKeys == 0) ahead.step();
      __m512bh v[kVectors];
#pragma GCC unroll 8
      for (int c = 0; c < kVectors; ++c) {
        const char* src = pairs[t / 2] + 4 * (d + c * kLanes);
        v[c] = as_bf16(c + 1 < kVectors ? _mm512_loadu_si512(src) : _mm512_maskz_loadu_epi32(last, src));
      }
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const __m512bh x = weight(p + r * kStreamKeys + t);
#pragma GCC unroll 8
        for (int c = 0; c < kVectors; ++c) sum[r][c] = weigh(x, v[c], sum[r][c]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < kVectors; ++c) store(o + r * o_stride + d + c * kLanes, sum[r][c]);
  }
  static void output_of_pairs(const char* const* pairs, int64_t count, int64_t dim, const uint16_t* p, int64_t rows,
                              float* o, int64_t o_stride, Prefetcher& ahead) {
    for_row_blocks(rows, [&]<int kRows>(int64_t r) {
      for_even_parts<kRows == 4 ? 4 : 8>((dim + kLanes - 1) / kLanes, [&]<int kVectors>(int64_t first) {
        pair_output<kRows, kVectors>(pairs, count, first * kLanes, dim, p + r * kStreamKeys, o + r * o_stride, o_stride,
                                     ahead);
      });
    });
  }
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
