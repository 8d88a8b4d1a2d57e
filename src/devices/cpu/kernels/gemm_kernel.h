// One block of a general matrix product, made of the same packed products as attention.
#pragma once

#include "devices/cpu/kernels/attention_kernel.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

// A block of c, and the depth of one packed step. 192 x 256 fp32 are 192 KiB, and a and b of a step 96 and 128 KiB in
// bf16: they share 1 MiB of L2. Beside a matrix unit, which has 2 MiB, packing b costs as much as the products of 200
// rows: more rows share it, and sums are stored once for twice the depth.
template <class E>
struct GemmShape {
  static constexpr int64_t kRows = E::kInterleaved ? 512 : 192;
  static constexpr int64_t kColumns = 256;
  static constexpr int64_t kDepth = E::kInterleaved ? 512 : 256;
};

template <class E>
struct GemmScratch {
  static constexpr int64_t kGemmRows = GemmShape<E>::kRows, kGemmColumns = GemmShape<E>::kColumns,
                           kGemmDepth = GemmShape<E>::kDepth;
  typename E::Elem* a;  // [kGemmRows, kGemmDepth]
  typename E::Elem* b;  // [kGemmColumns / 16][kGemmDepth / unit][16][unit]
  float* c;             // [kGemmRows, kGemmColumns]
  char* staging;        // [64, kGemmDepth] of up to 4 bytes
  const char** pointers;
  char* zeros;  // one row
  size_t bytes;
  explicit GemmScratch(void* base) {
    using Elem = typename E::Elem;
    ScratchSpace space(base);
    a = space.take<Elem>(kGemmRows * kGemmDepth);
    b = space.take<Elem>(kGemmColumns * kGemmDepth);
    c = space.take<float>(kGemmRows * kGemmColumns);
    staging = space.take<char>(kTokensAtOnce * kGemmDepth, 4);
    pointers = space.take<const char*>(kTokensAtOnce);
    zeros = space.take<char>(kGemmDepth, 4);
    bytes = space.bytes();
  }
};

// `count` rows of `width` adjacent elements: pointers into the matrix where they are adjacent there, else copies.
template <class E>
inline void gather_rows(GemmScratch<E>& m, DType dtype, const void* matrix, int64_t row_stride, int64_t col_stride,
                        int64_t count, int64_t padded, int64_t width) {
  constexpr int64_t kGemmDepth = GemmShape<E>::kDepth;
  const int64_t bytes = element_bytes(dtype);
  for (int64_t i = 0; i < padded; ++i) {
    const char* row = static_cast<const char*>(matrix) + i * row_stride * bytes;
    if (i >= count) {
      row = m.zeros;
    } else if (col_stride != 1) {
      char* copy = m.staging + i * kGemmDepth * bytes;
      for (int64_t j = 0; j < width; ++j)
        __builtin_memcpy(copy + j * bytes, row + j * col_stride * bytes, static_cast<size_t>(bytes));
      row = copy;
    }
    m.pointers[i] = row;
  }
}

template <class E>
inline void pack_b(const GemmItem& it, GemmScratch<E>& m, int64_t k0, int64_t depth) {
  constexpr int64_t kGemmDepth = GemmShape<E>::kDepth;
  const char* b = static_cast<const char*>(it.b) + k0 * it.b_row_stride * element_bytes(it.dtype);
  const int64_t bytes = element_bytes(it.dtype);
  if (it.b_row_stride == 1) {  // columns of b lie together, as the dims of a key do
    for (int64_t n = 0; n < it.n; n += kTokensAtOnce) {
      const int64_t count = smaller(it.n - n, kTokensAtOnce), padded = round_up(count, kPanel);
      gather_rows(m, it.dtype, b + n * it.b_col_stride * bytes, it.b_col_stride, it.b_row_stride, count, padded, depth);
      dispatch_dtype(it.dtype, [&]<DType T>() {
        E::template pack_keys<T>(m.pointers, padded, depth, kGemmDepth, m.b + n * kGemmDepth, NothingBetween{});
      });
    }
    return;
  }
  for (int64_t k = 0; k < round_up(depth, 32); k += kTokensAtOnce) {  // rows of b are like values
    const int64_t count = larger(smaller(depth - k, kTokensAtOnce), 0);
    const int64_t padded = smaller(round_up(depth, 32) - k, kTokensAtOnce);
    gather_rows(m, it.dtype, b + k * it.b_row_stride * bytes, it.b_row_stride, it.b_col_stride, count, padded, it.n);
    dispatch_dtype(it.dtype, [&]<DType T>() {
      E::template pack_values<T>(m.pointers, padded, it.n, kGemmDepth, m.b + k * kPanel, NothingBetween{});
    });
  }
}

template <class E>
inline void pack_a(const GemmItem& it, GemmScratch<E>& m, int64_t k0, int64_t depth) {
  constexpr int64_t kGemmDepth = GemmShape<E>::kDepth;
  const char* a = static_cast<const char*>(it.a) + k0 * it.a_col_stride * element_bytes(it.dtype);
  for (int64_t i = 0; i < it.m; i += kTokensAtOnce) {
    const int64_t count = smaller(it.m - i, kTokensAtOnce);
    gather_rows(m, it.dtype, a + i * it.a_row_stride * element_bytes(it.dtype), it.a_row_stride, it.a_col_stride, count,
                count, depth);
    dispatch_dtype(it.dtype, [&]<DType T>() {
      for (int64_t r = 0; r < count; ++r)
        E::template pack_row<T>(m.pointers[r], depth, round_up(depth, 32), m.a + (i + r) * kGemmDepth);
    });
  }
}

// Whether rows of a are multiplied where they lie: whole rows of the products' own type, with nothing to pad.
template <class E>
inline bool reads_a_in_place(const GemmItem& it, int64_t depth) {
  return it.dtype == E::kRowType && it.a_col_stride == 1 && E::depth(depth) == depth && it.m % E::kRowPad == 0;
}

template <class E>
void gemm_block(const GemmItem& it) {
  constexpr int64_t kGemmDepth = GemmShape<E>::kDepth, kGemmColumns = GemmShape<E>::kColumns;
  GemmScratch<E> m(it.scratch);
  for (int64_t i = 0; i < kGemmDepth * 4; ++i) m.zeros[i] = 0;
  const auto state = E::begin();
  for (int64_t k0 = 0; k0 < it.k || k0 == 0; k0 += kGemmDepth) {
    const int64_t depth = smaller(it.k - k0, kGemmDepth);
    pack_b(it, m, k0, depth);
    const bool in_place = reads_a_in_place<E>(it, depth);
    if (!in_place) pack_a(it, m, k0, depth);
    const auto* a = in_place ? static_cast<const typename E::Elem*>(it.a) + k0 : m.a;
    E::gemm(it.m, round_up(it.n, kPanel) / kPanel, E::depth(depth), a, in_place ? it.a_row_stride : kGemmDepth, m.b,
            kGemmDepth * kPanel, m.c, kGemmColumns, k0 > 0);
  }
  E::end(state);
  dispatch_dtype(it.c_dtype, [&]<DType T>() {
    for (int64_t i = 0; i < it.m; ++i)
      write_scaled<T>(m.c + i * kGemmColumns, 1.0f, it.n,
                      static_cast<char*>(it.c) + i * it.c_row_stride * kElementBytes<T>);
  });
}
template <class E>
size_t gemm_block_scratch_bytes() {
  return GemmScratch<E>(nullptr).bytes;
}

// The ceiling of the unit that multiplies: operands in registers, or where an instruction takes them from memory, in
// the first-level cache.
template <class E>
double peak_products(int64_t iterations, void* scratch) {
  if constexpr (E::kInterleaved) return E::peak(iterations, static_cast<typename E::Elem*>(scratch));
  using Elem = typename E::Elem;
  constexpr int64_t kDepth = 128, kPanels = 4, kRows = E::kRowBlock < 32 ? 24 : 32;
  Elem* a = static_cast<Elem*>(scratch);
  Elem* b = a + kRows * kDepth;
  float* c = reinterpret_cast<float*>(b + kPanels * kPanel * kDepth);
  for (int64_t i = 0; i < (kRows + kPanels * kPanel) * kDepth; ++i) a[i] = Elem{};
  const auto state = E::begin();
  for (int64_t i = 0; i < iterations; ++i)
    E::gemm(kRows, kPanels, kDepth, a, kDepth, b, kDepth * kPanel, c, kPanels * kPanel, false);
  E::end(state);
  return 2.0 * static_cast<double>(iterations) * kRows * kPanels * kPanel * kDepth;
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
