#include "devices/cuda/portable/stream_attention.cuh"
#include "devices/cuda/portable/stream_launchers.h"

namespace sextant::cuda {
namespace {

template <KvBits kBits>
cudaError_t launch(const AttentionParams& p, int rows, dim3 blocks, cudaStream_t stream) {
  if (rows == 16) return launch_stream<StreamShape<__half, kBits, 256, 1, ValueOrder::kTokens>>(p, blocks, stream);
  return cudaErrorInvalidValue;  // no plan has 32 rows of 256 dims
}

}  // namespace

cudaError_t stream_f16_256_tokens(const AttentionParams& p, int rows, dim3 blocks, cudaStream_t stream) {
  if (p.cache_dtype == DType::kF8E4M3FN) return launch<KvBits::kE4M3>(p, rows, blocks, stream);
  if (p.cache_dtype == DType::kF8E5M2) return launch<KvBits::kE5M2>(p, rows, blocks, stream);
  return launch<KvBits::k16>(p, rows, blocks, stream);
}

}  // namespace sextant::cuda
