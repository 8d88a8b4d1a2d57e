// Whether the fp8 forward kernel serves a problem, and its launch.
#include <algorithm>
#include <cstdint>

#include "devices/cuda/hopper/forward_fp8_params.h"
#include "devices/cuda/hopper/forward_launchers.h"
#include "devices/cuda/hopper/tensor_map.h"
#include "devices/cuda/kernels/cache_kernels.h"

namespace sextant::cuda {
namespace {

constexpr int32_t kChunk = 16;  // elements of 16 bytes

bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

bool forward_fp8_serves(const AttentionParams& p) {
  const bool sizes = p.head_dim % kChunk == 0 && p.head_dim_v % kChunk == 0 && p.head_dim <= 128 && p.head_dim_v <= 128;
  const bool cached = p.origin == KeyOrigin::kCache && !p.values_in_keys && p.cache_dtype == DType::kF8E4M3FN;
  if (!sizes || !cached || p.dtype == DType::kF32) return false;
  const bool rows =
      vector_stride(p.k_addr, p.head_dim, kChunk) > 0 && vector_stride(p.v_addr, p.head_dim_v, kChunk) > 0;
  const bool out_aligned = is_aligned(p.out) && p.out_token_stride % 8 == 0 && p.out_head_stride % 8 == 0;
  return rows && p.q_aligned && is_aligned(p.cache_k) && is_aligned(p.cache_v) && out_aligned;
}

cudaError_t launch_forward_fp8(const AttentionParams& params, const Fp8Queries& queries, const ForwardPlan& plan,
                               cudaStream_t stream) {
  AttentionParams p = params;
  p.k_vector_stride = vector_stride(p.k_addr, p.head_dim, kChunk);
  p.v_vector_stride = vector_stride(p.v_addr, p.head_dim_v, kChunk);
  const ForwardOrder order = make_forward_order(p, plan, /*key_bytes=*/1);
  const cudaError_t error = zero_forward_claims(order, stream);
  if (error != cudaSuccess) return error;
  ForwardFp8Launcher* launcher = std::max(p.head_dim, p.head_dim_v) <= 64 ? forward_fp8_64 : forward_fp8_128;
  return launcher(p, queries, make_forward_fp8_maps(p, kFp8TileKeys), order, order.blocks, stream);
}

}  // namespace sextant::cuda
