// Which problems the cluster decode kernel serves.
#include "devices/cuda/hopper/cluster_launchers.h"
#include "devices/cuda/hopper/tensor_map.h"

namespace sextant::cuda {
namespace {

int32_t tile_keys(const AttentionParams& p) {
  return cluster_tile_keys(static_cast<int>(size_of(p.cache_dtype)), p.head_dim);
}

}  // namespace

bool cluster_serves(const AttentionParams& p) {
  const bool size = p.head_dim == 64 || p.head_dim == 128 || p.head_dim == 256;
  const bool layout = (p.cache_dtype == p.dtype || is_native_fp8(p.cache_dtype)) && cache_has_boxes(p);
  return p.dtype != DType::kF32 && size && p.head_dim_v == p.head_dim && layout && p.q_aligned &&
         p.origin == KeyOrigin::kCache && p.key_begin % tile_keys(p) == 0 && p.group_size <= kClusterRows;
}

bool cluster_has_maps(const AttentionParams& p) { return make_cache_map(p, tile_keys(p)).tokens > 0; }

cudaError_t launch_cluster_decode(const AttentionParams& p, const ClusterPlan& plan, cudaStream_t stream) {
  const KeyMap map = make_cache_map(p, tile_keys(p));
  if (map.tokens == 0) return cudaErrorInvalidValue;
  const bool bf16 = p.dtype == DType::kBF16;
  if (p.cache_dtype != p.dtype) return (bf16 ? cluster_decode_bf16_fp8 : cluster_decode_f16_fp8)(p, map, plan, stream);
  return (bf16 ? cluster_decode_bf16 : cluster_decode_f16)(p, map, plan, stream);
}

}  // namespace sextant::cuda
