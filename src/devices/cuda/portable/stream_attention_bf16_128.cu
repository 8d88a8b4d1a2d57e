#include "devices/cuda/portable/stream_attention.cuh"
#include "devices/cuda/portable/stream_launchers.h"

namespace sextant::cuda {

cudaError_t stream_bf16_128(const AttentionParams& p, int rows, dim3 blocks, cudaStream_t stream) {
  if (rows == 16) return launch_stream<StreamShape<__nv_bfloat16, KvBits::k16, 128, 1>>(p, blocks, stream);
  return launch_stream<StreamShape<__nv_bfloat16, KvBits::k16, 128, 2>>(p, blocks, stream);
}

}  // namespace sextant::cuda
