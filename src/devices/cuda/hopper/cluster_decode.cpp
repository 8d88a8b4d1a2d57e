// Which problems the cluster decode kernel serves.
#include "devices/cuda/hopper/cluster_launchers.h"
#include "devices/cuda/hopper/tensor_map.h"

namespace sextant::cuda {
namespace {

bool is_padded(const AttentionParams& p) { return p.head_dim != cluster_dim(p.head_dim); }

// Where 8 does not divide a page's tokens there are no boxes: rows of 16 bytes are copied one by one.
bool has_rows(const AttentionParams& p) {
  return cache_has_plain_rows(p) && !cache_has_boxes(p) &&
         p.head_dim * static_cast<int32_t>(size_of(p.cache_dtype)) % 16 == 0;
}

KeyMap make_map(const AttentionParams& p) {
  const int32_t keys = cluster_tile_keys(p);
  return is_padded(p) ? make_padded_cache_map(p, keys, cluster_dim(p.head_dim)) : make_cache_map(p, keys);
}

// Tensor maps want strides of whole 16 bytes.
bool has_box_strides(const AttentionParams& p) {
  for (const KvAddressing* a : {&p.k_addr, &p.v_addr})
    for (int64_t stride : {a->token_outer_stride, a->head_stride, a->block_stride})
      if (stride * static_cast<int64_t>(size_of(p.cache_dtype)) % 16 != 0) return false;
  return true;
}

}  // namespace

bool cluster_serves(const AttentionParams& p) {
  const bool size = p.head_dim % 8 == 0 && p.head_dim <= 256 && p.head_dim_v == p.head_dim;
  const bool layout = (p.cache_dtype == p.dtype || is_native_fp8(p.cache_dtype)) && (cache_has_boxes(p) || has_rows(p));
  return p.dtype != DType::kF32 && size && layout && has_box_strides(p) && p.q_aligned &&
         p.origin == KeyOrigin::kCache && p.key_begin % cluster_tile_keys(p) == 0 && p.group_size <= kClusterRows;
}

bool cluster_reads(const AttentionParams& p) {
  const auto aligned = [](const void* base) { return reinterpret_cast<uintptr_t>(base) % 16 == 0; };
  return make_map(p).tokens > 0 || (has_rows(p) && aligned(p.cache_k) && aligned(p.cache_v));
}

cudaError_t launch_cluster_decode(const AttentionParams& p, const ClusterPlan& plan, cudaStream_t stream) {
  const KeyMap map = make_map(p);
  if (map.tokens == 0 && !has_rows(p)) return cudaErrorInvalidValue;
  constexpr ClusterLauncher* kLaunchers[2][2][2] = {
      // [f16, bf16][16 bits, fp8][exact, padded]
      {{cluster_decode_f16, cluster_decode_f16_padded}, {cluster_decode_f16_fp8, cluster_decode_f16_fp8_padded}},
      {{cluster_decode_bf16, cluster_decode_bf16_padded}, {cluster_decode_bf16_fp8, cluster_decode_bf16_fp8_padded}}};
  return kLaunchers[p.dtype == DType::kBF16][p.cache_dtype != p.dtype][is_padded(p)](p, map, plan, stream);
}

}  // namespace sextant::cuda
