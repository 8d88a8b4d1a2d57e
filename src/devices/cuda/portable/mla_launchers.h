// The portable MLA decode kernels, by element type.
#pragma once

#include "devices/cuda/kernels/launchers.h"

namespace sextant::cuda {

StreamLauncher mla_bf16, mla_f16;

// Over fp8 latents that stay bytes in shared memory: 16 or 32 query rows.
constexpr int32_t kMlaBytesRows = 32, kMlaBytesTileKeys = 64;
constexpr int64_t kMlaBytesSharedBytes = 192 * 1024, kMlaBytesFewSharedBytes = 96 * 1024;  // 32 rows; 16
bool mla_bytes_serves(const AttentionParams& p);
cudaError_t launch_mla_bytes(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream);
StreamLauncher mla_bytes_bf16, mla_bytes_f16;

}  // namespace sextant::cuda
