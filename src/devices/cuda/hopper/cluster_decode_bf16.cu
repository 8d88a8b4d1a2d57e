#include "devices/cuda/hopper/cluster_decode.cuh"
#include "devices/cuda/hopper/cluster_launchers.h"

namespace sextant::cuda {

cudaError_t cluster_decode_bf16(const AttentionParams& p, const KeyMap& map, const ClusterPlan& plan,
                                cudaStream_t stream) {
  switch (p.head_dim) {
    case 64:
      return launch_cluster_shape<ClusterShape<__nv_bfloat16, 64>>(p, map, plan, stream);
    case 128:
      return launch_cluster_shape<ClusterShape<__nv_bfloat16, 128>>(p, map, plan, stream);
    default:
      return launch_cluster_shape<ClusterShape<__nv_bfloat16, 256>>(p, map, plan, stream);
  }
}

// 16 where as many clusters of 16 as H100 has GPCs run at once, a block an SM; else the portable 8.
int most_cluster_blocks() {
  using S = ClusterShape<__nv_bfloat16, 128>;
  constexpr int kSize = 16, kGpcs = 8, kShared = 6 * S::kStageBytes + S::kFixedBytes;
  int clusters = 0;
  cudaLaunchAttribute attribute = cluster_attribute(kSize);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kSize, kGpcs);
  config.blockDim = dim3(S::kThreads);
  config.dynamicSmemBytes = kShared;
  config.attrs = &attribute;
  config.numAttrs = 1;
  const bool known =
      cudaFuncSetAttribute(cluster_decode<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared) == cudaSuccess &&
      cudaFuncSetAttribute(cluster_decode<S>, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) == cudaSuccess &&
      cudaOccupancyMaxActiveClusters(&clusters, cluster_decode<S>, &config) == cudaSuccess;
  if (!known) cudaGetLastError();
  return known && clusters >= kGpcs ? kSize : 8;
}

}  // namespace sextant::cuda
