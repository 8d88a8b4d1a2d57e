#include "devices/cuda/hopper/mla_launch.cuh"
#include "devices/cuda/hopper/mla_wgmma.cuh"

namespace sextant::cuda {

cudaError_t mla_wgmma_f16_fp8(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  if (plan.rows == MlaTransposedShape::kRows) return launch_mla_transposed<__half, true>(p, plan, stream);
  return launch_mla_kernel<MlaWgmmaShape>(mla_wgmma<__half>, p, KeyMap{}, 0, plan.grid, stream);
}

}  // namespace sextant::cuda
