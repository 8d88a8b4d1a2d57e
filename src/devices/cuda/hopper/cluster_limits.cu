// How many clusters of the decode kernel a device runs at once.
#include "devices/cuda/hopper/cluster_decode.cuh"

namespace sextant::cuda {

ClusterLimits find_cluster_limits() {
  using S = ClusterShape<__nv_bfloat16, KvBits::k16, 128, 2, false>;
  constexpr int kShared = 6 * S::kStageBytes + S::kFixedBytes;
  ClusterLimits limits{};
  cudaFuncSetAttribute(cluster_decode<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  cudaFuncSetAttribute(cluster_decode<S>, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  for (int size = 2; size <= kMostClusterBlocks; size *= 2) {
    cudaLaunchAttribute attribute = cluster_attribute(size);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(size));
    config.blockDim = dim3(S::kThreads);
    config.dynamicSmemBytes = kShared;
    config.attrs = &attribute;
    config.numAttrs = 1;
    if (cudaOccupancyMaxActiveClusters(&limits[static_cast<size_t>(size)], cluster_decode<S>, &config) != cudaSuccess)
      limits[static_cast<size_t>(size)] = 0;
  }
  cudaGetLastError();  // sizes that the device does not have are not an error
  return limits;
}

}  // namespace sextant::cuda
