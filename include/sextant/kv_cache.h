// The paged KV cache: memory in blocks of `block_size` tokens, found through a block table.
//
// Every layout is described by one addressing rule per tensor, so that a kernel which knows only the
// rule reads all of them:
//
//   element(block, head, token, dim) =
//       block * block_stride + head * head_stride
//     + (token / token_tile) * token_outer_stride + (token % token_tile) * token_inner_stride
//     + (dim   / dim_tile)   * dim_outer_stride   + (dim   % dim_tile)   * dim_inner_stride
//
// `token` is the offset inside the block. Strides are in elements.
#pragma once

#include "sextant/types.h"

namespace sextant {

enum class KvLayout : uint8_t {
  kNHD,       // K, V [num_blocks, block_size, num_kv_heads, head_dim]
  kHND,       // K, V [num_blocks, num_kv_heads, block_size, head_dim]
  kSplitK,    // K [nb, Hkv, D/x, bs, x] with x = 16 / itemsize; V [nb, Hkv, D, bs]   (ROCM_ATTN)
  kShuffled,  // K [nb, Hkv, D/x, bs, x]; V [nb, Hkv, bs/x, D, x]                      (AITER's shuffle)
  kPacked,    // K [nb, Hkv, ceil(bs/16), D/2, 16, 2]; V [nb, Hkv, ceil(bs/2), D, 2]
              // 16-bit pairs as AMX tiles and vdpbf16ps want them; 16- and 8-bit types only
  kLatent,    // MLA: one tensor [num_blocks, block_size, kv_lora_rank + qk_rope_head_dim]
  kStrided,   // the caller's own strides (any addressing rule)
};
const char* to_string(KvLayout layout);
Result<KvLayout> parse_kv_layout(std::string_view name);

struct KvAddressing {
  int64_t block_stride = 0;
  int64_t head_stride = 0;
  int64_t token_outer_stride = 0;
  int64_t token_inner_stride = 0;
  int64_t dim_outer_stride = 0;
  int64_t dim_inner_stride = 0;
  int32_t token_tile = 1;
  int32_t dim_tile = 1;

  constexpr int64_t offset(int64_t block, int64_t head, int64_t token, int64_t dim) const {
    return block * block_stride + head * head_stride + (token / token_tile) * token_outer_stride +
           (token % token_tile) * token_inner_stride + (dim / dim_tile) * dim_outer_stride +
           (dim % dim_tile) * dim_inner_stride;
  }
  // True when dims of one token are consecutive in memory.
  constexpr bool dims_contiguous() const {
    return dim_tile == 1 ? dim_outer_stride == 1 : dim_inner_stride == 1 && dim_outer_stride == dim_tile;
  }
};

// What a cache holds, without its memory. One layer; all layers of a model share it.
struct KvCacheSpec {
  KvLayout layout = KvLayout::kNHD;
  DType dtype = DType::kBF16;
  int64_t num_blocks = 0;
  int32_t block_size = 16;   // tokens a block, >= 1, any value
  int32_t num_kv_heads = 0;  // 1 for kLatent
  int32_t head_dim = 0;      // of K; kv_lora_rank + qk_rope_head_dim for kLatent
  int32_t head_dim_v = 0;    // of V; kv_lora_rank for kLatent (V is the first columns of K)

  bool is_latent() const { return layout == KvLayout::kLatent; }
};

Status validate(const KvCacheSpec& spec);
KvAddressing k_addressing(const KvCacheSpec& spec);
KvAddressing v_addressing(const KvCacheSpec& spec);
int64_t k_elements(const KvCacheSpec& spec);  // elements of the K (or latent) tensor
int64_t v_elements(const KvCacheSpec& spec);  // elements of the V tensor; 0 for kLatent

// One layer's cache: a spec, memory on the device, and scales for fp8.
// Stored value = x / scale; loaded value = stored * scale. `k_scale` / `v_scale` are device pointers to
// fp32 [1] (num_scales == 1) or [num_kv_heads]; nullptr means 1.
struct KvCacheView {
  KvCacheSpec spec;
  KvAddressing k_addr;
  KvAddressing v_addr;
  void* k = nullptr;
  void* v = nullptr;  // == k for kLatent
  const float* k_scale = nullptr;
  const float* v_scale = nullptr;
  int32_t num_scales = 1;
};

// A view with the layout's own dense strides. For kLatent pass v == nullptr.
KvCacheView make_kv_cache_view(const KvCacheSpec& spec, void* k, void* v);

}  // namespace sextant
