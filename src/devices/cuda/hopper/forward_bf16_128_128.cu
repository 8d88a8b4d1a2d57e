#include "devices/cuda/hopper/forward.cuh"
#include "devices/cuda/hopper/forward_launchers.h"

namespace sextant::cuda {

template <bool kConvert>
using Shape = ForwardShape<__nv_bfloat16, 128, 128, 128, 2, false, kConvert>;

cudaError_t forward_bf16_128_128(const AttentionParams& p, const ForwardMaps& maps, const ForwardOrder& order,
                                 bool convert, int blocks, cudaStream_t stream) {
  return convert ? launch_forward_shape<Shape<true>>(p, maps, order, blocks, stream)
                 : launch_forward_shape<Shape<false>>(p, maps, order, blocks, stream);
}

}  // namespace sextant::cuda
