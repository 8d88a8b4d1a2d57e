// Sizes of stream_attention's tiles and rings: what its instantiations are compiled for, and what planning reckons
// with.
#pragma once

#include "devices/cuda/kernels/shared_room.h"

namespace sextant::cuda {

// Whose sizes a block has: 256 dims want the large room, all others the middle one.
constexpr SharedRoom stream_room(int dim, SharedRoom room) {
  return room == SharedRoom::kSmall || (dim == 256 && room == SharedRoom::kMiddle) ? SharedRoom::kSmall
                                                                                   : SharedRoom::kLarge;
}

struct StreamSizes {
  int warps, warp_keys;  // keys of a warp's tile
  int stages, stage_bytes, ring_bytes;
  int merge_bytes, shared_bytes;
};

// `row_bytes`: of a key, padded to a head size of `dim`. In a small room rings are shorter, and two warps share the
// widest rows.
constexpr StreamSizes stream_sizes(int row_bytes, int dim, SharedRoom room) {
  const bool small = room == SharedRoom::kSmall;
  StreamSizes s{};
  s.warps = small && row_bytes > 256 ? 2 : 4;
  s.warp_keys = row_bytes <= 128 ? 32 : 16;
  s.stage_bytes = 2 * s.warp_keys * row_bytes;
  s.stages = small ? 2 : s.stage_bytes <= 4096 ? 5 : 3;
  s.ring_bytes = s.warps * s.stages * s.stage_bytes;
  s.merge_bytes = 2 * 16 * dim * 4;
  s.shared_bytes = s.ring_bytes + s.merge_bytes + s.warps * 2 * 16 * 4;
  return s;
}
static_assert(stream_sizes(512, 256, SharedRoom::kSmall).shared_bytes <= kSmallSharedBytes);
static_assert(stream_sizes(256, 256, SharedRoom::kSmall).shared_bytes <= kSmallSharedBytes);

}  // namespace sextant::cuda
