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

#include "sextant/kv_addressing.h"
#include "sextant/types.h"

namespace sextant {

enum class KvLayout : int8_t {
  kPreferred = -1,  // the backend's own: where one is named (Backend::plan) or looked for (select_backend)
  kNHD,             // K, V [num_blocks, block_size, num_kv_heads, head_dim]
  kHND,             // K, V [num_blocks, num_kv_heads, block_size, head_dim]
  kSplitK,          // K [nb, Hkv, D/x, bs, x] with x = 16 / itemsize; V [nb, Hkv, D, bs]   (ROCM_ATTN)
  kShuffled,        // K [nb, Hkv, D/x, bs, x]; V [nb, Hkv, bs/x, D, x]                      (AITER's shuffle)
  kPacked,          // K [nb, Hkv, ceil(bs/16), D/2, 16, 2]; V [nb, Hkv, ceil(bs/2), D, 2]
                    // 16-bit pairs as AMX tiles and vdpbf16ps want them; 16- and 8-bit types only
  kLatent,          // MLA: one tensor [num_blocks, block_size, kv_lora_rank + qk_rope_head_dim]
  kStrided,         // the caller's own strides (any addressing rule)
};
const char* to_string(KvLayout layout);
Result<KvLayout> parse_kv_layout(std::string_view name);

// Where the scales of a quantized cache come from.
enum class KvScales : uint8_t {
  kShared,     // one for all, or one a KV head (KvCacheView::num_scales): the caller's, for fp8
  kTokenHead,  // one a token and KV head: the cache write finds and stores it; fp8 and int8, MHA
};
const char* to_string(KvScales scales);  // "shared", "token_head"
Result<KvScales> parse_kv_scales(std::string_view name);

// What a cache stores of a key or value: its type, and where the scales come from. By name as in vLLM's kv_cache_dtype:
// "bf16", "fp8_e4m3fn", "int8_per_token_head".
struct KvFormat {
  DType dtype = DType::kBF16;
  KvScales scales = KvScales::kShared;
  KvFormat() = default;
  KvFormat(DType type, KvScales from = KvScales::kShared) : dtype(type), scales(from) {}  // NOLINT: a type is a format
  bool has_token_scales() const { return scales == KvScales::kTokenHead; }
  // Of one head's `dim` numbers of a token, its scale included.
  int64_t row_bytes(int64_t dim) const {
    return dim * static_cast<int64_t>(size_of(dtype)) + (has_token_scales() ? int64_t{sizeof(float)} : 0);
  }
  friend bool operator==(const KvFormat&, const KvFormat&) = default;
};
std::string to_string(const KvFormat& format);
Result<KvFormat> parse_kv_format(std::string_view name);

// A token's scale is its largest magnitude over the largest number that the type stores, and at least this.
inline constexpr float kSmallestTokenScale = 1e-6F;

// What a cache holds, without its memory. One layer; all layers of a model share it.
struct KvCacheSpec {
  KvLayout layout = KvLayout::kNHD;
  DType dtype = DType::kBF16;
  int64_t num_blocks = 0;
  int32_t block_size = 16;   // tokens a block, >= 1, any value
  int32_t num_kv_heads = 0;  // 1 for kLatent
  int32_t head_dim = 0;      // of K; kv_lora_rank + qk_rope_head_dim for kLatent
  int32_t head_dim_v = 0;    // of V; kv_lora_rank for kLatent (V is the first columns of K)
  KvScales scales = KvScales::kShared;

  bool is_latent() const { return layout == KvLayout::kLatent; }
  bool has_token_scales() const { return scales == KvScales::kTokenHead; }
  KvFormat format() const { return {dtype, scales}; }
};

Status validate(const KvCacheSpec& spec);
KvAddressing k_addressing(const KvCacheSpec& spec);
KvAddressing v_addressing(const KvCacheSpec& spec);
int64_t k_elements(const KvCacheSpec& spec);      // elements of the K (or latent) tensor
int64_t v_elements(const KvCacheSpec& spec);      // elements of the V tensor; 0 for kLatent
int64_t scale_elements(const KvCacheSpec& spec);  // dense scales of K, and of V; 0 where they are not a token's

// Where a token's scale lies: block * block + token * token + head * head, in elements. Dense: [num_blocks, block_size,
// num_kv_heads], as vLLM's.
struct KvScaleStrides {
  int64_t block = 0, token = 0, head = 0;
  constexpr int64_t offset(int64_t b, int64_t h, int64_t t) const { return b * block + t * token + h * head; }
};

// One layer's cache: a spec, memory on the device, and scales for quantized types.
// Stored value = x / scale; loaded value = stored * scale. `k_scale` / `v_scale` are device pointers to
// fp32 [1] (num_scales == 1) or [num_kv_heads]; nullptr means 1. With KvScales::kTokenHead they are fp32 at
// scale_strides, needed, and written by reshape_and_cache.
struct KvCacheView {
  KvCacheSpec spec;
  KvAddressing k_addr;
  KvAddressing v_addr;
  void* k = nullptr;
  void* v = nullptr;  // == k for kLatent
  const float* k_scale = nullptr;
  const float* v_scale = nullptr;
  int32_t num_scales = 1;
  KvScaleStrides scale_strides;
};

// A view with the layout's own dense strides. For kLatent pass v == nullptr.
KvCacheView make_kv_cache_view(const KvCacheSpec& spec, void* k, void* v);

}  // namespace sextant
