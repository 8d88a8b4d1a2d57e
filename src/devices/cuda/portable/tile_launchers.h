// One launcher per operand type and head-size class of tile_attention.
#pragma once

#include "devices/cuda/kernels/params.h"

namespace sextant::cuda {

using TileLauncher = cudaError_t(const AttentionParams& p, bool async, int tiles, int partitions, cudaStream_t stream);
TileLauncher tile_bf16_64_64, tile_bf16_128_128, tile_bf16_192_128, tile_bf16_256_256;
TileLauncher tile_bf16_192_128_small, tile_bf16_256_256_small, tile_f16_192_128_small, tile_f16_256_256_small;
TileLauncher tile_f16_64_64, tile_f16_128_128, tile_f16_192_128, tile_f16_256_256;

}  // namespace sextant::cuda
