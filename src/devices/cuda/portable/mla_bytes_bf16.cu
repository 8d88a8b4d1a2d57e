#include "devices/cuda/portable/mla_bytes.cuh"
#include "devices/cuda/portable/mla_launchers.h"

namespace sextant::cuda {

cudaError_t mla_bytes_bf16(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  if (p.cache_dtype == DType::kF8E4M3FN) return launch_mla_bytes<__nv_bfloat16, DType::kF8E4M3FN>(p, plan, stream);
  if (p.cache_dtype == DType::kF8E5M2) return launch_mla_bytes<__nv_bfloat16, DType::kF8E5M2>(p, plan, stream);
  return launch_mla_bytes<__nv_bfloat16, DType::kF8E4M3FNUZ>(p, plan, stream);
}

}  // namespace sextant::cuda
