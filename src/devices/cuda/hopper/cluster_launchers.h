// Instantiations of the cluster decode kernel, by element type; head sizes 64, 128 and 256, or padded to these. Their
// files are made by CMake from cluster_instance.cu.in.
#pragma once

#include "devices/cuda/hopper/forward_params.h"
#include "devices/cuda/kernels/launchers.h"

namespace sextant::cuda {

// The head size that a problem is padded to.
constexpr int cluster_dim(int head_dim) { return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256; }
// Keys of a tile of the problem.
inline int32_t cluster_tile_keys(const AttentionParams& p) {
  return cluster_tile_keys(static_cast<int>(size_of(p.cache_dtype)), cluster_dim(p.head_dim));
}

using ClusterLauncher = cudaError_t(const AttentionParams& p, const KeyMap& map, const ClusterPlan& plan,
                                    cudaStream_t stream);
ClusterLauncher cluster_decode_bf16, cluster_decode_f16, cluster_decode_bf16_fp8, cluster_decode_f16_fp8;
ClusterLauncher cluster_decode_bf16_padded, cluster_decode_f16_padded, cluster_decode_bf16_fp8_padded,
    cluster_decode_f16_fp8_padded;

}  // namespace sextant::cuda
