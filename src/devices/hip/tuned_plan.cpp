// Decides which requests the tuned HIP kernels take, at plan time and by a run's tensors.
#include "devices/hip/tuned_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "devices/gpu/strides.h"

namespace sextant::hip {
namespace {

constexpr int32_t kDecodeRows = 16, kDecodeDim = 128;

// Four tokens of a dim side by side in V.
bool tokens_together(const KvCacheSpec& cache) {
  return cache.layout == KvLayout::kSplitK || cache.layout == KvLayout::kShuffled;
}

// Four tokens of one dim: 8 bytes (fp8: 4) at an aligned place.
bool has_token_quads(const KvAddressing& v) {
  return v.dim_tile == 1 && v.dim_outer_stride % 4 == 0 && v.block_stride % 4 == 0 && v.head_stride % 4 == 0 &&
         (v.token_tile == 1 ? v.token_outer_stride == 1
                            : v.token_tile % 4 == 0 && v.token_inner_stride == 1 && v.token_outer_stride % 4 == 0);
}

// 16 consecutive tokens from a multiple of 16 on lie at sums of a part for the first and one for the way from there.
bool has_token_runs(const KvAddressing& rule) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 2;
  return (16 % rule.token_tile == 0 || rule.token_tile % 16 == 0) && rule.block_stride >= 0 &&
         rule.block_stride <= kMost && rule.token_outer_stride <= kMost / 64 && rule.dim_outer_stride <= kMost / 512;
}

bool decode_serves(const AttentionPlanArgs& a, KernelFamily family, const ChipLimits& chip) {
  if (a.op != AttentionOp::kPagedDecode && !(a.op == AttentionOp::kUnified && family == KernelFamily::kTuned))
    return false;
  if (a.deterministic) return false;  // the block size decides below, and must not change a bit
  if (a.spec.dtype == DType::kF32 || a.cache.block_size % 16 != 0 || a.spec.group_size() > kDecodeRows) return false;
  if (a.cache.has_token_scales() || (is_fp8(a.cache.dtype) && a.cache.dtype != chip.native_fp8)) return false;
  if (a.spec.head_dim > kDecodeDim || a.spec.value_head_dim() > kDecodeDim) return false;
  const KvAddressing k = k_addressing(a.cache), v = v_addressing(a.cache);
  const size_t element = size_of(a.cache.dtype);
  if (gpu::dim_tiles(k, a.spec.head_dim, nullptr, element).stride == 0) return false;
  if (k.token_tile != 1 || !has_token_runs(k) || !has_token_runs(v)) return false;
  if (!tokens_together(a.cache))
    return v.token_tile == 1 && gpu::chunk_stride(v, a.spec.value_head_dim(), nullptr, element) == 8;
  return has_token_quads(v);
}

// What the forward kernels take of a cache: 8 keys from a multiple of 8 on lie in one block, strides in 32 bits.
bool forward_reads(const KvAddressing& rule, int32_t chunk) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 2;
  return chunk > 0 && rule.token_tile == 1 && rule.block_stride >= 0 && rule.block_stride <= kMost &&
         rule.token_outer_stride >= 0 && rule.token_outer_stride <= kMost / 64;
}

bool forward_serves(const AttentionPlanArgs& a, KernelFamily family, const ChipLimits& chip) {
  if (family != KernelFamily::kTuned || a.op == AttentionOp::kMlaDecode || a.spec.dtype == DType::kF32) return false;
  const int32_t k = a.spec.head_dim, v = a.spec.value_head_dim();
  if (k > 256 || v > 256) return false;
  if (a.deterministic) return false;  // as above; and where tensors begin decides when they run
  if (a.op == AttentionOp::kVarlen) return true;
  if (a.cache.block_size % 8 != 0 || a.cache.has_token_scales()) return false;
  // Scales of an fp8 cache hold for all keys of an item; packed ones have none.
  const bool is_native = a.cache.dtype == chip.native_fp8 && a.op != AttentionOp::kPrefixPrefill;
  if (a.cache.dtype != a.spec.dtype && !is_native) return false;
  const KvAddressing k_rule = k_addressing(a.cache), v_rule = v_addressing(a.cache);
  const size_t element = size_of(a.cache.dtype);
  return forward_reads(k_rule, gpu::chunk_stride(k_rule, k, nullptr, element)) &&
         forward_reads(v_rule, gpu::chunk_stride(v_rule, v, nullptr, element));
}

// The smallest kernel that holds the heads.
struct ForwardSize {
  int32_t k, v, waves;
};
ForwardSize forward_size(int32_t k, int32_t v) {
  for (const ForwardSize size : {ForwardSize{64, 64, 8}, {96, 96, 8}, {128, 128, 8}, {192, 128, 8}})
    if (k <= size.k && v <= size.v) return size;
  return {256, 256, 4};
}

}  // namespace

const char* type_name(DType dtype) { return dtype == DType::kF32 ? "f32" : dtype == DType::kF16 ? "f16" : "bf16"; }

TunedParts tuned_parts(const AttentionPlanArgs& a, const ChipLimits& chip, KernelFamily family, const LengthBounds& n) {
  TunedParts tuned;
  tuned.min_left = a.filter.min_query_len;
  const int32_t short_len = kDecodeRows / std::max(1, a.spec.group_size());
  const bool any_short = n.open || std::any_of(n.query_lens.begin(), n.query_lens.end(),
                                               [&](int32_t length) { return length <= short_len; });
  if (decode_serves(a, family, chip) && any_short && a.filter.min_query_len <= short_len) {
    PlanPart part;
    part.kernel = fmt::format("decode_{}_{}_{}_{}", type_name(a.spec.dtype), kDecodeDim,
                              is_fp8(a.cache.dtype) ? "kv8" : "kv16", tokens_together(a.cache) ? "tokens" : "dims");
    part.rows = kDecodeRows;
    part.min_query_len = a.filter.min_query_len;
    part.max_query_len = std::min(short_len, a.filter.max_query_len);
    tuned.parts.push_back(part);
    tuned.min_left = short_len + 1;
  }
  const bool any_left = a.filter.max_query_len >= tuned.min_left &&
                        (n.open || std::any_of(n.query_lens.begin(), n.query_lens.end(),
                                               [&](int32_t length) { return length >= tuned.min_left; }));
  tuned.complete = !any_left && !tuned.parts.empty();
  if (tuned.complete || !forward_serves(a, family, chip)) return tuned;
  const ForwardSize size = forward_size(a.spec.head_dim, a.spec.value_head_dim());
  const bool fp8 = a.op != AttentionOp::kVarlen && is_fp8(a.cache.dtype);
  PlanPart part;
  part.kernel = fmt::format("forward_{}_{}_{}_{}", type_name(a.spec.dtype), size.k, size.v, fp8 ? "kv8" : "kv16");
  part.threads = 64 * size.waves;
  part.rows = 32 * size.waves;
  part.min_query_len = tuned.min_left;
  part.max_query_len = a.filter.max_query_len;
  tuned.parts.push_back(part);
  tuned.complete = true;
  return tuned;
}

bool mla_comes_ahead(const AttentionPlanArgs& a, const ChipLimits& chip) {
  if (a.spec.dtype == DType::kF32 || a.cache.block_size % 8 != 0 || a.cache.has_token_scales()) return false;
  if (a.cache.dtype != a.spec.dtype && a.cache.dtype != chip.native_fp8) return false;
  // Tiles begin on multiples of 8, the other kernel's at the first key. Where that differs the block size and where
  // tensors begin would change bits.
  const AttentionMask mask = a.spec.mask();
  const bool begins_anywhere = mask.left != AttentionMask::kUnlimited || mask.chunk > 0 || a.key_begin % 8 != 0;
  if (a.deterministic && begins_anywhere) return false;
  const KvAddressing rule = k_addressing(a.cache);
  return forward_reads(rule, gpu::chunk_stride(rule, a.spec.head_dim, nullptr, size_of(a.cache.dtype)));
}

bool suits_tuned(const PlanPart& part, const AttentionParams& p) {
  if (part.kernel.starts_with("mla_ahead"))  // rows end before the next begins
    return p.k_chunk_stride == 8 && forward_reads(p.k_addr, 8) && p.k_addr.token_outer_stride >= p.head_dim;
  const bool forward = part.kernel.starts_with("forward"), decode = part.kernel.starts_with("decode");
  if (!forward && !decode) return true;
  const bool reads_cache = p.origin != KeyOrigin::kPacked, reads_packed = p.origin != KeyOrigin::kCache;
  if (p.q_aligned == 0 || p.out_aligned == 0 || (reads_packed && p.packed_aligned == 0)) return false;
  if (decode) {
    if (p.k_addr.token_tile != 1 || !has_token_runs(p.k_addr) || !has_token_runs(p.v_addr)) return false;
    if (p.k_tile_stride == 0 || reinterpret_cast<uintptr_t>(p.cache_v) % 16 != 0) return false;
    return part.kernel.ends_with("tokens") ? has_token_quads(p.v_addr)
                                           : p.v_chunk_stride == 8 && p.v_addr.token_tile == 1;
  }
  constexpr int64_t kMostPacked = std::numeric_limits<int32_t>::max() / 64;
  if (reads_packed && (p.packed_k_token_stride > kMostPacked || p.packed_v_token_stride > kMostPacked)) return false;
  return !reads_cache || (forward_reads(p.k_addr, p.k_chunk_stride) && forward_reads(p.v_addr, p.v_chunk_stride));
}

}  // namespace sextant::hip
