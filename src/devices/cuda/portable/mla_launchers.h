#pragma once

#include "devices/cuda/kernels/params.h"

namespace sextant::cuda {

using MlaLauncher = cudaError_t(const AttentionParams& p, int rows, dim3 blocks, cudaStream_t stream);
MlaLauncher mla_bf16, mla_f16;

}  // namespace sextant::cuda
