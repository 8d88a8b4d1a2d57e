// Converts C structs of any age to C++ types, and keeps the last error of a thread.
#include "c_api/convert.h"

#include <fmt/format.h>

#include <cstddef>

#include "c_api/fields.h"

namespace sextant::c_api {
namespace {

thread_local std::string last_error = "no error";

// Sizes of the structs in the first header; a struct's own is at least that.
constexpr size_t kOldestSpec = offsetof(sextant_attention_spec, query_dtype);
constexpr size_t kOldestCacheSpec = offsetof(sextant_kv_cache_spec, head_dim_v) + sizeof(int32_t);
constexpr size_t kMostCacheSpec = 4096;  // of a header to come

// What follows the spec inside sextant_kv_cache, and the cache inside sextant_run_tensors.
constexpr size_t kCacheRest = sizeof(sextant_kv_cache) - sizeof(sextant_kv_cache_spec);
constexpr size_t kCacheAt = offsetof(sextant_run_tensors, cache);
constexpr size_t kAfterCache = kCacheAt + sizeof(sextant_kv_cache);
static_assert(offsetof(sextant_kv_cache, k) == sizeof(sextant_kv_cache_spec) &&
              sizeof(sextant_kv_cache_spec) % alignof(sextant_kv_cache) == 0);

Status check_cache_spec_size(const char* name, size_t got) {
  if (got >= kOldestCacheSpec && got <= kMostCacheSpec && got % alignof(sextant_kv_cache) == 0) return Status::ok();
  return invalid_argument(fmt::format("{}.size is {}; allowed: sizeof(sextant_kv_cache_spec), {} here", name, got,
                                      sizeof(sextant_kv_cache_spec)));
}

}  // namespace

Status check_size(const char* name, size_t got, size_t oldest) {
  if (got >= oldest) return Status::ok();
  return invalid_argument(fmt::format("{}.size is {}; allowed: >= {} (sizeof)", name, got, oldest));
}

Result<sextant_kv_cache> read_cache(const char* name, const sextant_kv_cache* from) {
  SEXTANT_RETURN_IF_ERROR(check_argument(name, from));
  const size_t spec_bytes = from->spec.size;
  SEXTANT_RETURN_IF_ERROR(check_cache_spec_size((std::string(name) + ".spec").c_str(), spec_bytes));
  sextant_kv_cache own{};
  std::memcpy(&own, from, std::min(spec_bytes, sizeof(own.spec)));
  own.spec.size = sizeof(own.spec);
  std::memcpy(&own.k, reinterpret_cast<const char*>(from) + spec_bytes, kCacheRest);
  return own;
}

Result<sextant_run_tensors> read_tensors(const sextant_run_tensors* from) {
  SEXTANT_RETURN_IF_ERROR(check_argument("tensors", from));
  SEXTANT_RETURN_IF_ERROR(check_size("tensors", from->size, kCacheAt + sizeof(size_t)));
  auto cache = read_cache("tensors.cache", &from->cache);
  if (!cache) return cache.status();
  const size_t after = kCacheAt + from->cache.spec.size + kCacheRest;  // in the caller's header
  constexpr size_t kOldestRest = offsetof(sextant_run_tensors, q_scale) - kAfterCache;
  SEXTANT_RETURN_IF_ERROR(check_size("tensors", from->size, after + kOldestRest));
  sextant_run_tensors own{};
  std::memcpy(&own, from, kCacheAt);
  own.size = sizeof(own);
  own.cache = *cache;
  std::memcpy(reinterpret_cast<char*>(&own) + kAfterCache, reinterpret_cast<const char*>(from) + after,
              std::min(from->size - after, sizeof(own) - kAfterCache));
  return own;
}

sextant_status report(const Status& status) {
  if (!status.is_ok()) last_error = status.message();
  return static_cast<sextant_status>(status.code());
}

Status check_argument(const char* field, const void* pointer) {
  if (pointer != nullptr) return Status::ok();
  return invalid_argument(fmt::format("{} is NULL; allowed: a valid pointer", field));
}

Result<TensorView> to_view(const char* field, const sextant_tensor* tensor) {
  TensorView view;
  if (tensor == nullptr || (tensor->data == nullptr && tensor->rank == 0)) return view;
  SEXTANT_RETURN_IF_ERROR(assign({field, "dtype"}, tensor->dtype, view.dtype));
  if (tensor->rank < 0 || tensor->rank > kMaxRank)
    return invalid_argument(fmt::format("{}.rank is {}; allowed: 0..{}", field, tensor->rank, kMaxRank));
  view.data = tensor->data;
  view.rank = tensor->rank;
  for (int i = 0; i < view.rank; ++i) {
    const auto d = static_cast<size_t>(i);
    if (tensor->shape[i] < 0)
      return invalid_argument(fmt::format("{}.shape[{}] is {}; allowed: >= 0", field, i, tensor->shape[i]));
    view.shape[d] = tensor->shape[i];
    view.stride[d] = tensor->stride[i];
  }
  return view;
}

Result<AttentionSpec> to_spec(const sextant_attention_spec* spec) {
  const auto from = read_struct("spec", spec, kOldestSpec);
  if (!from) return from.status();
  AttentionSpec s;
  SEXTANT_RETURN_IF_ERROR(copy_fields("spec", *from, s));
  s.window_left = from->has_window != 0 ? from->window_left : -1;  // 0 is a window too
  s.window_right = from->has_window != 0 ? from->window_right : -1;
  return s;
}

Result<KvCacheSpec> read_cache_spec(const sextant_kv_cache_spec* spec) {
  const auto from = read_struct("cache", spec, kOldestCacheSpec);
  if (!from) return from.status();
  KvCacheSpec c;
  SEXTANT_RETURN_IF_ERROR(copy_fields("cache", *from, c));
  if (c.head_dim_v == 0) c.head_dim_v = c.head_dim;
  return c;
}

Result<KvCacheSpec> to_cache_spec(const sextant_kv_cache_spec* spec, const Device& device, const Backend* backend) {
  auto read = read_cache_spec(spec);
  if (!read) return read.status();
  const KvCacheSpec c = backend != nullptr ? with_layout(*read, *backend, device.info()) : *read;
  SEXTANT_RETURN_IF_ERROR(validate(c));
  return c;
}

Result<KvCacheView> to_cache_view(const sextant_kv_cache* cache, const Device& device, const Backend* backend) {
  const auto own = read_cache("cache", cache);
  if (!own) return own.status();
  auto spec = to_cache_spec(&own->spec, device, backend);
  if (!spec) return spec.status();
  if (own->num_scales < 0)
    return invalid_argument(fmt::format("cache.num_scales is {}; allowed: >= 0", own->num_scales));
  KvCacheView view = make_kv_cache_view(*spec, own->k, own->v);
  view.k_scale = own->k_scale;
  view.v_scale = own->v_scale;
  view.num_scales = own->num_scales > 0 ? own->num_scales : 1;
  const sextant_kv_cache_spec& strides = own->spec;
  if (strides.scale_block_stride != 0 || strides.scale_token_stride != 0 || strides.scale_head_stride != 0)
    view.scale_strides = {strides.scale_block_stride, strides.scale_token_stride, strides.scale_head_stride};
  return view;
}

Result<const Ops*> ops_of(const sextant_device* device, int32_t family) {
  SEXTANT_RETURN_IF_ERROR(check_argument("device", device));
  if (family != SEXTANT_PORTABLE && family != SEXTANT_TUNED)
    return invalid_argument(fmt::format("family is {}; allowed: 0 (portable), 1 (tuned)", family));
  return &device->device->ops(static_cast<KernelFamily>(family));
}

const char* last_error_message() { return last_error.c_str(); }

}  // namespace sextant::c_api

const char* sextant_last_error(void) { return sextant::c_api::last_error_message(); }
