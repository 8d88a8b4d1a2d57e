#include "devices/cuda/hopper/forward.cuh"
#include "devices/cuda/hopper/forward_launchers.h"

namespace sextant::cuda {

template <bool kConvert>
using Shape = ForwardShape<__nv_bfloat16, 256, 256, 64, 1, true, kConvert>;

cudaError_t forward_bf16_256_256(const AttentionParams& p, const ForwardMaps& maps, const ForwardOrder& order,
                                 bool convert, int blocks, cudaStream_t stream) {
  return convert ? launch_forward_shape<Shape<true>>(p, maps, order, blocks, stream)
                 : launch_forward_shape<Shape<false>>(p, maps, order, blocks, stream);
}

}  // namespace sextant::cuda
