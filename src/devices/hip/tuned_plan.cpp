#include "devices/hip/tuned_plan.h"

#include <fmt/format.h>

#include <algorithm>

namespace sextant::hip {
namespace {

constexpr int32_t kDecodeRows = 16, kForwardRows = 256, kDecodeDim = 128;

// Four tokens of a dim side by side in V.
bool tokens_together(const KvCacheSpec& cache) {
  return cache.layout == KvLayout::kSplitK || cache.layout == KvLayout::kShuffled;
}

// Four tokens of one dim: 8 bytes (fp8: 4) at an aligned place.
bool has_token_quads(const Addressing& v) {
  return v.dim_tile == 1 && v.dim_outer_stride % 4 == 0 && v.block_stride % 4 == 0 && v.head_stride % 4 == 0 &&
         (v.token_tile == 1 ? v.token_outer_stride == 1
                            : v.token_tile % 4 == 0 && v.token_inner_stride == 1 && v.token_outer_stride % 4 == 0);
}

bool decode_serves(const AttentionPlanArgs& a, KernelFamily family, const ChipLimits& chip) {
  if (a.op != AttentionOp::kPagedDecode && !(a.op == AttentionOp::kUnified && family == KernelFamily::kTuned))
    return false;
  if (a.spec.dtype == DType::kF32 || a.cache.block_size % 4 != 0 || a.spec.group_size() > kDecodeRows) return false;
  if (is_fp8(a.cache.dtype) && a.cache.dtype != chip.native_fp8) return false;
  if (a.spec.head_dim > kDecodeDim || a.spec.value_head_dim() > kDecodeDim) return false;
  const KvAddressing k = k_addressing(a.cache), v = v_addressing(a.cache);
  const size_t element = size_of(a.cache.dtype);
  if (dim_tiles(k, a.spec.head_dim, nullptr, element).stride == 0) return false;
  if (!tokens_together(a.cache))
    return v.token_tile == 1 && chunk_stride(v, a.spec.value_head_dim(), nullptr, element) == 8;
  return has_token_quads(to_addressing(v));
}

bool forward_serves(const AttentionPlanArgs& a, KernelFamily family) {
  if (family != KernelFamily::kTuned || a.op == AttentionOp::kMlaDecode || a.spec.dtype == DType::kF32) return false;
  const int32_t k = a.spec.head_dim, v = a.spec.value_head_dim();
  if (k > 192 || v > 128) return false;
  if (a.op == AttentionOp::kVarlen) return true;
  if (a.cache.dtype != a.spec.dtype) return false;
  const KvAddressing k_rule = k_addressing(a.cache), v_rule = v_addressing(a.cache);
  return k_rule.token_tile == 1 && v_rule.token_tile == 1 && chunk_stride(k_rule, k, nullptr, 2) > 0 &&
         chunk_stride(v_rule, v, nullptr, 2) > 0;
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
  if (tuned.complete || !forward_serves(a, family)) return tuned;
  const int32_t k = a.spec.head_dim, v = a.spec.value_head_dim();
  PlanPart part;
  part.kernel = fmt::format("forward_{}_{}", type_name(a.spec.dtype),
                            k <= 64 && v <= 64 ? "64_64"
                            : k <= 128         ? "128_128"
                                               : "192_128");
  part.threads = 512;
  part.rows = kForwardRows;
  part.min_query_len = tuned.min_left;
  part.max_query_len = a.filter.max_query_len;
  tuned.parts.push_back(part);
  tuned.complete = true;
  return tuned;
}

bool suits_tuned(const PlanPart& part, const AttentionParams& p) {
  const bool forward = part.kernel.starts_with("forward"), decode = part.kernel.starts_with("decode");
  if (!forward && !decode) return true;
  const bool reads_cache = p.origin != KeyOrigin::kPacked, reads_packed = p.origin != KeyOrigin::kCache;
  if (p.q_aligned == 0 || (reads_packed && p.packed_aligned == 0)) return false;
  if (decode) {
    if (p.k_tile_stride == 0 || reinterpret_cast<uintptr_t>(p.cache_v) % 16 != 0) return false;
    return part.kernel.ends_with("tokens") ? has_token_quads(p.v_addr)
                                           : p.v_chunk_stride == 8 && p.v_addr.token_tile == 1;
  }
  if (reads_cache && p.k_chunk_stride == 0) return false;
  return !reads_cache || (p.v_chunk_stride != 0 && p.k_addr.token_tile == 1 && p.v_addr.token_tile == 1);
}

}  // namespace sextant::hip
