// What the fp8 forward kernel gets beside the forward kernel's parameters, and its instantiations.
#pragma once

#include "devices/cuda/hopper/forward_params.h"
#include "devices/cuda/kernels/launchers.h"

namespace sextant::cuda {

constexpr int32_t kFp8TileKeys = 128;

struct Fp8Queries {
  const float* scale = nullptr;  // [num_scales]: 1 or one a KV head; null: 1
  int32_t num_scales = 1;
};

// e4m3fn queries at `p.q` over an e4m3fn cache: all products in fp8.
bool forward_fp8_serves(const AttentionParams& p);
cudaError_t launch_forward_fp8(const AttentionParams& p, const Fp8Queries& queries, const ForwardPlan& plan,
                               cudaStream_t stream);

using ForwardFp8Launcher = cudaError_t(const AttentionParams& p, const Fp8Queries& queries, const ForwardMaps& maps,
                                       const ForwardOrder& order, int blocks, cudaStream_t stream);
ForwardFp8Launcher forward_fp8_64, forward_fp8_128;  // by head size class

}  // namespace sextant::cuda
