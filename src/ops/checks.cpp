#include "ops/checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string>

namespace sextant {

Status check_present(const char* field, const TensorView& view) {
  if (view.present() || view.num_elements() == 0) return Status::ok();
  return invalid_argument(fmt::format("{} is absent; allowed: a tensor", field));
}

Status check_shape(const char* field, const TensorView& view, std::initializer_list<int64_t> shape) {
  SEXTANT_RETURN_IF_ERROR(check_present(field, view));
  bool fits = view.rank == static_cast<int>(shape.size());
  std::string allowed;
  size_t i = 0;
  for (int64_t extent : shape) {
    allowed += fmt::format("{}{}", i ? ", " : "", extent == kAnyExtent ? std::string("*") : std::to_string(extent));
    fits = fits && (extent == kAnyExtent || view.shape[i] == extent);
    ++i;
  }
  if (fits) return Status::ok();
  return invalid_argument(fmt::format("{} is {}; allowed: [{}]", field, to_string(view), allowed));
}

Status check_dtype(const char* field, const TensorView& view, std::initializer_list<DType> allowed) {
  if (std::find(allowed.begin(), allowed.end(), view.dtype) != allowed.end()) return Status::ok();
  std::string names;
  for (DType d : allowed) names += fmt::format("{}{}", names.empty() ? "" : ", ", to_string(d));
  return invalid_argument(fmt::format("{} has dtype {}; allowed: {}", field, to_string(view.dtype), names));
}

Status check_last_stride(const char* field, const TensorView& view) {
  const auto last = static_cast<size_t>(view.rank - 1);
  if (view.rank == 0 || view.stride[last] == 1 || view.shape[last] <= 1) return Status::ok();
  return invalid_argument(fmt::format("{} has last stride {}; allowed: 1", field, view.stride[last]));
}

Status check_alignment(const char* field, const TensorView& view) {
  if (reinterpret_cast<uintptr_t>(view.data) % size_of(view.dtype) == 0) return Status::ok();
  return invalid_argument(fmt::format("{} is at {}; allowed: a multiple of {} bytes ({})", field, view.data,
                                      size_of(view.dtype), to_string(view.dtype)));
}

Status check_lse(const char* field, const TensorView& view, int64_t heads, int64_t tokens) {
  SEXTANT_RETURN_IF_ERROR(check_shape(field, view, {heads, kAnyExtent}));
  SEXTANT_RETURN_IF_ERROR(check_dtype(field, view, {DType::kF32}));
  if (view.shape[1] >= tokens) return Status::ok();
  return invalid_argument(fmt::format("{} is {}; allowed: at least {} columns", field, to_string(view), tokens));
}

Status check_rows(const char* field, const TensorView& view, int64_t at_least) {
  if (view.rank > 0 && view.shape[0] >= at_least) return Status::ok();
  return invalid_argument(fmt::format("{} is {}; allowed: at least {} rows", field, to_string(view), at_least));
}

Status check_pointer(const char* field, const void* pointer) {
  if (pointer != nullptr) return Status::ok();
  return invalid_argument(fmt::format("{} is null; allowed: a pointer to device memory", field));
}

Status check_cache_serves(const KvCacheSpec& cache, bool latent, int32_t heads, int32_t dim, int32_t dim_v,
                          DType dtype) {
  if (cache.is_latent() != latent)
    return invalid_argument(fmt::format("cache.layout is {}; allowed: {}", to_string(cache.layout),
                                        latent ? "latent" : "every layout but latent"));
  if (cache.num_kv_heads != heads || cache.head_dim != dim || cache.head_dim_v != dim_v)
    return invalid_argument(
        fmt::format("cache has num_kv_heads {}, head_dim {}, head_dim_v {}; the spec allows {}, {}, {}",
                    cache.num_kv_heads, cache.head_dim, cache.head_dim_v, heads, dim, dim_v));
  if (is_quantized(cache.dtype) || cache.dtype == dtype) return Status::ok();
  return invalid_argument(fmt::format("cache.dtype is {}; allowed: {} (spec.dtype), fp8_* or int8",
                                      to_string(cache.dtype), to_string(dtype)));
}

Status check_cache_memory(const KvCacheView& cache) {
  const KvCacheSpec& c = cache.spec;
  if (c.num_blocks == 0) return Status::ok();
  SEXTANT_RETURN_IF_ERROR(check_pointer("cache.k", cache.k));
  if (!c.is_latent()) SEXTANT_RETURN_IF_ERROR(check_pointer("cache.v", cache.v));
  if (c.has_token_scales()) {
    SEXTANT_RETURN_IF_ERROR(check_pointer("cache.k_scale", cache.k_scale));
    return check_pointer("cache.v_scale", cache.v_scale);
  }
  if (cache.num_scales == 1 || cache.num_scales == c.num_kv_heads) return Status::ok();
  return invalid_argument(
      fmt::format("cache.num_scales is {}; allowed: 1 or {} (num_kv_heads)", cache.num_scales, c.num_kv_heads));
}

Status check_cache_as_planned(const KvCacheSpec& planned, const KvCacheView& cache) {
  const KvCacheSpec& c = cache.spec;
  if (c.scales != planned.scales)
    return invalid_argument(
        fmt::format("cache.scales is {}; the plan allows {}", to_string(c.scales), to_string(planned.scales)));
  if (c.layout != planned.layout || c.dtype != planned.dtype || c.block_size != planned.block_size ||
      c.num_kv_heads != planned.num_kv_heads || c.head_dim != planned.head_dim || c.head_dim_v != planned.head_dim_v ||
      c.num_blocks < planned.num_blocks)
    return invalid_argument(
        fmt::format("cache is {} {} with {} blocks of {} x {} x {}, {}; the plan allows {} {} with at least {} blocks "
                    "of {} x {} x {}, {}",
                    to_string(c.layout), to_string(c.dtype), c.num_blocks, c.block_size, c.num_kv_heads, c.head_dim,
                    c.head_dim_v, to_string(planned.layout), to_string(planned.dtype), planned.num_blocks,
                    planned.block_size, planned.num_kv_heads, planned.head_dim, planned.head_dim_v));
  return check_cache_memory(cache);
}

}  // namespace sextant
