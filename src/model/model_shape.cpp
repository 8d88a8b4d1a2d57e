// A model's kinds of layers, counted and described.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "sextant/model.h"

namespace sextant {
namespace {

bool same_attention(AttentionSpec a, AttentionSpec b) {
  for (AttentionSpec* spec : {&a, &b}) spec->head_dim_v = spec->value_head_dim();
  return a == b;
}

}  // namespace

std::vector<LayerKind> layer_kinds(const ModelShape& model) {
  std::vector<LayerKind> kinds;
  for (size_t layer = 0; layer < model.layers.size(); ++layer) {
    const ModelLayer& own = model.layers[layer];
    if (!own.served()) continue;
    const auto same = [&](const LayerKind& kind) {
      return kind.part == own.part && same_attention(kind.spec, own.attention);
    };
    auto kind = std::find_if(kinds.begin(), kinds.end(), same);
    if (kind == kinds.end()) kind = kinds.insert(kinds.end(), {own.attention, {}, own.part});
    kind->layers.push_back(static_cast<int32_t>(layer));
  }
  return kinds;
}

std::vector<UnservedKind> unserved_kinds(const ModelShape& model) {
  std::vector<UnservedKind> kinds;
  for (size_t layer = 0; layer < model.layers.size(); ++layer) {
    const ModelLayer& own = model.layers[layer];
    if (own.served()) continue;
    const auto same = [&](const UnservedKind& kind) {
      return kind.what == own.not_served && kind.attends == own.attends && kind.part == own.part &&
             (!own.attends || same_attention(kind.spec, own.attention));
    };
    auto kind = std::find_if(kinds.begin(), kinds.end(), same);
    if (kind == kinds.end())
      kind = kinds.insert(kinds.end(), {own.not_served, own.attends, own.attention, {}, own.part});
    kind->layers.push_back(static_cast<int32_t>(layer));
  }
  return kinds;
}

std::string describe(const UnservedKind& kind, size_t num_layers) {
  return fmt::format("{} of {} layers{} {} {}: not served here", kind.layers.size(), num_layers,
                     kind.part.empty() ? "" : ", the " + kind.part + "'s,", kind.attends ? "have" : "are", kind.what);
}

KvCacheSpec kv_cache_for(const AttentionSpec& spec, KvFormat format, int32_t block_size, int64_t num_blocks) {
  KvCacheSpec cache;
  cache.dtype = format.dtype;
  cache.scales = format.scales;
  cache.block_size = block_size;
  cache.num_blocks = num_blocks;
  if (spec.mla.enabled()) {
    cache.layout = KvLayout::kLatent;
    cache.num_kv_heads = 1;
    cache.head_dim = spec.mla.kv_lora_rank + spec.mla.qk_rope_head_dim;
    cache.head_dim_v = spec.mla.kv_lora_rank;
  } else {
    cache.layout = KvLayout::kPreferred;
    cache.num_kv_heads = spec.num_kv_heads;
    cache.head_dim = spec.head_dim;
    cache.head_dim_v = spec.value_head_dim();
  }
  return cache;
}

int64_t token_bytes(const KvCacheSpec& cache) {
  const KvFormat format = cache.format();
  const int64_t values = cache.is_latent() ? 0 : format.row_bytes(cache.head_dim_v);
  return cache.num_kv_heads * (format.row_bytes(cache.head_dim) + values);
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
