#include "devices/cuda/hopper/cluster_decode.cuh"
#include "devices/cuda/hopper/cluster_launchers.h"

namespace sextant::cuda {

cudaError_t cluster_decode_f16(const AttentionParams& p, const KeyMap& map, const ClusterPlan& plan,
                               cudaStream_t stream) {
  switch (p.head_dim) {
    case 64:
      return launch_cluster_shape<ClusterShape<__half, 64>>(p, map, plan, stream);
    case 128:
      return launch_cluster_shape<ClusterShape<__half, 128>>(p, map, plan, stream);
    default:
      return launch_cluster_shape<ClusterShape<__half, 256>>(p, map, plan, stream);
  }
}

}  // namespace sextant::cuda
