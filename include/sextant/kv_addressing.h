// Where an element of a paged cache lies, in elements from its first one. One rule for every layout: tokens of a block
// and dims of a head in tiles, with a stride between tiles and one inside. GPU kernels use it too.
#pragma once

#include <cstdint>

namespace sextant {

struct KvAddressing {
  int64_t block_stride = 0;
  int64_t head_stride = 0;
  int64_t token_outer_stride = 0;
  int64_t token_inner_stride = 0;
  int64_t dim_outer_stride = 0;
  int64_t dim_inner_stride = 0;
  int32_t token_tile = 1;
  int32_t dim_tile = 1;

  constexpr int64_t offset(int64_t block, int64_t head, int64_t token, int64_t dim) const {
    return block * block_stride + head * head_stride + (token / token_tile) * token_outer_stride +
           (token % token_tile) * token_inner_stride + (dim / dim_tile) * dim_outer_stride +
           (dim % dim_tile) * dim_inner_stride;
  }
  // True when dims of one token are consecutive in memory.
  constexpr bool dims_contiguous() const {
    return dim_tile == 1 ? dim_outer_stride == 1 : dim_inner_stride == 1 && dim_outer_stride == dim_tile;
  }
};

}  // namespace sextant
