#include "devices/cuda/hopper/mla_launch_halves.cuh"

namespace sextant::cuda {

cudaError_t mla_wgmma_f16(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  return launch_mla_16bit<__half>(p, plan, stream);
}

}  // namespace sextant::cuda
