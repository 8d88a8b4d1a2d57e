// Instantiations of the forward kernel: by element type, head size class and source of the keys. Their files are made
// by CMake from forward_instance.cu.in.
#pragma once

#include "devices/cuda/hopper/forward_params.h"
#include "devices/cuda/kernels/launchers.h"

namespace sextant::cuda {

using ForwardLauncher = cudaError_t(const AttentionParams& p, const ForwardMaps& maps, const ForwardOrder& order,
                                    int blocks, cudaStream_t stream);
ForwardLauncher forward_bf16_64_64_exact, forward_bf16_64_64_rows, forward_bf16_64_64_padded,
    forward_bf16_64_64_convert, forward_bf16_64_64_fp16;
ForwardLauncher forward_bf16_96_96_rows, forward_bf16_96_96_padded, forward_bf16_96_96_convert, forward_bf16_96_96_fp16;
ForwardLauncher forward_bf16_128_128_exact, forward_bf16_128_128_rows, forward_bf16_128_128_padded,
    forward_bf16_128_128_convert, forward_bf16_128_128_fp16;
ForwardLauncher forward_bf16_192_128_exact, forward_bf16_192_128_padded, forward_bf16_192_128_convert,
    forward_bf16_192_128_fp16;
ForwardLauncher forward_bf16_192_192_padded, forward_bf16_192_192_convert, forward_bf16_192_192_fp16;
ForwardLauncher forward_bf16_256_256_exact, forward_bf16_256_256_padded, forward_bf16_256_256_convert,
    forward_bf16_256_256_fp16;
ForwardLauncher forward_f16_64_64_exact, forward_f16_64_64_rows, forward_f16_64_64_padded, forward_f16_64_64_convert;
ForwardLauncher forward_f16_96_96_rows, forward_f16_96_96_padded, forward_f16_96_96_convert;
ForwardLauncher forward_f16_128_128_exact, forward_f16_128_128_rows, forward_f16_128_128_padded,
    forward_f16_128_128_convert;
ForwardLauncher forward_f16_192_128_exact, forward_f16_192_128_padded, forward_f16_192_128_convert;
ForwardLauncher forward_f16_192_192_padded, forward_f16_192_192_convert;
ForwardLauncher forward_f16_256_256_exact, forward_f16_256_256_padded, forward_f16_256_256_convert;

// Row tiles of kForwardTallRows.
ForwardLauncher forward_bf16_64_64_exact_tall, forward_bf16_64_64_padded_tall, forward_bf16_96_96_padded_tall,
    forward_f16_64_64_exact_tall, forward_f16_64_64_padded_tall, forward_f16_96_96_padded_tall;

// How the kernel brings the keys of a problem with its vector strides set (kernels/vector_strides.h).
KeySource forward_source(const AttentionParams& p);

// Whether tensor-map copies do it; else threads do, row by row or through registers.
bool forward_brings_boxes(const AttentionParams& p, KeySource source);

// In which order the work is done. `key_bytes`: of an element of K and V.
ForwardOrder make_forward_order(const AttentionParams& p, const ForwardPlan& plan, int32_t key_bytes);

// The counters of items begin at zero, if there are any.
cudaError_t zero_forward_claims(const ForwardOrder& order, cudaStream_t stream);

}  // namespace sextant::cuda
