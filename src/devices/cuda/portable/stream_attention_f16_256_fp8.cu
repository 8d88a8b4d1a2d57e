#include "devices/cuda/portable/stream_attention.cuh"
#include "devices/cuda/portable/stream_launchers.h"

namespace sextant::cuda {
namespace {

template <KvBits kBits>
cudaError_t launch(const AttentionParams& p, int rows, dim3 blocks, cudaStream_t stream) {
  if (rows == 16) return launch_stream<StreamShape<__half, kBits, 256, 1>>(p, blocks, stream);
  return cudaErrorInvalidValue;  // 32 rows of 256 dims do not fit in registers
}

}  // namespace

cudaError_t stream_f16_256_fp8(const AttentionParams& p, int rows, dim3 blocks, cudaStream_t stream) {
  return p.cache_dtype == DType::kF8E4M3FN ? launch<KvBits::kE4M3>(p, rows, blocks, stream)
                                           : launch<KvBits::kE5M2>(p, rows, blocks, stream);
}

}  // namespace sextant::cuda
