#include "devices/cuda/hopper/cluster_decode.cuh"
#include "devices/cuda/hopper/cluster_launchers.h"

namespace sextant::cuda {

cudaError_t cluster_decode_bf16_fp8(const AttentionParams& p, const KeyMap& map, const ClusterPlan& plan,
                                    cudaStream_t stream) {
  return p.cache_dtype == DType::kF8E4M3FN ? launch_cluster_typed<__nv_bfloat16, KvBits::kE4M3>(p, map, plan, stream)
                                           : launch_cluster_typed<__nv_bfloat16, KvBits::kE5M2>(p, map, plan, stream);
}

}  // namespace sextant::cuda
