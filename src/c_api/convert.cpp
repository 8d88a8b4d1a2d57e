#include "c_api/convert.h"

#include <fmt/format.h>

#include <cstddef>

namespace sextant::c_api {
namespace {

thread_local std::string last_error = "no error";

Status check_size(const char* name, size_t got, size_t needed) {
  if (got >= needed) return Status::ok();
  return invalid_argument(fmt::format("{}.size is {}; allowed: >= {} (sizeof)", name, got, needed));
}

Result<DType> to_dtype(const char* field, int32_t value) {
  if (value >= 0 && value <= static_cast<int32_t>(DType::kI64)) return static_cast<DType>(value);
  return invalid_argument(
      fmt::format("{} is {}; allowed: 0..{} (sextant_dtype)", field, value, static_cast<int32_t>(DType::kI64)));
}

}  // namespace

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
  auto dtype = to_dtype(field, tensor->dtype);
  if (!dtype) return dtype.status();
  if (tensor->rank < 0 || tensor->rank > kMaxRank)
    return invalid_argument(fmt::format("{}.rank is {}; allowed: 0..{}", field, tensor->rank, kMaxRank));
  view.data = tensor->data;
  view.dtype = *dtype;
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
  SEXTANT_RETURN_IF_ERROR(check_argument("spec", spec));
  SEXTANT_RETURN_IF_ERROR(check_size("spec", spec->size, offsetof(sextant_attention_spec, query_dtype)));
  auto dtype = to_dtype("spec.dtype", spec->dtype);
  if (!dtype) return dtype.status();
  AttentionSpec s;
  s.num_heads = spec->num_heads;
  s.num_kv_heads = spec->num_kv_heads;
  s.head_dim = spec->head_dim;
  s.head_dim_v = spec->head_dim_v;
  s.softmax_scale = spec->softmax_scale;
  s.causal = spec->causal != 0;
  s.sliding_window = spec->sliding_window;
  s.logits_soft_cap = spec->logits_soft_cap;
  s.has_sinks = spec->has_sinks != 0;
  s.has_alibi = spec->has_alibi != 0;
  s.dtype = *dtype;
  if (spec->size > offsetof(sextant_attention_spec, query_dtype) && spec->query_dtype != 0) {
    auto query_dtype = to_dtype("spec.query_dtype", spec->query_dtype);
    if (!query_dtype) return query_dtype.status();
    s.query_dtype = *query_dtype;
  }
  s.mla = {spec->kv_lora_rank, spec->qk_nope_head_dim, spec->qk_rope_head_dim, spec->v_head_dim};
  return s;
}

Result<KvCacheSpec> to_cache_spec(const sextant_kv_cache_spec* spec, const Device& device, const Backend* backend) {
  SEXTANT_RETURN_IF_ERROR(check_argument("cache", spec));
  SEXTANT_RETURN_IF_ERROR(check_size("cache", spec->size, sizeof(*spec)));
  auto dtype = to_dtype("cache.dtype", spec->dtype);
  if (!dtype) return dtype.status();
  KvCacheSpec c;
  if (spec->layout == -1 && backend != nullptr)
    c.layout = backend->preferred_layout(device.info(), *dtype);
  else if (spec->layout >= 0 && spec->layout <= static_cast<int32_t>(KvLayout::kLatent))
    c.layout = static_cast<KvLayout>(spec->layout);
  else
    return invalid_argument(fmt::format("cache.layout is {}; allowed: 0..{} (sextant_kv_layout){}", spec->layout,
                                        static_cast<int32_t>(KvLayout::kLatent),
                                        backend ? ", or -1 for the backend's own" : ""));
  c.dtype = *dtype;
  c.num_blocks = spec->num_blocks;
  c.block_size = spec->block_size;
  c.num_kv_heads = spec->num_kv_heads;
  c.head_dim = spec->head_dim;
  c.head_dim_v = spec->head_dim_v ? spec->head_dim_v : spec->head_dim;
  SEXTANT_RETURN_IF_ERROR(validate(c));
  return c;
}

Result<KvCacheView> to_cache_view(const sextant_kv_cache* cache, const Device& device, const Backend* backend) {
  SEXTANT_RETURN_IF_ERROR(check_argument("cache", cache));
  auto spec = to_cache_spec(&cache->spec, device, backend);
  if (!spec) return spec.status();
  KvCacheView view = make_kv_cache_view(*spec, cache->k, cache->v);
  view.k_scale = cache->k_scale;
  view.v_scale = cache->v_scale;
  view.num_scales = cache->num_scales > 0 ? cache->num_scales : 1;
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
