// Argument checks of the cache, merge, copy and gemm ops.
#include <fmt/format.h>

#include <cmath>

#include "ops/checks.h"
#include "sextant/ops.h"

namespace sextant {
namespace {

// A cache of 16- or 32-bit elements stores tokens as they are.
Status check_store_dtype(const char* field, const TensorView& view, const KvCacheSpec& cache) {
  SEXTANT_RETURN_IF_ERROR(check_dtype(field, view, kComputeTypes));
  if (is_quantized(cache.dtype) || cache.dtype == view.dtype) return Status::ok();
  return invalid_argument(fmt::format("{} has dtype {}; a {} cache allows {}", field, to_string(view.dtype),
                                      to_string(cache.dtype), to_string(cache.dtype)));
}

Status check_num_tokens(int64_t num_tokens) {
  if (num_tokens >= 0) return Status::ok();
  return invalid_argument(fmt::format("num_tokens is {}; allowed: >= 0", num_tokens));
}

Status check_layout(const KvCacheSpec& cache, bool latent) {
  if (cache.is_latent() == latent) return Status::ok();
  return invalid_argument(fmt::format("cache.layout is {}; allowed: {}", to_string(cache.layout),
                                      latent ? "latent" : "every layout but latent"));
}

}  // namespace

Status check(const ReshapeAndCacheArgs& a) {
  SEXTANT_RETURN_IF_ERROR(check_num_tokens(a.num_tokens));
  if (a.num_tokens == 0) return Status::ok();
  SEXTANT_RETURN_IF_ERROR(validate(a.cache.spec));
  SEXTANT_RETURN_IF_ERROR(check_cache_memory(a.cache));
  SEXTANT_RETURN_IF_ERROR(check_layout(a.cache.spec, false));
  SEXTANT_RETURN_IF_ERROR(check_shape("k", a.k, {kAnyExtent, a.cache.spec.num_kv_heads, a.cache.spec.head_dim}));
  SEXTANT_RETURN_IF_ERROR(check_shape("v", a.v, {kAnyExtent, a.cache.spec.num_kv_heads, a.cache.spec.head_dim_v}));
  for (const auto& [field, view] : {std::pair{"k", &a.k}, std::pair{"v", &a.v}}) {
    SEXTANT_RETURN_IF_ERROR(check_rows(field, *view, a.num_tokens));
    SEXTANT_RETURN_IF_ERROR(check_last_stride(field, *view));
    SEXTANT_RETURN_IF_ERROR(check_store_dtype(field, *view, a.cache.spec));
  }
  SEXTANT_RETURN_IF_ERROR(check_cache_apart(a.cache));
  return check_array("slot_mapping", a.slot_mapping);
}

Status check(const ConcatAndCacheMlaArgs& a) {
  SEXTANT_RETURN_IF_ERROR(check_num_tokens(a.num_tokens));
  if (a.num_tokens == 0) return Status::ok();
  SEXTANT_RETURN_IF_ERROR(validate(a.cache.spec));
  SEXTANT_RETURN_IF_ERROR(check_cache_memory(a.cache));
  SEXTANT_RETURN_IF_ERROR(check_layout(a.cache.spec, true));
  const int32_t rank = a.cache.spec.head_dim_v;
  SEXTANT_RETURN_IF_ERROR(check_shape("kv_c", a.kv_c, {kAnyExtent, rank}));
  SEXTANT_RETURN_IF_ERROR(check_shape("k_pe", a.k_pe, {kAnyExtent, a.cache.spec.head_dim - rank}));
  for (const auto& [field, view] : {std::pair{"kv_c", &a.kv_c}, std::pair{"k_pe", &a.k_pe}}) {
    SEXTANT_RETURN_IF_ERROR(check_rows(field, *view, a.num_tokens));
    SEXTANT_RETURN_IF_ERROR(check_last_stride(field, *view));
    SEXTANT_RETURN_IF_ERROR(check_store_dtype(field, *view, a.cache.spec));
  }
  SEXTANT_RETURN_IF_ERROR(check_cache_apart(a.cache));
  return check_array("slot_mapping", a.slot_mapping);
}

Status check(const ContextChunkOffsetsArgs& a) {
  if (a.num_requests < 0) return invalid_argument(fmt::format("num_requests is {}; allowed: >= 0", a.num_requests));
  if (a.chunk_begin < 0) return invalid_argument(fmt::format("chunk_begin is {}; allowed: >= 0", a.chunk_begin));
  if (a.chunk_len < 1) return invalid_argument(fmt::format("chunk_len is {}; allowed: >= 1", a.chunk_len));
  SEXTANT_RETURN_IF_ERROR(check_array("query_start_loc", a.query_start_loc));
  if (a.num_requests > 0) SEXTANT_RETURN_IF_ERROR(check_array("seq_lens", a.seq_lens));
  return check_array("key_start_loc", a.key_start_loc);
}

Status check(const GatherCacheArgs& a) {
  SEXTANT_RETURN_IF_ERROR(validate(a.cache.spec));
  SEXTANT_RETURN_IF_ERROR(check_cache_memory(a.cache));
  if (a.num_requests < 0) return invalid_argument(fmt::format("num_requests is {}; allowed: >= 0", a.num_requests));
  if (a.chunk_begin < 0) return invalid_argument(fmt::format("chunk_begin is {}; allowed: >= 0", a.chunk_begin));
  if (a.max_rows < 0) return invalid_argument(fmt::format("max_rows is {}; allowed: >= 0", a.max_rows));
  if (a.num_requests == 0 || a.max_rows == 0) return Status::ok();
  const KvCacheSpec& cache = a.cache.spec;
  SEXTANT_RETURN_IF_ERROR(check_shape("k", a.k, {kAnyExtent, cache.num_kv_heads, cache.head_dim}));
  SEXTANT_RETURN_IF_ERROR(check_rows("k", a.k, a.max_rows));
  SEXTANT_RETURN_IF_ERROR(check_dtype("k", a.k, kComputeTypes));
  SEXTANT_RETURN_IF_ERROR(check_last_stride("k", a.k));
  SEXTANT_RETURN_IF_ERROR(check_apart("k", a.k));
  if (!cache.is_latent()) {
    SEXTANT_RETURN_IF_ERROR(check_shape("v", a.v, {kAnyExtent, cache.num_kv_heads, cache.head_dim_v}));
    SEXTANT_RETURN_IF_ERROR(check_rows("v", a.v, a.max_rows));
    SEXTANT_RETURN_IF_ERROR(check_dtype("v", a.v, {a.k.dtype}));
    SEXTANT_RETURN_IF_ERROR(check_last_stride("v", a.v));
    SEXTANT_RETURN_IF_ERROR(check_apart("v", a.v));
  }
  SEXTANT_RETURN_IF_ERROR(check_alignment("seq_lens", a.seq_lens, sizeof(int32_t)));
  SEXTANT_RETURN_IF_ERROR(check_array("block_table", a.block_table));
  return check_array("key_start_loc", a.key_start_loc);
}

Status check(const MergeAttnStatesArgs& a) {
  SEXTANT_RETURN_IF_ERROR(check_shape("out", a.out, {kAnyExtent, kAnyExtent, kAnyExtent}));
  const int64_t tokens = a.out.shape[0], heads = a.out.shape[1], dim = a.out.shape[2];
  for (const auto& [field, view] :
       {std::pair{"prefix_out", &a.prefix_out}, std::pair{"suffix_out", &a.suffix_out}, std::pair{"out", &a.out}}) {
    SEXTANT_RETURN_IF_ERROR(check_shape(field, *view, {tokens, heads, dim}));
    SEXTANT_RETURN_IF_ERROR(check_dtype(field, *view, kComputeTypes));
    SEXTANT_RETURN_IF_ERROR(check_last_stride(field, *view));
  }
  for (const auto& [field, view] : {std::pair{"prefix_lse", &a.prefix_lse}, std::pair{"suffix_lse", &a.suffix_lse}}) {
    SEXTANT_RETURN_IF_ERROR(check_shape(field, *view, {heads, tokens}));
    SEXTANT_RETURN_IF_ERROR(check_dtype(field, *view, {DType::kF32}));
  }
  SEXTANT_RETURN_IF_ERROR(check_apart("out", a.out));
  if (a.lse.present()) {
    SEXTANT_RETURN_IF_ERROR(check_shape("lse", a.lse, {heads, tokens}));
    SEXTANT_RETURN_IF_ERROR(check_dtype("lse", a.lse, {DType::kF32}));
    SEXTANT_RETURN_IF_ERROR(check_apart("lse", a.lse));
  }
  SEXTANT_RETURN_IF_ERROR(check_alignment("query_start_loc", a.query_start_loc, sizeof(int32_t)));
  if (a.query_start_loc != nullptr && a.num_requests > 0) return check_array("seq_lens", a.seq_lens);
  return Status::ok();
}

Status check(const CopyBlocksArgs& a) {
  if (a.num_pairs < 0) return invalid_argument(fmt::format("num_pairs is {}; allowed: >= 0", a.num_pairs));
  if (a.num_pairs == 0) return Status::ok();
  SEXTANT_RETURN_IF_ERROR(validate(a.cache.spec));
  SEXTANT_RETURN_IF_ERROR(check_cache_memory(a.cache));
  SEXTANT_RETURN_IF_ERROR(check_cache_apart(a.cache));
  return check_array("mapping", a.mapping);
}

Status check(const CopyPadArgs& a) {
  SEXTANT_RETURN_IF_ERROR(check_shape("src", a.src, {kAnyExtent, kAnyExtent, kAnyExtent}));
  SEXTANT_RETURN_IF_ERROR(check_shape("dst", a.dst, {a.src.shape[0], a.src.shape[1], kAnyExtent}));
  if (!is_fp8(a.src.dtype)) SEXTANT_RETURN_IF_ERROR(check_dtype("src", a.src, kComputeTypes));
  if (a.num_src_scales < 1 || a.src.shape[1] % a.num_src_scales != 0)
    return invalid_argument(
        fmt::format("num_src_scales is {}; allowed: a divisor of {} (heads)", a.num_src_scales, a.src.shape[1]));
  SEXTANT_RETURN_IF_ERROR(check_dtype("dst", a.dst, kComputeTypes));
  SEXTANT_RETURN_IF_ERROR(check_last_stride("dst", a.dst));
  SEXTANT_RETURN_IF_ERROR(check_apart("dst", a.dst));
  if (a.dst.shape[2] < a.src.shape[2])
    return invalid_argument(fmt::format("dst is {}; allowed: a last extent >= {}", to_string(a.dst), a.src.shape[2]));
  return Status::ok();
}

Status check(const GemmArgs& a) {
  SEXTANT_RETURN_IF_ERROR(check_shape("a", a.a, {kAnyExtent, kAnyExtent, kAnyExtent}));
  SEXTANT_RETURN_IF_ERROR(check_shape("b", a.b, {a.a.shape[0], a.a.shape[2], kAnyExtent}));
  SEXTANT_RETURN_IF_ERROR(check_shape("c", a.c, {a.a.shape[0], a.a.shape[1], a.b.shape[2]}));
  SEXTANT_RETURN_IF_ERROR(check_dtype("a", a.a, kComputeTypes));
  SEXTANT_RETURN_IF_ERROR(check_dtype("b", a.b, {a.a.dtype}));
  if (a.c.dtype != a.a.dtype) SEXTANT_RETURN_IF_ERROR(check_dtype("c", a.c, {a.a.dtype, DType::kF32}));
  SEXTANT_RETURN_IF_ERROR(check_last_stride("c", a.c));
  SEXTANT_RETURN_IF_ERROR(check_apart("c", a.c));
  for (const auto& [field, view] : {std::pair{"a", &a.a}, std::pair{"b", &a.b}})
    if (view->stride[1] != 1 && view->stride[2] != 1 && view->shape[1] > 1 && view->shape[2] > 1)
      return invalid_argument(fmt::format("{} has strides [{}, {}, {}]; allowed: 1 in one of the last two", field,
                                          view->stride[0], view->stride[1], view->stride[2]));
  return Status::ok();
}

}  // namespace sextant
