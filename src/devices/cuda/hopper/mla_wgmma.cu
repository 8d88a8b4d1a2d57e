#include "devices/cuda/hopper/mla_transposed.cuh"
#include "devices/cuda/hopper/mla_wgmma.cuh"
#include "devices/cuda/hopper/tensor_map.h"
#include "devices/cuda/kernels/launchers.h"

namespace sextant::cuda {
namespace {

template <class S>
cudaError_t launch(void (*kernel)(AttentionParams, KeyMap), const AttentionParams& p, dim3 grid, cudaStream_t stream) {
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (error != cudaSuccess) return error;
  kernel<<<grid, S::kThreads, S::kSharedBytes, stream>>>(p, make_cache_map(p, S::kKeys));
  return cudaGetLastError();
}

}  // namespace

bool mla_wgmma_serves(const AttentionParams& p) {
  return mla_serves(p) && p.cache_dtype == p.dtype && p.k_chunk_stride == 8;
}

cudaError_t launch_mla_wgmma(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  const bool bf16 = p.dtype == DType::kBF16;
  if (plan.rows == MlaTransposedShape::kRows)
    return launch<MlaTransposedShape>(bf16 ? mla_transposed<__nv_bfloat16> : mla_transposed<__half>, p, plan.grid,
                                      stream);
  return launch<MlaWgmmaShape>(bf16 ? mla_wgmma<__nv_bfloat16> : mla_wgmma<__half>, p, plan.grid, stream);
}

}  // namespace sextant::cuda
