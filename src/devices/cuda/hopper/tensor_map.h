// Tensor maps of K and V for the copies in tma.cuh.
#pragma once

#include "devices/cuda/hopper/forward_params.h"

namespace sextant::cuda {

// Maps for the tensors of `p` where their layout and alignment allow it; key tiles of `tile_keys`. What has no map is
// copied row by row.
ForwardMaps make_forward_maps(const AttentionParams& p, int32_t tile_keys);

}  // namespace sextant::cuda
