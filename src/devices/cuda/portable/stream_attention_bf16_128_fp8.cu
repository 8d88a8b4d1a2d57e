#include "devices/cuda/portable/stream_attention.cuh"
#include "devices/cuda/portable/stream_launchers.h"

namespace sextant::cuda {
namespace {

template <KvBits kBits>
cudaError_t launch(const AttentionParams& p, int rows, dim3 blocks, cudaStream_t stream) {
  if (rows == 16) return launch_stream<StreamShape<__nv_bfloat16, kBits, 128, 1>>(p, blocks, stream);
  return launch_stream<StreamShape<__nv_bfloat16, kBits, 128, 2>>(p, blocks, stream);
}

}  // namespace

cudaError_t stream_bf16_128_fp8(const AttentionParams& p, int rows, dim3 blocks, cudaStream_t stream) {
  return p.cache_dtype == DType::kF8E4M3FN ? launch<KvBits::kE4M3>(p, rows, blocks, stream)
                                           : launch<KvBits::kE5M2>(p, rows, blocks, stream);
}

}  // namespace sextant::cuda
