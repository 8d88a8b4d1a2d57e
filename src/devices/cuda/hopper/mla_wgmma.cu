#include "devices/cuda/hopper/mla_transposed.cuh"
#include "devices/cuda/hopper/mla_wgmma.cuh"
#include "devices/cuda/hopper/tensor_map.h"
#include "devices/cuda/kernels/cache_kernels.h"
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
  return cudaLaunchKernelEx(&config, kernel, p, is_fp8(p.cache_dtype) ? KeyMap{} : make_cache_map(p, S::kKeys));
}

template <class T, bool kFp8>
cudaError_t launch_typed(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  if (plan.rows != MlaTransposedShape::kRows) return launch<MlaWgmmaShape<kFp8>>(mla_wgmma<T, kFp8>, p, plan, stream);
  return launch<MlaTransposedShape>(plan.cluster > 0 ? mla_transposed<T, true, kFp8> : mla_transposed<T, false, kFp8>,
                                    p, plan, stream);
}

}  // namespace

cudaError_t launch_mla_wgmma(const AttentionParams& params, const StreamPlan& plan, cudaStream_t stream) {
  AttentionParams p = params;
  const bool bf16 = p.dtype == DType::kBF16;
  if (!is_fp8(p.cache_dtype))
    return (bf16 ? launch_typed<__nv_bfloat16, false> : launch_typed<__half, false>)(p, plan, stream);
  p.k_vector_stride = vector_stride(p.k_addr, p.head_dim, 16);
  return (bf16 ? launch_typed<__nv_bfloat16, true> : launch_typed<__half, true>)(p, plan, stream);
}

}  // namespace sextant::cuda
