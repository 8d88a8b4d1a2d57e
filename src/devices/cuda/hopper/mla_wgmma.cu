#include "devices/cuda/hopper/mla_wgmma.cuh"
#include "devices/cuda/hopper/tensor_map.h"
#include "devices/cuda/kernels/launchers.h"

namespace sextant::cuda {
namespace {

template <class T>
cudaError_t launch(const AttentionParams& p, dim3 grid, cudaStream_t stream) {
  using S = MlaWgmmaShape;
  const cudaError_t error =
      cudaFuncSetAttribute(mla_wgmma<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (error != cudaSuccess) return error;
  mla_wgmma<T><<<grid, S::kThreads, S::kSharedBytes, stream>>>(p, make_cache_map(p, S::kKeys));
  return cudaGetLastError();
}

}  // namespace

bool mla_wgmma_serves(const AttentionParams& p) {
  return mla_serves(p) && p.cache_dtype == p.dtype && p.k_chunk_stride == 8;
}

cudaError_t launch_mla_wgmma(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  return p.dtype == DType::kBF16 ? launch<__nv_bfloat16>(p, plan.grid, stream) : launch<__half>(p, plan.grid, stream);
}

}  // namespace sextant::cuda
