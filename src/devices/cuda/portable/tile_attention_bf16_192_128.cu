#include "devices/cuda/portable/tile_attention.cuh"
#include "devices/cuda/portable/tile_launchers.h"

namespace sextant::cuda {

cudaError_t tile_bf16_192_128(const AttentionParams& p, bool async, int tiles, int partitions, cudaStream_t stream) {
  return async ? launch_tile<TileShape<__nv_bfloat16, 192, 128, 1, 8, 64, true>>(p, tiles, partitions, stream)
               : launch_tile<TileShape<__nv_bfloat16, 192, 128, 1, 8, 64, false>>(p, tiles, partitions, stream);
}

}  // namespace sextant::cuda
