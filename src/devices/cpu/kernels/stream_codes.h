// Decode from rows of 8-bit codes (fp8, int8) with vdpbf16ps: codes become bf16 in registers, on their way from the
// cache to the product. The unpack that joins their bytes leaves dims in an order of its own: queries are packed in the
// same order, and a row of output is put right when it is written.
#pragma once

#include "devices/cpu/kernels/engine_bf16.h"
#include "devices/cpu/kernels/stream_rows.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

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
