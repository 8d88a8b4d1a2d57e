// Tiles of keys brought to shared memory by tensor-map copies: one box is whole tokens of one KV head.
//
// In shared memory a tile is groups of 8 keys, in a group blocks of 128 bytes of columns, [8 keys][128 bytes], swizzled
// by 128 bytes; rows of 64 bytes make [8 keys][64 bytes], swizzled by 64. So the strides that wgmma and ldmatrix want
// are the same wherever the page boundaries lie.
#pragma once

#include "devices/cuda/hopper/forward_params.h"
#include "devices/cuda/hopper/tma.cuh"

namespace sextant::cuda {

// Byte offset of 16-byte chunk `chunk` of a key in a tile with rows of kRowBytes.
template <int kRowBytes>
__device__ __forceinline__ uint32_t key_chunk_bytes(int key, int chunk) {
  static_assert(kRowBytes == 64 || kRowBytes % 128 == 0);
  if constexpr (kRowBytes == 64) return static_cast<uint32_t>(key * 64 + ((chunk ^ ((key >> 1) & 3)) << 4));
  return static_cast<uint32_t>((key >> 3) * (kRowBytes / 128) * 1024 + (chunk >> 3) * 1024 + (key & 7) * 128 +
                               (((chunk & 7) ^ (key & 7)) << 4));
}
// The same in a tile of kColumns columns of 16 bits.
template <int kColumns>
__device__ __forceinline__ uint32_t key_chunk(int key, int chunk) {
  return key_chunk_bytes<kColumns * 2>(key, chunk);
}

// One box of K or V. `token`: offset in the cache block, or row of a packed tensor, whose `block` is 0.
template <bool kValues>
__device__ __forceinline__ void copy_key_box(const KeyMap& map, uint32_t shared, int32_t token, int32_t kv_head,
                                             int32_t block, uint32_t barrier) {
  const int32_t column_block = kv_head * (kValues ? map.v_head_blocks : map.k_head_blocks);
  const int32_t outer = kv_head * (kValues ? map.v_head_outer : map.k_head_outer) +
                        block * (kValues ? map.v_block_outer : map.k_block_outer);
  copy_box(shared, kValues ? &map.v : &map.k, 0, token, column_block, 0, outer, barrier);
}

// Of the padded kind: 64 columns of K or V.
template <bool kValues>
__device__ __forceinline__ void copy_key_columns(const KeyMap& map, uint32_t shared, int32_t column, int32_t token,
                                                 int32_t kv_head, int32_t block, uint32_t barrier) {
  copy_box(shared, kValues ? &map.v : &map.k, column, token, kv_head, block, barrier);
}

}  // namespace sextant::cuda
