#include "devices/cuda/hopper/mla_transposed.cuh"
#include "devices/cuda/hopper/mla_wgmma.cuh"
#include "devices/cuda/hopper/tensor_map.h"
#include "devices/cuda/kernels/launchers.h"

namespace sextant::cuda {
namespace {

using Kernel = void (*)(AttentionParams, KeyMap);

template <class S>
cudaError_t launch(Kernel kernel, const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attribute = cluster_attribute(plan.cluster);
  cudaLaunchConfig_t config{};
  config.gridDim = plan.grid;
  config.blockDim = dim3(S::kThreads);
  config.dynamicSmemBytes = S::kSharedBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = plan.cluster > 0 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, p, make_cache_map(p, S::kKeys));
}

template <class T>
cudaError_t launch_typed(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  if (plan.rows != MlaTransposedShape::kRows) return launch<MlaWgmmaShape>(mla_wgmma<T>, p, plan, stream);
  return launch<MlaTransposedShape>(plan.cluster > 0 ? mla_transposed<T, true> : mla_transposed<T, false>, p, plan,
                                    stream);
}

}  // namespace

bool mla_wgmma_serves(const AttentionParams& p) {
  return mla_serves(p) && p.cache_dtype == p.dtype && p.k_chunk_stride == 8;
}

cudaError_t launch_mla_wgmma(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  return p.dtype == DType::kBF16 ? launch_typed<__nv_bfloat16>(p, plan, stream) : launch_typed<__half>(p, plan, stream);
}

}  // namespace sextant::cuda
