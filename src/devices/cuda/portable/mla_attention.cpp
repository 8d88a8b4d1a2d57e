// Which instantiation of mla_attention serves a problem.
#include "devices/cuda/kernels/launchers.h"
#include "devices/cuda/portable/mla_launchers.h"

namespace sextant::cuda {

bool mla_serves(const AttentionParams& p) {
  return p.values_in_keys && p.dtype != DType::kF32 && p.head_dim == 576 && p.head_dim_v == 512 &&
         p.num_kv_heads == 1 && p.q_aligned;
}

cudaError_t launch_mla_attention(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  return p.dtype == DType::kBF16 ? mla_bf16(p, plan.rows, plan.grid, stream) : mla_f16(p, plan.rows, plan.grid, stream);
}

}  // namespace sextant::cuda
