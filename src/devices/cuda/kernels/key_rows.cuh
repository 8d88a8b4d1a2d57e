// Rows of keys and values in global memory, and where their chunks go in a swizzled tile.
#pragma once

#include "devices/cuda/kernels/batch.cuh"
#include "devices/cuda/kernels/convert.cuh"
#include "devices/cuda/kernels/ptx.cuh"

namespace sextant::cuda {

// Byte offset of 16-byte chunk `chunk` of a row in a tile of kDim columns.
template <int kDim>
__device__ __forceinline__ uint32_t swizzled(int row, int chunk) {
  return static_cast<uint32_t>(row * kDim * 2 + ((chunk ^ (row & 7)) << 4));
}

// Element offsets of one key's row in K and V, from the bases of its origin.
struct KeyRow {
  int64_t k, v;
};
__device__ __forceinline__ bool is_packed(const AttentionParams& p, const Request& r, int32_t position) {
  return p.origin == KeyOrigin::kPacked || (p.origin == KeyOrigin::kCacheThenPacked && position >= r.context_len);
}
__device__ __forceinline__ KeyRow find_key_row(const AttentionParams& p, const Request& r, int32_t kv_head,
                                               int32_t position, int32_t end) {
  if (position >= end) return {0, 0};
  if (is_packed(p, r, position)) {
    const int64_t token = static_cast<int64_t>(r.packed_start) + position - r.first_packed;
    return {token * p.packed_k_token_stride + kv_head * p.packed_k_head_stride,
            token * p.packed_v_token_stride + kv_head * p.packed_v_head_stride};
  }
  const BlockOffset at = split_position(p, position);
  const int64_t block = clamp_block(p, __ldg(p.block_table + r.index * p.block_table_stride + at.block));
  return {token_offset(p.k_addr, block, kv_head, at.offset), token_offset(p.v_addr, block, kv_head, at.offset)};
}

// Eight elements of a row as T, through registers: any type, any addressing.
template <class T>
__device__ __forceinline__ uint4 read_chunk(const AttentionParams& p, bool packed, bool values, int64_t row, int chunk,
                                            float scale) {
  const void* base = packed ? (values ? p.packed_v : p.packed_k) : (values ? p.cache_v : p.cache_k);
  const DType dtype = packed ? p.dtype : p.cache_dtype;
  const int stride = packed ? 8 : (values ? p.v_chunk_stride : p.k_chunk_stride);
  float x[8];
  if (is_quantized(dtype) && stride > 0) {
    const uint2 raw = __ldg(reinterpret_cast<const uint2*>(static_cast<const uint8_t*>(base) + row + chunk * stride));
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(&raw);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = load_float(dtype, bytes, i) * scale;
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int d = chunk * 8 + i;
      const int64_t offset = packed ? d : dim_offset(values ? p.v_addr : p.k_addr, d);
      x[i] = load_float(dtype, base, row + offset) * scale;
    }
  }
  return make_uint4(pack_pair<T>(x[0], x[1]), pack_pair<T>(x[2], x[3]), pack_pair<T>(x[4], x[5]),
                    pack_pair<T>(x[6], x[7]));
}

}  // namespace sextant::cuda
