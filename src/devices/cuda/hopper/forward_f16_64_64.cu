#include "devices/cuda/hopper/forward.cuh"
#include "devices/cuda/hopper/forward_launchers.h"

namespace sextant::cuda {

template <bool kConvert>
using Shape = ForwardShape<__half, 64, 64, 128, 2, true, kConvert>;

cudaError_t forward_f16_64_64(const AttentionParams& p, const ForwardMaps& maps, const ForwardOrder& order,
                              bool convert, int blocks, cudaStream_t stream) {
  return convert ? launch_forward_shape<Shape<true>>(p, maps, order, blocks, stream)
                 : launch_forward_shape<Shape<false>>(p, maps, order, blocks, stream);
}

}  // namespace sextant::cuda
