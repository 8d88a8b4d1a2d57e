#include "devices/cuda/portable/mla_attention.cuh"
#include "devices/cuda/portable/mla_launchers.h"

namespace sextant::cuda {
namespace {

template <int kRowTiles>
cudaError_t launch(const AttentionParams& p, dim3 blocks, cudaStream_t stream) {
  return p.cache_dtype == p.dtype && p.k_chunk_stride > 0
             ? launch_mla<MlaShape<__half, kRowTiles, true>>(p, blocks, stream)
             : launch_mla<MlaShape<__half, kRowTiles, false>>(p, blocks, stream);
}

}  // namespace

cudaError_t mla_f16(const AttentionParams& p, int rows, dim3 blocks, cudaStream_t stream) {
  if (rows == 16) return launch<1>(p, blocks, stream);
  return rows == 32 ? launch<2>(p, blocks, stream) : launch<4>(p, blocks, stream);
}

}  // namespace sextant::cuda
