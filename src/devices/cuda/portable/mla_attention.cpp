// Which problems the portable MLA decode kernels serve, and which instantiation a launch takes.
#include "devices/cuda/kernels/cache_kernels.h"
#include "devices/cuda/kernels/launchers.h"
#include "devices/cuda/portable/mla_launchers.h"

namespace sextant::cuda {

bool mla_serves(const AttentionParams& p) {
  return p.values_in_keys && p.dtype != DType::kF32 && p.head_dim == 576 && p.head_dim_v == 512 &&
         p.num_kv_heads == 1 && p.q_aligned;
}

int32_t mla_most_rows(SharedRoom room) {
  return room == SharedRoom::kSmall ? 16 : room == SharedRoom::kMiddle ? 32 : 64;
}

cudaError_t launch_mla_attention(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  return p.dtype == DType::kBF16 ? mla_bf16(p, plan, stream) : mla_f16(p, plan, stream);
}

bool mla_bytes_serves(const AttentionParams& p) {
  return mla_serves(p) && is_fp8(p.cache_dtype) && p.k_addr.token_tile == 1 &&
         vector_stride(p.k_addr, p.head_dim, 16) == 16 && reinterpret_cast<uintptr_t>(p.cache_k) % 16 == 0;
}

cudaError_t launch_mla_bytes(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  return p.dtype == DType::kBF16 ? mla_bytes_bf16(p, plan, stream) : mla_bytes_f16(p, plan, stream);
}

}  // namespace sextant::cuda
