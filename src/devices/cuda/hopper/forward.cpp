// Which instantiation of the forward kernel serves a problem, and in which order it works.
#include <algorithm>
#include <cstdint>

#include "devices/cuda/hopper/forward_launchers.h"
#include "devices/cuda/hopper/tensor_map.h"
#include "devices/cuda/kernels/launchers.h"

namespace sextant::cuda {
namespace {

constexpr int64_t kResidentBytes = 24 << 20;  // of keys and values in the L2 cache (50 MiB) while their rows go by

int32_t heads_per_section(const AttentionParams& p, int64_t max_keys, int32_t key_bytes) {
  const int64_t head_bytes = std::max<int64_t>(1, max_keys * (p.head_dim + p.head_dim_v) * key_bytes);
  return static_cast<int32_t>(std::clamp<int64_t>(kResidentBytes / head_bytes, 1, p.num_kv_heads));
}

}  // namespace

ForwardOrder make_forward_order(const AttentionParams& p, const ForwardPlan& plan, int32_t key_bytes) {
  ForwardOrder order;
  order.tiles = plan.tiles;
  order.partitions = plan.partitions;
  order.heads_per_section = plan.front_sms > 0 ? p.num_kv_heads : heads_per_section(p, plan.max_keys, key_bytes);
  order.items = plan.tiles * plan.partitions * p.num_kv_heads;
  order.blocks = std::min(plan.sms, order.items);
  order.front_blocks = std::min(plan.front_sms, order.blocks);
  order.claimed = plan.claimed;
  return order;
}

bool forward_serves(const AttentionParams& p) {
  const bool sizes = p.head_dim % 8 == 0 && p.head_dim_v % 8 == 0 && p.head_dim <= 256 && p.head_dim_v <= 256;
  const bool out_aligned =
      reinterpret_cast<uintptr_t>(p.out) % 16 == 0 && p.out_token_stride % 8 == 0 && p.out_head_stride % 8 == 0;
  return p.dtype != DType::kF32 && sizes && p.q_aligned && p.packed_aligned && out_aligned;
}

cudaError_t launch_forward(const AttentionParams& p, const ForwardPlan& plan, cudaStream_t stream) {
  const bool bf16 = p.dtype == DType::kBF16;
  ForwardTile tile{256, 256, 64};
  ForwardLauncher* launcher = bf16 ? forward_bf16_256_256 : forward_f16_256_256;
  if (p.head_dim <= 64 && p.head_dim_v <= 64) {
    tile = {64, 64, 128};
    launcher = bf16 ? forward_bf16_64_64 : forward_f16_64_64;
  } else if (p.head_dim <= 128 && p.head_dim_v <= 128) {
    tile = {128, 128, 128};
    launcher = bf16 ? forward_bf16_128_128 : forward_f16_128_128;
  } else if (p.head_dim <= 192 && p.head_dim_v <= 128) {
    tile = {192, 128, 128};
    launcher = bf16 ? forward_bf16_192_128 : forward_f16_192_128;
  }
  const ForwardOrder order = make_forward_order(p, plan, 2);
  const cudaError_t error = cudaMemsetAsync(plan.claimed, 0, kForwardCounters * sizeof(int32_t), stream);
  if (error != cudaSuccess) return error;
  const bool cached = p.origin != KeyOrigin::kPacked;
  const bool convert = cached && (p.cache_dtype != p.dtype || p.k_chunk_stride == 0 || p.v_chunk_stride == 0);
  return launcher(p, make_forward_maps(p, tile), order, convert, order.blocks, stream);
}

}  // namespace sextant::cuda
