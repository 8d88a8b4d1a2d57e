// Instantiations of the cluster decode kernel, by element type; head sizes 64, 128 and 256.
#pragma once

#include "devices/cuda/hopper/forward_params.h"
#include "devices/cuda/kernels/launchers.h"

namespace sextant::cuda {

using ClusterLauncher = cudaError_t(const AttentionParams& p, const KeyMap& map, const ClusterPlan& plan,
                                    cudaStream_t stream);
ClusterLauncher cluster_decode_bf16, cluster_decode_f16, cluster_decode_bf16_fp8, cluster_decode_f16_fp8;

}  // namespace sextant::cuda
