// One launcher per query type, head-size class, cache width and order of values of stream_attention.
#pragma once

#include "devices/cuda/kernels/launchers.h"

namespace sextant::cuda {

StreamLauncher stream_bf16_64, stream_bf16_128, stream_bf16_256;
StreamLauncher stream_f16_64, stream_f16_128, stream_f16_256;
StreamLauncher stream_bf16_64_fp8, stream_bf16_128_fp8, stream_bf16_256_fp8;
StreamLauncher stream_f16_64_fp8, stream_f16_128_fp8, stream_f16_256_fp8;
// Values by runs of tokens (split-K and shuffled layouts), of either width.
StreamLauncher stream_bf16_64_tokens, stream_bf16_128_tokens, stream_bf16_256_tokens;
StreamLauncher stream_f16_64_tokens, stream_f16_128_tokens, stream_f16_256_tokens;

}  // namespace sextant::cuda
