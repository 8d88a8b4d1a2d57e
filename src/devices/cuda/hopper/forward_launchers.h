// Instantiations of the forward kernel: by element type and head size class.
#pragma once

#include "devices/cuda/hopper/forward_params.h"
#include "devices/cuda/kernels/launchers.h"

namespace sextant::cuda {

// `convert`: keys pass through registers (fp8 caches, layouts without chunks of 8 dims).
using ForwardLauncher = cudaError_t(const AttentionParams& p, const ForwardMaps& maps, const ForwardOrder& order,
                                    bool convert, int blocks, cudaStream_t stream);
ForwardLauncher forward_bf16_64_64, forward_bf16_128_128, forward_bf16_192_128, forward_bf16_256_256;
ForwardLauncher forward_f16_64_64, forward_f16_128_128, forward_f16_192_128, forward_f16_256_256;

// In which order the work is done. `key_bytes`: of an element of K and V.
ForwardOrder make_forward_order(const AttentionParams& p, const ForwardPlan& plan, int32_t key_bytes);

}  // namespace sextant::cuda
