// Rows of elements converted, merged and summed.
#pragma once

#include "devices/cpu/kernels/attention_kernel.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

template <DType From, DType To, bool kDivide>
inline void convert_row(const void* src, void* dst, int64_t n, float scale) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const F32 x = load_first<From>(static_cast<const char*>(src) + i * kElementBytes<From>, n - i);
    const F32 y = kDivide ? div(x, set1(scale)) : mul(x, set1(scale));
    store_first<To>(static_cast<char*>(dst) + i * kElementBytes<To>, y, n - i);
  }
}

template <bool kDivide>
void convert(const void* src, DType src_dtype, void* dst, DType dst_dtype, int64_t n, float scale) {
  dispatch_dtype(src_dtype, [&]<DType From>() {
    dispatch_dtype(dst_dtype, [&]<DType To>() { convert_row<From, To, kDivide>(src, dst, n, scale); });
  });
}

inline F32 load_any(DType dtype, const void* p, int64_t i, int64_t n) {
  F32 x = set1(0.0f);
  dispatch_dtype(dtype,
                 [&]<DType T>() { x = load_first<T>(static_cast<const char*>(p) + i * kElementBytes<T>, n - i); });
  return x;
}

void merge_row(const MergeRow& row) {
  for (int64_t i = 0; i < row.dim; i += kLanes) {
    F32 x = set1(0.0f);
    if (row.a_weight != 0.0f) x = mul(load_any(row.a_dtype, row.a, i, row.dim), set1(row.a_weight));
    if (row.b_weight != 0.0f) x = fmadd(load_any(row.b_dtype, row.b, i, row.dim), set1(row.b_weight), x);
    dispatch_dtype(row.out_dtype, [&]<DType T>() {
      store_first<T>(static_cast<char*>(row.out) + i * kElementBytes<T>, x, row.dim - i);
    });
  }
}

double read_sum(const void* data, size_t bytes) {
  const float* p = static_cast<const float*>(data);
  const int64_t n = static_cast<int64_t>(bytes / 4);
  F32 sum[8];
  for (F32& x : sum) x = set1(0.0f);
  for (int64_t i = 0; i + 8 * kLanes <= n; i += 8 * kLanes)
    for (int j = 0; j < 8; ++j) sum[j] = add(sum[j], load(p + i + j * kLanes));
  for (int j = 1; j < 8; ++j) sum[0] = add(sum[0], sum[j]);
  return static_cast<double>(reduce_add(sum[0]));
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
