// Checks of shapes, types, strides, alignment and overlap.
#include "ops/checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include "types/ceil_div.h"

namespace sextant {
namespace {

// One of the strides by which memory is addressed, and how many steps there are.
struct Axis {
  int64_t stride = 0, extent = 1;
};

// Whether no two elements lie at one place. Each axis must step over all that the shorter ones reach.
bool lies_apart(std::span<Axis> axes) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  for (Axis& axis : axes) {
    if (axis.extent == 0) return true;
    axis.stride = axis.stride < -kMost ? kMost : std::abs(axis.stride);
  }
  std::sort(axes.begin(), axes.end(), [](const Axis& x, const Axis& y) { return x.stride < y.stride; });
  int64_t reach = 0;
  for (const Axis& axis : axes) {
    if (axis.extent == 1) continue;
    if (axis.stride <= reach) return false;
    if (axis.stride > (kMost - reach) / (axis.extent - 1)) return true;  // further than memory goes
    reach += axis.stride * (axis.extent - 1);
  }
  return true;
}

bool lies_apart(const KvAddressing& a, const KvCacheSpec& c, int64_t dim) {
  Axis axes[] = {{a.block_stride, c.num_blocks},
                 {a.head_stride, c.num_kv_heads},
                 {a.token_outer_stride, ceil_div(c.block_size, a.token_tile)},
                 {a.token_inner_stride, std::min(a.token_tile, c.block_size)},
                 {a.dim_outer_stride, ceil_div(dim, a.dim_tile)},
                 {a.dim_inner_stride, std::min<int64_t>(a.dim_tile, dim)}};
  return lies_apart(axes);
}

std::string strides_of(const TensorView& view) {
  std::string text;
  for (int i = 0; i < view.rank; ++i) text += fmt::format("{}{}", i ? ", " : "", view.stride[static_cast<size_t>(i)]);
  return text;
}

}  // namespace

Status check_present(const char* field, const TensorView& view) {
  if (view.present() || view.num_elements() == 0) return Status::ok();
  return invalid_argument(fmt::format("{} is absent; allowed: a tensor", field));
}

Status check_shape(const char* field, const TensorView& view, std::initializer_list<int64_t> shape) {
  if (view.rank < 0 || view.rank > kMaxRank)
    return invalid_argument(fmt::format("{} has rank {}; allowed: {}", field, view.rank, shape.size()));
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
  if (std::find(allowed.begin(), allowed.end(), view.dtype) != allowed.end())
    return check_alignment(field, view.data, size_of(view.dtype));
  std::string names;
  for (DType d : allowed) names += fmt::format("{}{}", names.empty() ? "" : ", ", to_string(d));
  return invalid_argument(fmt::format("{} has dtype {}; allowed: {}", field, to_string(view.dtype), names));
}

Status check_last_stride(const char* field, const TensorView& view) {
  const auto last = static_cast<size_t>(view.rank - 1);
  if (view.rank == 0 || view.stride[last] == 1 || view.shape[last] <= 1) return Status::ok();
  return invalid_argument(fmt::format("{} has last stride {}; allowed: 1", field, view.stride[last]));
}

Status check_apart(const char* field, const TensorView& view) {
  Axis axes[kMaxRank];
  for (int i = 0; i < view.rank; ++i) {
    const auto d = static_cast<size_t>(i);
    axes[d] = {view.stride[d], view.shape[d]};
  }
  if (lies_apart(std::span<Axis>(axes, static_cast<size_t>(view.rank)))) return Status::ok();
  return invalid_argument(fmt::format("{} is {} with strides [{}]; allowed: those that give every element a place",
                                      field, to_string(view), strides_of(view)));
}

Memory memory_of(const char* field, const TensorView& view) {
  int64_t reach = 1;
  for (int i = 0; i < view.rank; ++i) {
    const auto d = static_cast<size_t>(i);
    if (view.stride[d] < 0 || view.shape[d] == 0 || view.stride[d] > (int64_t{1} << 56) / view.shape[d]) return {field};
    reach += view.stride[d] * (view.shape[d] - 1);
  }
  if (!view.present() || reach != view.num_elements()) return {field};
  const auto begin = reinterpret_cast<uintptr_t>(view.data);
  return {field, begin, begin + static_cast<uintptr_t>(reach) * size_of(view.dtype)};
}

Memory memory_of(const char* field, const void* data, int64_t block_stride, int64_t dense_stride,
                 const KvCacheSpec& cache) {
  if (block_stride != dense_stride) return {field};
  const auto begin = reinterpret_cast<uintptr_t>(data);
  return {field, begin, begin + static_cast<uintptr_t>(cache.num_blocks * block_stride) * size_of(cache.dtype)};
}

Status check_lse(const char* field, const TensorView& view, int64_t heads, int64_t tokens) {
  SEXTANT_RETURN_IF_ERROR(check_shape(field, view, {heads, kAnyExtent}));
  SEXTANT_RETURN_IF_ERROR(check_dtype(field, view, {DType::kF32}));
  if (view.shape[1] >= tokens) return check_apart(field, view);
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

Status check_alignment(const char* field, const void* pointer, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(pointer) % bytes == 0) return Status::ok();
  return invalid_argument(fmt::format("{} is at {}; allowed: a multiple of {} bytes", field, pointer, bytes));
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

namespace {
Status check_tiles(const char* field, const KvAddressing& a) {
  if (a.token_tile >= 1 && a.dim_tile >= 1) return Status::ok();
  return invalid_argument(
      fmt::format("{} has token_tile {} and dim_tile {}; allowed: >= 1", field, a.token_tile, a.dim_tile));
}
}  // namespace

Status check_cache_apart(const KvCacheView& cache) {
  const KvCacheSpec& c = cache.spec;
  const auto shared = [](const char* field) {
    return invalid_argument(
        fmt::format("{} puts two elements at one place; allowed: in a cache that is written, "
                    "every element at a place of its own",
                    field));
  };
  if (!lies_apart(cache.k_addr, c, c.head_dim)) return shared("cache.k_addr");
  if (c.is_latent()) return Status::ok();
  if (!lies_apart(cache.v_addr, c, c.head_dim_v)) return shared("cache.v_addr");
  if (cache.k == cache.v) return shared("cache.v (cache.k's memory)");
  const KvScaleStrides& s = cache.scale_strides;
  Axis scales[] = {{s.block, c.num_blocks}, {s.token, c.block_size}, {s.head, c.num_kv_heads}};
  return c.has_token_scales() && !lies_apart(scales) ? shared("cache.scale_strides") : Status::ok();
}

Status check_cache_memory(const KvCacheView& cache) {
  const KvCacheSpec& c = cache.spec;
  if (c.num_blocks == 0) return Status::ok();
  SEXTANT_RETURN_IF_ERROR(check_pointer("cache.k", cache.k));
  SEXTANT_RETURN_IF_ERROR(check_alignment("cache.k", cache.k, size_of(c.dtype)));
  SEXTANT_RETURN_IF_ERROR(check_tiles("cache.k_addr", cache.k_addr));
  if (!c.is_latent()) {
    SEXTANT_RETURN_IF_ERROR(check_pointer("cache.v", cache.v));
    SEXTANT_RETURN_IF_ERROR(check_alignment("cache.v", cache.v, size_of(c.dtype)));
    SEXTANT_RETURN_IF_ERROR(check_tiles("cache.v_addr", cache.v_addr));
  }
  SEXTANT_RETURN_IF_ERROR(check_alignment("cache.k_scale", cache.k_scale, sizeof(float)));
  SEXTANT_RETURN_IF_ERROR(check_alignment("cache.v_scale", cache.v_scale, sizeof(float)));
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
  if (c.num_blocks != planned.num_blocks) SEXTANT_RETURN_IF_ERROR(validate(c));  // as many as can be counted
  return check_cache_memory(cache);
}

}  // namespace sextant
