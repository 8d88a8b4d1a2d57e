#include <algorithm>
#include <cmath>

#include "sextant/model.h"

namespace sextant {
namespace {

bool same_attention(const AttentionSpec& a, const AttentionSpec& b) {
  return a.num_heads == b.num_heads && a.num_kv_heads == b.num_kv_heads && a.head_dim == b.head_dim &&
         a.value_head_dim() == b.value_head_dim() && a.softmax_scale == b.softmax_scale && a.causal == b.causal &&
         a.sliding_window == b.sliding_window && a.logits_soft_cap == b.logits_soft_cap && a.has_sinks == b.has_sinks &&
         a.has_alibi == b.has_alibi && a.dtype == b.dtype && a.mla.kv_lora_rank == b.mla.kv_lora_rank;
}

}  // namespace

std::vector<LayerKind> layer_kinds(const ModelShape& model) {
  std::vector<LayerKind> kinds;
  for (size_t layer = 0; layer < model.layers.size(); ++layer) {
    const auto same = [&](const LayerKind& kind) { return same_attention(kind.spec, model.layers[layer]); };
    auto kind = std::find_if(kinds.begin(), kinds.end(), same);
    if (kind == kinds.end()) kind = kinds.insert(kinds.end(), {model.layers[layer], {}});
    kind->layers.push_back(static_cast<int32_t>(layer));
  }
  return kinds;
}

KvCacheSpec kv_cache_for(const AttentionSpec& spec, DType dtype, int32_t block_size, int64_t num_blocks) {
  KvCacheSpec cache;
  cache.dtype = dtype;
  cache.block_size = block_size;
  cache.num_blocks = num_blocks;
  if (spec.mla.enabled()) {
    cache.layout = KvLayout::kLatent;
    cache.num_kv_heads = 1;
    cache.head_dim = spec.mla.kv_lora_rank + spec.mla.qk_rope_head_dim;
    cache.head_dim_v = spec.mla.kv_lora_rank;
  } else {
    cache.layout = KvLayout::kNHD;
    cache.num_kv_heads = spec.num_kv_heads;
    cache.head_dim = spec.head_dim;
    cache.head_dim_v = spec.value_head_dim();
  }
  return cache;
}

std::vector<float> alibi_slopes(int32_t num_heads) {
  std::vector<float> slopes;
  int32_t power = 1;
  while (power * 2 <= num_heads) power *= 2;
  for (int32_t i = 1; i <= std::min(power, num_heads); ++i)
    slopes.push_back(static_cast<float>(std::exp2(-8.0 * i / power)));
  for (int32_t i = 1; static_cast<int32_t>(slopes.size()) < num_heads; i += 2)
    slopes.push_back(static_cast<float>(std::exp2(-8.0 * i / (2.0 * power))));
  return slopes;
}

}  // namespace sextant
