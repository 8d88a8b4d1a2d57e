// MLA decode over 16-bit latents.
#pragma once

#include "devices/cuda/hopper/mla_halves.cuh"
#include "devices/cuda/hopper/mla_launch.cuh"

namespace sextant::cuda {

template <class T>
cudaError_t launch_mla_16bit(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  if (plan.rows == MlaTransposedShape::kRows) return launch_mla_transposed<T, false>(p, plan, stream);
  using S = MlaHalvesShape;
  const bool pair = p.list_group == 2;
  return launch_mla_kernel<S>(pair ? mla_halves<T, true> : mla_halves<T, false>, p,
                              make_latent_map(p, pair ? S::kKeys / 2 : S::kKeys), pair ? 2 : 0, plan.grid, stream);
}

}  // namespace sextant::cuda
