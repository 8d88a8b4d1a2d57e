// MLA decode over 16-bit latents.
#pragma once

#include "devices/cuda/hopper/mla_halves.cuh"
#include "devices/cuda/hopper/mla_launch.cuh"
#include "devices/cuda/hopper/mla_wgmma.cuh"

namespace sextant::cuda {

template <class T>
cudaError_t launch_mla_16bit(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  if (plan.rows == MlaTransposedShape::kRows) return launch_mla_transposed<T, false>(p, plan, stream);
  if (p.list_group != 2)
    return launch_mla_kernel<MlaWgmmaShape<false>>(mla_wgmma<T, false>, p, make_cache_map(p, MlaTile::kKeys), 0,
                                                   plan.grid, stream);
  using S = MlaHalvesShape;
  return launch_mla_kernel<S>(mla_halves<T>, p, make_latent_map(p, S::kKeys / 2), 2, plan.grid, stream);
}

}  // namespace sextant::cuda
