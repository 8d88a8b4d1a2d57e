// Which tensors and caches can be moved as vectors.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sextant/kv_addressing.h"
#include "sextant/types.h"

namespace sextant::gpu {

// Elements from 8 dims of a token to the next 8 where every 8 are contiguous and start on 8 elements' alignment, of 16
// bytes at most; else 0. `base`: the cache, or null where only its strides are asked about.
int32_t chunk_stride(const KvAddressing& address, int32_t head_dim, const void* base, size_t element_bytes);
// The same by tiles of 8 or 16 dims: stride 0 where it does not hold.
struct DimTiles {
  int32_t stride = 0, shift = 0;  // tiles of 8 << shift dims
};
DimTiles dim_tiles(const KvAddressing& address, int32_t head_dim, const void* base, size_t element_bytes);
// Elements from `n` dims of a token to the next `n` where every n are contiguous and start on n elements' alignment,
// the base aside; else 0.
int32_t vector_stride(const KvAddressing& address, int32_t dims, int32_t n);
// True when a strided tensor's rows of 8 elements start on 16 bytes.
bool is_vector_aligned(const TensorView& view);

}  // namespace sextant::gpu
