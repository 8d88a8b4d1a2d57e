// Which problems the MLA decode kernels on wgmma serve, and which instantiation a launch takes.
#include "devices/cuda/hopper/mla_fp8_launchers.h"
#include "devices/cuda/hopper/mla_launchers.h"
#include "devices/cuda/kernels/cache_kernels.h"

namespace sextant::cuda {

bool mla_wgmma_serves(const AttentionParams& p) {
  if (!mla_serves(p)) return false;
  if (p.cache_dtype == p.dtype) return p.k_chunk_stride == 8;
  return is_fp8(p.cache_dtype) && vector_stride(p.k_addr, p.head_dim, 16) > 0 &&
         reinterpret_cast<uintptr_t>(p.cache_k) % 16 == 0;
}

cudaError_t launch_mla_wgmma(const AttentionParams& params, const StreamPlan& plan, cudaStream_t stream) {
  AttentionParams p = params;
  const bool bf16 = p.dtype == DType::kBF16;
  if (!is_fp8(p.cache_dtype)) return (bf16 ? mla_wgmma_bf16 : mla_wgmma_f16)(p, plan, stream);
  p.k_vector_stride = vector_stride(p.k_addr, p.head_dim, 16);
  return (bf16 ? mla_wgmma_bf16_fp8 : mla_wgmma_f16_fp8)(p, plan, stream);
}

bool mla_fp8_serves(const AttentionParams& p) {
  return mla_wgmma_serves(p) && p.cache_dtype == DType::kF8E4M3FN && vector_stride(p.k_addr, p.head_dim, 16) == 16;
}

cudaError_t launch_mla_fp8(const AttentionParams& p, const Fp8Queries& queries, const StreamPlan& plan,
                           cudaStream_t stream) {
  return (p.dtype == DType::kBF16 ? mla_fp8_bf16 : mla_fp8_f16)(p, queries, plan, stream);
}

}  // namespace sextant::cuda
