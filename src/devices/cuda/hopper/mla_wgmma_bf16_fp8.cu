#include "devices/cuda/hopper/mla_fp8.cuh"
#include "devices/cuda/hopper/mla_launch.cuh"
#include "devices/cuda/hopper/mla_wgmma.cuh"

namespace sextant::cuda {

cudaError_t mla_wgmma_bf16_fp8(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  if (plan.rows == MlaTransposedShape::kRows) return launch_mla_transposed<__nv_bfloat16, true>(p, plan, stream);
  if (p.cache_dtype == DType::kF8E4M3FN && p.k_vector_stride == 16)
    return launch_mla_kernel<MlaFp8Shape>(mla_fp8<__nv_bfloat16, 2>, p, make_latent_bytes_map(p, MlaTile::kKeys), 0,
                                          plan.grid, stream, Fp8Queries{});
  return launch_mla_kernel<MlaWgmmaShape>(mla_wgmma<__nv_bfloat16>, p, KeyMap{}, 0, plan.grid, stream);
}

}  // namespace sextant::cuda
