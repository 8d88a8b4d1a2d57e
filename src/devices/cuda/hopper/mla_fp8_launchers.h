// MLA decode with e4m3 queries over e4m3 latents, all products in fp8: what it serves, and its instantiations.
#pragma once

#include "devices/cuda/hopper/forward_fp8_params.h"

namespace sextant::cuda {

// Queries at `p.q`.
bool mla_fp8_serves(const AttentionParams& p);
cudaError_t launch_mla_fp8(const AttentionParams& p, const Fp8Queries& queries, const StreamPlan& plan,
                           cudaStream_t stream);

using MlaFp8Launcher = cudaError_t(const AttentionParams& p, const Fp8Queries& queries, const StreamPlan& plan,
                                   cudaStream_t stream);
MlaFp8Launcher mla_fp8_bf16, mla_fp8_f16;  // by type of the output

}  // namespace sextant::cuda
