#include "devices/cuda/hopper/cluster_decode.cuh"
#include "devices/cuda/hopper/cluster_launchers.h"

namespace sextant::cuda {

cudaError_t cluster_decode_f16(const AttentionParams& p, const KeyMap& map, const ClusterPlan& plan,
                               cudaStream_t stream) {
  return launch_cluster_typed<__half, KvBits::k16>(p, map, plan, stream);
}

}  // namespace sextant::cuda
