// Which instantiation of tile_attention serves a problem.
#include "devices/cuda/kernels/launchers.h"
#include "devices/cuda/portable/tile_launchers.h"

namespace sextant::cuda {
bool tile_copies_keys(const AttentionParams& p) {
  const bool cache = p.cache_dtype == p.dtype && p.k_chunk_stride > 0 && p.v_chunk_stride > 0;
  return (p.origin == KeyOrigin::kPacked || cache) && (p.origin == KeyOrigin::kCache || p.packed_aligned);
}

bool tile_serves(const AttentionParams& p) {
  return p.dtype != DType::kF32 && p.head_dim <= 256 && p.head_dim_v <= 256 && p.head_dim % 8 == 0 &&
         p.head_dim_v % 8 == 0;
}

int32_t tile_rows(const AttentionParams& p, SharedRoom room) {
  return room == SharedRoom::kSmall && (p.head_dim > 192 || p.head_dim_v > 128) ? 64 : 128;
}

cudaError_t launch_tile_attention(const AttentionParams& p, TileGrid grid, SharedRoom room, cudaStream_t stream) {
  const bool bf16 = p.dtype == DType::kBF16, small = room == SharedRoom::kSmall;
  TileLauncher* launcher = nullptr;
  if (p.head_dim <= 64 && p.head_dim_v <= 64) {
    launcher = bf16 ? tile_bf16_64_64 : tile_f16_64_64;
  } else if (p.head_dim <= 128 && p.head_dim_v <= 128) {
    launcher = bf16 ? tile_bf16_128_128 : tile_f16_128_128;
  } else if (p.head_dim <= 192 && p.head_dim_v <= 128) {
    launcher = small ? (bf16 ? tile_bf16_192_128_small : tile_f16_192_128_small)
                     : (bf16 ? tile_bf16_192_128 : tile_f16_192_128);
  } else {
    launcher = small ? (bf16 ? tile_bf16_256_256_small : tile_f16_256_256_small)
                     : (bf16 ? tile_bf16_256_256 : tile_f16_256_256);
  }
  return launcher(p, tile_copies_keys(p), grid.tiles, grid.partitions, stream);
}

}  // namespace sextant::cuda
