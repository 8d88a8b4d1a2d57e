// Where tokens and dims lie in a paged cache, and the scales that the whole cache or a head has.
#pragma once

#include <cstdint>

#include "devices/gpu/device_code.h"
#include "sextant/kv_addressing.h"

namespace sextant::gpu {

SEXTANT_DEVICE int64_t token_offset(const KvAddressing& a, int64_t block, int32_t head, int32_t token) {
  const int64_t base = block * a.block_stride + head * a.head_stride;
  if (a.token_tile == 1) return base + token * a.token_outer_stride;
  return base + (token / a.token_tile) * a.token_outer_stride + (token % a.token_tile) * a.token_inner_stride;
}
SEXTANT_DEVICE int64_t dim_offset(const KvAddressing& a, int32_t dim) {
  if (a.dim_tile == 1) return dim * a.dim_outer_stride;
  return (dim / a.dim_tile) * a.dim_outer_stride + (dim % a.dim_tile) * a.dim_inner_stride;
}

// Ids outside the cache are clamped, so that a bad table cannot reach other memory.
SEXTANT_DEVICE int64_t clamp_block(int32_t block, int32_t num_blocks) {
  return min(static_cast<uint32_t>(block), static_cast<uint32_t>(num_blocks - 1));
}

template <class Params>
SEXTANT_DEVICE float key_scale(const Params& p, int32_t kv_head) {
  return p.k_scale == nullptr ? 1.0f : read(p.k_scale + (p.num_scales > 1 ? kv_head : 0));
}
template <class Params>
SEXTANT_DEVICE float value_scale(const Params& p, int32_t kv_head) {
  if (p.values_in_keys) return key_scale(p, kv_head);
  return p.v_scale == nullptr ? 1.0f : read(p.v_scale + (p.num_scales > 1 ? kv_head : 0));
}

}  // namespace sextant::gpu
