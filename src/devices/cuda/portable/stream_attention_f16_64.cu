#include "devices/cuda/portable/stream_attention.cuh"
#include "devices/cuda/portable/stream_launchers.h"

namespace sextant::cuda {

cudaError_t stream_f16_64(const AttentionParams& p, int rows, dim3 blocks, cudaStream_t stream) {
  if (rows == 16) return launch_stream<StreamShape<__half, KvBits::k16, 64, 1>>(p, blocks, stream);
  return launch_stream<StreamShape<__half, KvBits::k16, 64, 2>>(p, blocks, stream);
}

}  // namespace sextant::cuda
