#include "devices/cuda/hopper/forward_fp8.cuh"

namespace sextant::cuda {

cudaError_t forward_fp8_128(const AttentionParams& p, const Fp8Queries& queries, const ForwardMaps& maps,
                            const ForwardOrder& order, int blocks, cudaStream_t stream) {
  return p.dtype == DType::kBF16
             ? launch_forward_fp8_shape<ForwardFp8Shape<__nv_bfloat16, 128>>(p, queries, maps, order, blocks, stream)
             : launch_forward_fp8_shape<ForwardFp8Shape<__half, 128>>(p, queries, maps, order, blocks, stream);
}

}  // namespace sextant::cuda
