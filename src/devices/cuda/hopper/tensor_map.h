// Tensor maps of K and V for the copies in tma.cuh.
#pragma once

#include "devices/cuda/hopper/forward_params.h"

namespace sextant::cuda {

// Tile sizes of an instantiation: head sizes as padded, keys.
struct ForwardTile {
  int32_t head_dim, head_dim_v, keys, rows = kForwardRows;
};

// Maps for the tensors of `p` where their layout, alignment and head sizes allow it. What has no map is copied row by
// row.
KeyMap make_cache_map(const AttentionParams& p, int32_t tile_keys);  // head sizes: multiples of 64
// Boxes of 128 bytes of columns, or of the whole row of `row_columns`; zeros beyond the head size.
KeyMap make_padded_cache_map(const AttentionParams& p, int32_t tile_keys, int32_t row_columns);
KeyMap make_latent_map(const AttentionParams& p, int32_t box_keys);  // a latent cache: a box is 64 columns of keys
// A latent cache of bytes. k: a box is 128 of the first columns, which are V; v: one is the rope columns.
KeyMap make_latent_bytes_map(const AttentionParams& p, int32_t box_keys);
ForwardMaps make_forward_fp8_maps(const AttentionParams& p, int32_t tile_keys);  // head sizes up to 128
ForwardMaps make_forward_maps(const AttentionParams& p, const ForwardTile& tile, KeySource source);

}  // namespace sextant::cuda
