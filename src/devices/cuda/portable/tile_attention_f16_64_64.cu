#include "devices/cuda/portable/tile_attention.cuh"
#include "devices/cuda/portable/tile_launchers.h"

namespace sextant::cuda {

cudaError_t tile_f16_64_64(const AttentionParams& p, bool async, int tiles, int partitions, cudaStream_t stream) {
  return async ? launch_tile<TileShape<__half, 64, 64, 2, 4, 64, true>>(p, tiles, partitions, stream)
               : launch_tile<TileShape<__half, 64, 64, 2, 4, 64, false>>(p, tiles, partitions, stream);
}

}  // namespace sextant::cuda
