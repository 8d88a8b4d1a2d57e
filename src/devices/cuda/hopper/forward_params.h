// What the forward kernel gets beside the attention parameters.
#pragma once

#include <cuda.h>

#include "devices/cuda/kernels/params.h"

namespace sextant::cuda {

// How the tensor-map copies see K and V: dims {head_dim, token, KV head, block} of the cache and {head_dim, token,
// KV head, 1} of packed rows. A box is 64 columns of some tokens, swizzled by 128 bytes.
struct ForwardMaps {
  CUtensorMap cache_k, cache_v, packed_k, packed_v;
  int32_t cache_tokens = 0;  // of a box of the cache: a power of two that divides the block size; 0: no such copies
  bool packed = false;       // a box of packed rows is a whole key tile
};

// The order of the work items: sections of KV heads whose keys stay in the L2 cache together; in a section the last
// row tiles, which see the most keys, first.
struct ForwardOrder {
  int32_t tiles = 0;  // row tiles over all requests, at most
  int32_t partitions = 1;
  int32_t heads_per_section = 1;
  int32_t items = 0;
  int32_t* next_item = nullptr;  // zeroed before the launch; blocks take what is left in order
};

}  // namespace sextant::cuda
