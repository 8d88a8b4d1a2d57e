// How the MLA decode kernels on wgmma are launched.
#pragma once

#include "devices/cuda/hopper/mla_launchers.h"
#include "devices/cuda/hopper/mla_transposed.cuh"
#include "devices/cuda/hopper/tensor_map.h"

namespace sextant::cuda {

// `cluster`: blocks along x; 0: none. `rest`: what the kernel gets beside.
template <class S, class... Rest>
cudaError_t launch_mla_kernel(void (*kernel)(AttentionParams, KeyMap, Rest...), const AttentionParams& p,
                              const KeyMap& map, int32_t cluster, dim3 grid, cudaStream_t stream, Rest... rest) {
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attribute = cluster_attribute(cluster);
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(S::kThreads);
  config.dynamicSmemBytes = S::kSharedBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = cluster > 0 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, p, map, rest...);
}

template <class T, bool kFp8>
cudaError_t launch_mla_transposed(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  using S = MlaTransposedShape;
  return launch_mla_kernel<S>(plan.cluster > 0 ? mla_transposed<T, true, kFp8> : mla_transposed<T, false, kFp8>, p,
                              kFp8 ? KeyMap{} : make_cache_map(p, S::kKeys), plan.cluster, plan.grid, stream);
}

}  // namespace sextant::cuda
