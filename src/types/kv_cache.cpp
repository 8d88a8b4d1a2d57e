// The addressing rules of the cache layouts, and what a valid cache is.
#include "sextant/kv_cache.h"

#include <fmt/format.h>

#include <algorithm>

#include "types/ceil_div.h"

namespace sextant {
namespace {

// 16 bytes of one token's dims stay together in the split-K and shuffled layouts.
int32_t dims_of_16_bytes(DType dtype) { return static_cast<int32_t>(16 / size_of(dtype)); }

// Tokens of a 16-wide matrix tile, and the pair that one 32-bit lane holds.
constexpr int32_t kTileTokens = 16;
constexpr int32_t kPair = 2;

// [nb, bs, heads, dim]
KvAddressing nhd(int64_t block_size, int64_t heads, int64_t dim) {
  return {.block_stride = block_size * heads * dim,
          .head_stride = dim,
          .token_outer_stride = heads * dim,
          .dim_outer_stride = 1};
}

// [nb, heads, bs, dim]
KvAddressing hnd(int64_t block_size, int64_t heads, int64_t dim) {
  return {.block_stride = block_size * heads * dim,
          .head_stride = block_size * dim,
          .token_outer_stride = dim,
          .dim_outer_stride = 1};
}

// [nb, heads, ceil(dim/x), bs, x]; a last partial group of dims is stored at full width
KvAddressing split_k(int64_t block_size, int64_t heads, int64_t dim, int32_t x) {
  const int64_t per_head = block_size * ceil_div(dim, x) * x;
  return {.block_stride = per_head * heads,
          .head_stride = per_head,
          .token_outer_stride = x,
          .dim_outer_stride = block_size * x,
          .dim_inner_stride = 1,
          .dim_tile = x};
}

// [nb, heads, dim, bs]
KvAddressing dim_major(int64_t block_size, int64_t heads, int64_t dim) {
  return {.block_stride = block_size * heads * dim,
          .head_stride = block_size * dim,
          .token_outer_stride = 1,
          .dim_outer_stride = block_size};
}

// [nb, heads, bs/x, dim, x]; a last partial group of tokens is stored at full width
KvAddressing shuffled_v(int64_t block_size, int64_t heads, int64_t dim, int32_t x) {
  const int64_t per_head = ceil_div(block_size, x) * x * dim;
  return {.block_stride = per_head * heads,
          .head_stride = per_head,
          .token_outer_stride = dim * x,
          .token_inner_stride = 1,
          .dim_outer_stride = x,
          .token_tile = x};
}

// [nb, heads, ceil(bs/16), dim/2, 16, 2]
KvAddressing packed_k(int64_t block_size, int64_t heads, int64_t dim) {
  const int64_t per_head = ceil_div(block_size, kTileTokens) * kTileTokens * dim;
  return {.block_stride = per_head * heads,
          .head_stride = per_head,
          .token_outer_stride = kTileTokens * dim,
          .token_inner_stride = kPair,
          .dim_outer_stride = kTileTokens * kPair,
          .dim_inner_stride = 1,
          .token_tile = kTileTokens,
          .dim_tile = kPair};
}

}  // namespace

const char* to_string(KvLayout layout) {
  switch (layout) {
    case KvLayout::kPreferred:
      return "preferred";
    case KvLayout::kNHD:
      return "NHD";
    case KvLayout::kHND:
      return "HND";
    case KvLayout::kSplitK:
      return "split_k";
    case KvLayout::kShuffled:
      return "shuffled";
    case KvLayout::kPacked:
      return "packed";
    case KvLayout::kLatent:
      return "latent";
    case KvLayout::kStrided:
      return "strided";
  }
  return "unknown layout";
}

Result<KvLayout> parse_kv_layout(std::string_view name) {
  for (KvLayout layout : {KvLayout::kPreferred, KvLayout::kNHD, KvLayout::kHND, KvLayout::kSplitK, KvLayout::kShuffled,
                          KvLayout::kPacked, KvLayout::kLatent})
    if (name == to_string(layout)) return layout;
  return invalid_argument(
      fmt::format("kv layout is \"{}\"; allowed: preferred, NHD, HND, split_k, shuffled, packed, latent", name));
}

const char* to_string(KvScales scales) { return scales == KvScales::kTokenHead ? "token_head" : "shared"; }

Result<KvScales> parse_kv_scales(std::string_view name) {
  for (KvScales scales : {KvScales::kShared, KvScales::kTokenHead})
    if (name == to_string(scales)) return scales;
  return invalid_argument(fmt::format("kv scales are \"{}\"; allowed: shared, token_head", name));
}

constexpr std::string_view kTokenHeadSuffix = "_per_token_head";

std::string to_string(const KvFormat& format) {
  return std::string(to_string(format.dtype)) + (format.has_token_scales() ? std::string(kTokenHeadSuffix) : "");
}

Result<KvFormat> parse_kv_format(std::string_view name) {
  const bool token_head = name.ends_with(kTokenHeadSuffix);
  const auto dtype = parse_dtype(token_head ? name.substr(0, name.size() - kTokenHeadSuffix.size()) : name);
  const bool stores = dtype && (token_head ? is_quantized(*dtype) : is_float(*dtype));
  if (stores) return KvFormat(*dtype, token_head ? KvScales::kTokenHead : KvScales::kShared);
  return invalid_argument(
      fmt::format("kv format is \"{}\"; allowed: fp32, fp16, bf16, fp8_e4m3fn, fp8_e4m3fnuz, fp8_e5m2, and "
                  "int8_per_token_head, fp8_e4m3fn_per_token_head, ...",
                  name));
}

Status validate(const KvCacheSpec& spec) {
  if (spec.layout == KvLayout::kPreferred)
    return invalid_argument(
        "cache.layout is \"preferred\" and no backend is named; allowed: NHD, HND, split_k, shuffled, packed, latent");
  if (spec.has_token_scales() && (!is_quantized(spec.dtype) || spec.is_latent()))
    return invalid_argument(fmt::format("cache.scales is token_head for {} {}; allowed: fp8_* and int8, not latent",
                                        to_string(spec.layout), to_string(spec.dtype)));
  if (!is_float(spec.dtype) && !spec.has_token_scales())
    return invalid_argument(fmt::format(
        "cache.dtype is {}; allowed: fp32, fp16, bf16, fp8_*, and int8 with scales token_head", to_string(spec.dtype)));
  if (spec.num_blocks < 0)
    return invalid_argument(fmt::format("cache.num_blocks is {}; allowed: >= 0", spec.num_blocks));
  if (spec.block_size < 1)
    return invalid_argument(fmt::format("cache.block_size is {}; allowed: >= 1", spec.block_size));
  if (spec.num_kv_heads < 1)
    return invalid_argument(fmt::format("cache.num_kv_heads is {}; allowed: >= 1", spec.num_kv_heads));
  if (spec.head_dim < 1 || spec.head_dim_v < 1)
    return invalid_argument(
        fmt::format("cache.head_dim is {}, head_dim_v {}; allowed: >= 1", spec.head_dim, spec.head_dim_v));
  // Offsets are 64-bit; some layouts round tokens and dims up to 16.
  const double elements = 1.0 * static_cast<double>(std::max<int64_t>(1, spec.num_blocks)) * (spec.block_size + 16.0) *
                          spec.num_kv_heads * (std::max(spec.head_dim, spec.head_dim_v) + 16.0);
  if (elements > 0x1p59)
    return invalid_argument(
        fmt::format("cache.num_blocks is {} (of {} x {} x {}); allowed: a cache of at most 2^59 elements",
                    spec.num_blocks, spec.block_size, spec.num_kv_heads, std::max(spec.head_dim, spec.head_dim_v)));
  if (spec.is_latent()) {
    if (spec.num_kv_heads != 1)
      return invalid_argument(fmt::format("cache.num_kv_heads is {}; a latent cache has 1", spec.num_kv_heads));
    if (spec.head_dim_v > spec.head_dim)
      return invalid_argument(fmt::format("cache.head_dim_v is {}; allowed in a latent cache: 1..{} (head_dim)",
                                          spec.head_dim_v, spec.head_dim));
  }
  if (spec.layout == KvLayout::kPacked) {
    if (size_of(spec.dtype) > 2)
      return invalid_argument("cache.dtype is fp32; layout packed allows 16-bit and 8-bit types");
    if (spec.head_dim % kPair != 0)
      return invalid_argument(fmt::format("cache.head_dim is {}; layout packed allows even sizes", spec.head_dim));
  }
  return Status::ok();
}

KvAddressing k_addressing(const KvCacheSpec& spec) {
  const int64_t bs = spec.block_size, heads = spec.num_kv_heads, dim = spec.head_dim;
  switch (spec.layout) {
    case KvLayout::kHND:
      return hnd(bs, heads, dim);
    case KvLayout::kSplitK:
    case KvLayout::kShuffled:
      return split_k(bs, heads, dim, dims_of_16_bytes(spec.dtype));
    case KvLayout::kPacked:
      return packed_k(bs, heads, dim);
    default:
      return nhd(bs, heads, dim);
  }
}

KvAddressing v_addressing(const KvCacheSpec& spec) {
  const int64_t bs = spec.block_size, heads = spec.num_kv_heads, dim = spec.head_dim_v;
  switch (spec.layout) {
    case KvLayout::kHND:
      return hnd(bs, heads, dim);
    case KvLayout::kSplitK:
      return dim_major(bs, heads, dim);
    case KvLayout::kShuffled:
      return shuffled_v(bs, heads, dim, dims_of_16_bytes(spec.dtype));
    case KvLayout::kPacked:
      return shuffled_v(bs, heads, dim, kPair);  // the same rule with x = a pair of tokens
    case KvLayout::kLatent:
      return k_addressing(spec);
    default:
      return nhd(bs, heads, dim);
  }
}

int64_t k_elements(const KvCacheSpec& spec) { return spec.num_blocks * k_addressing(spec).block_stride; }
int64_t scale_elements(const KvCacheSpec& spec) {
  return spec.has_token_scales() ? spec.num_blocks * spec.block_size * spec.num_kv_heads : 0;
}

int64_t v_elements(const KvCacheSpec& spec) {
  return spec.is_latent() ? 0 : spec.num_blocks * v_addressing(spec).block_stride;
}

KvCacheView make_kv_cache_view(const KvCacheSpec& spec, void* k, void* v) {
  KvCacheView view;
  view.spec = spec;
  view.k_addr = k_addressing(spec);
  view.v_addr = v_addressing(spec);
  view.k = k;
  view.v = spec.is_latent() ? k : v;
  view.scale_strides = {int64_t{spec.block_size} * spec.num_kv_heads, spec.num_kv_heads, 1};
  return view;
}

}  // namespace sextant
