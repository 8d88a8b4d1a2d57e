// The table of an ISA that multiplies in fp32 alone.
#pragma once

#include "devices/cpu/kernels/gemm_kernel.h"
#include "devices/cpu/kernels/row_kernels.h"
#include "devices/cpu/kernels/stream_kernel.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

// What a tile and the rows of an item may take of the second-level cache: 1 MiB, the smallest that the vector units of
// today come with.
constexpr int64_t kItemBytes = 400 << 10, kTileBytes = 160 << 10;

template <class E, class S>
constexpr AttentionKernels attention_kernels(int64_t item_rows, int64_t stream_rows, int64_t item_bytes = kItemBytes,
                                             int64_t tile_bytes = kTileBytes) {
  return {&attention_scratch_bytes<E>,
          &attend<E>,
          &stream_scratch_bytes<S>,
          &stream<S>,
          &gemm_block_scratch_bytes<E>,
          &gemm_block<E>,
          GemmShape<E>::kRows,
          GemmShape<E>::kColumns,
          item_rows,
          item_bytes,
          tile_bytes,
          stream_rows,
          stream_rows,
          stream_rows,
          &peak_products<E>,
          nullptr,
          nullptr};
}

constexpr IsaKernels fp32_table(const char* name) {
  return {name,
          attention_kernels<FmaEngine, FmaStream>(kLanes == 4 ? 192 : 384, 16),
          {},
          {},
          &reduce_partials,
          &merge_row,
          &convert<false>,
          &convert<true>,
          &read_sum};
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
