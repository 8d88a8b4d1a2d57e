#include "devices/cuda/hopper/mla_fp8.cuh"
#include "devices/cuda/hopper/mla_launch.cuh"

namespace sextant::cuda {

cudaError_t mla_fp8_bf16(const AttentionParams& p, const Fp8Queries& queries, const StreamPlan& plan,
                         cudaStream_t stream) {
  return launch_mla_kernel<MlaFp8Shape>(mla_fp8<__nv_bfloat16, 1>, p, make_latent_bytes_map(p, MlaTile::kKeys), 0,
                                        plan.grid, stream, queries);
}

}  // namespace sextant::cuda
