#include "devices/cuda/hopper/cluster_decode.cuh"
#include "devices/cuda/hopper/cluster_launchers.h"

namespace sextant::cuda {

cudaError_t cluster_decode_f16(const AttentionParams& p, const KeyMap& map, const ClusterPlan& plan,
                               cudaStream_t stream) {
  const bool two = plan.one_a_sm;
  switch (p.head_dim) {
    case 64:
      return two ? launch_cluster_shape<ClusterShape<__half, 64, 2>>(p, map, plan, stream)
                 : launch_cluster_shape<ClusterShape<__half, 64, 1>>(p, map, plan, stream);
    case 128:
      return two ? launch_cluster_shape<ClusterShape<__half, 128, 2>>(p, map, plan, stream)
                 : launch_cluster_shape<ClusterShape<__half, 128, 1>>(p, map, plan, stream);
    default:  // two groups' accumulators exceed the registers
      return launch_cluster_shape<ClusterShape<__half, 256, 1>>(p, map, plan, stream);
  }
}

}  // namespace sextant::cuda
