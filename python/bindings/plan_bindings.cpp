// plan and run.
#include <tvm/ffi/function.h>

#include "handles.h"

namespace sextant::python {
namespace {

using tvm::ffi::String;

struct PlanHandle {
  std::shared_ptr<Device> device;
  const Backend* backend;
  PlanPtr plan;
};

HandleTable<PlanHandle>& plans() {
  static HandleTable<PlanHandle> table("plan");
  return table;
}

// NHD and HND caches may be strided parts of a larger tensor (vLLM keeps K and V of a head side by side).
void use_strides(const char* field, const sextant::TensorView& view, const KvCacheSpec& cache, int32_t dim,
                 KvAddressing& address) {
  const bool nhd = cache.layout == KvLayout::kNHD;
  const int64_t tokens = cache.block_size, heads = cache.num_kv_heads;
  const size_t token_at = nhd ? 1 : 2, head_at = nhd ? 2 : 1;
  if (view.rank != 4 || view.shape[0] < cache.num_blocks || view.shape[token_at] != tokens ||
      view.shape[head_at] != heads || view.shape[3] != dim || view.stride[3] != 1)
    raise(invalid_argument(std::string(field) + " is " + to_string(view) +
                           ", not contiguous; allowed: contiguous, or " + to_string(cache.layout) +
                           " with last stride 1"));
  address.block_stride = view.stride[0];
  address.token_outer_stride = view.stride[token_at];
  address.head_stride = view.stride[head_at];
}

void* cache_memory(const char* field, const sextant::TensorView& view, const KvCacheSpec& cache, int64_t elements,
                   int32_t dim, KvAddressing& address) {
  check_cache_dtype(field, view, cache);
  if (!view.is_contiguous()) {
    const bool plain = cache.layout == KvLayout::kNHD || cache.layout == KvLayout::kHND;
    if (!plain)
      raise(invalid_argument(std::string(field) + " is " + to_string(view) + ", not contiguous; layout " +
                             to_string(cache.layout) + " allows contiguous"));
    use_strides(field, view, cache, dim, address);
  } else if (view.num_elements() < elements) {
    raise(invalid_argument(std::string(field) + " is " + to_string(view) + "; allowed: at least " +
                           std::to_string(elements) + " elements"));
  }
  return view.data;
}

KvCacheView cache_view_from(const OptionalTensor& k, const OptionalTensor& v, const KvCacheSpec& cache,
                            const DeviceInfo& device) {
  KvCacheView view = make_kv_cache_view(cache, nullptr, nullptr);
  if (k.has_value())
    view.k = cache_memory("k_cache", written_view_from("k_cache", k, device), cache, k_elements(cache), cache.head_dim,
                          view.k_addr);
  if (cache.is_latent())
    view.v = view.k;
  else if (v.has_value())
    view.v = cache_memory("v_cache", written_view_from("v_cache", v, device), cache, v_elements(cache),
                          cache.head_dim_v, view.v_addr);
  return view;
}

// On the CPU the batch that `run` reads can be checked like the planned one: a table that changed since then must end
// in an error. On a GPU that would take a copy and a synchronisation, which `run` promises not to make.
void check_host_batch(const PlanRequest& planned, const RunTensors& t, int64_t num_slots) {
  const int32_t requests = planned.batch.num_requests();
  BatchMetadata batch;
  batch.query_start_loc = {t.query_start_loc, static_cast<size_t>(requests) + 1};
  batch.seq_lens = {t.seq_lens, static_cast<size_t>(requests)};
  batch.block_table = {t.block_table, static_cast<size_t>(requests * t.block_table_stride)};
  batch.max_blocks_per_request = t.block_table_stride;
  if (t.slot_mapping != nullptr) batch.slot_mapping = {t.slot_mapping, static_cast<size_t>(num_slots)};
  raise_unless_ok(validate(batch, planned.cache));
  const bool replay = planned.options.bounds.max_query_len > 0 || planned.options.bounds.max_seq_len > 0;
  if (batch.num_tokens() != planned.batch.num_tokens())
    raise(invalid_argument("query_start_loc ends with " + std::to_string(batch.num_tokens()) +
                           "; allowed: " + std::to_string(planned.batch.num_tokens()) + ", as planned"));
  for (size_t b = 0; !replay && b < batch.seq_lens.size(); ++b) {
    if (batch.seq_lens[b] != planned.batch.seq_lens[b] || batch.query_start_loc[b] != planned.batch.query_start_loc[b])
      raise(invalid_argument("seq_lens[" + std::to_string(b) + "] is " + std::to_string(batch.seq_lens[b]) +
                             " and query_start_loc " + std::to_string(batch.query_start_loc[b]) +
                             "; allowed: " + std::to_string(planned.batch.seq_lens[b]) + " and " +
                             std::to_string(planned.batch.query_start_loc[b]) +
                             ", as planned (a plan with max_seq_len takes other lengths)"));
  }
}

// Description: {device, device_index, backend, spec, cache, options, max_blocks_per_request, shared_prefix_len}. Arrays
// on the host.
int64_t plan_make(const String& description, OptionalTensor query_start_loc, OptionalTensor seq_lens,
                  OptionalTensor block_table, OptionalTensor slot_mapping) {
  const Json json = parse_json(description);
  PlanHandle handle;
  handle.device = device_of(text_field(json, "device", "cpu"), integer_field(json, "device_index", 0));
  handle.backend = value_or_raise(find_backend(text_field(json, "backend", "")));
  PlanRequest request;
  request.spec = spec_from(json.at("spec"));
  request.cache = cache_spec_from(json.at("cache"), *handle.device, handle.backend);
  request.options = options_from(json.value("options", Json::object()));
  request.batch.query_start_loc = host_array_from<int32_t>("query_start_loc", query_start_loc);
  request.batch.seq_lens = host_array_from<int32_t>("seq_lens", seq_lens);
  request.batch.block_table = host_array_from<int32_t>("block_table", block_table);
  request.batch.slot_mapping = host_array_from<int64_t>("slot_mapping", slot_mapping);
  request.batch.max_blocks_per_request = integer_field(json, "max_blocks_per_request", 0);
  request.batch.shared_prefix_len = int32_field(json, "shared_prefix_len", 0);
  handle.plan = value_or_raise(handle.backend->plan(*handle.device, request));
  return plans().add(std::make_shared<PlanHandle>(std::move(handle)));
}

void plan_free(int64_t handle) { plans().remove(handle); }

String plan_info(int64_t handle) {
  const auto plan = plans().get(handle);
  const KvCacheSpec& cache = plan->plan->request().cache;
  return Json({{"backend", plan->backend->info().name},
               {"workspace_bytes", plan->plan->workspace_bytes()},
               {"layout", to_string(cache.layout)},
               {"steps", plan->plan->steps()}})
      .dump();
}

void plan_run(int64_t handle, OptionalTensor q, OptionalTensor k, OptionalTensor v, OptionalTensor out,
              OptionalTensor lse, OptionalTensor kv_c, OptionalTensor k_pe, OptionalTensor kv_b_proj,
              OptionalTensor k_cache, OptionalTensor v_cache, OptionalTensor k_scale, OptionalTensor v_scale,
              OptionalTensor query_start_loc, OptionalTensor seq_lens, OptionalTensor block_table,
              OptionalTensor slot_mapping, OptionalTensor sinks, OptionalTensor alibi_slopes, OptionalTensor q_scale,
              OptionalTensor workspace, int64_t stream) {
  const auto plan = plans().get(handle);
  const DeviceInfo& device = plan->device->info();
  const KvCacheSpec& cache = plan->plan->request().cache;
  RunTensors t;
  t.q = view_from("q", q, device);
  const AttentionSpec& spec = plan->plan->request().spec;
  if (spec.has_fp8_queries() && size_of(t.q.dtype) == 1) t.q.dtype = spec.query_type();  // bytes: the spec says which
  t.k = view_from("k", k, device);
  t.v = view_from("v", v, device);
  t.out = written_view_from("out", out, device);
  t.lse = written_view_from("lse", lse, device);
  t.kv_c = view_from("kv_c", kv_c, device);
  t.k_pe = view_from("k_pe", k_pe, device);
  t.kv_b_proj = view_from("kv_b_proj", kv_b_proj, device);
  t.cache = cache_view_from(k_cache, v_cache, cache, device);
  t.cache.k_scale = array_from<float>("k_scale", k_scale, device);
  t.cache.v_scale = array_from<float>("v_scale", v_scale, device);
  t.cache.num_scales = num_scales_from(k_scale, v_scale, cache);
  t.query_start_loc = array_from<int32_t>("query_start_loc", query_start_loc, device);
  t.seq_lens = array_from<int32_t>("seq_lens", seq_lens, device);
  t.block_table = array_from<int32_t>("block_table", block_table, device);
  t.block_table_stride = block_table.has_value() && block_table.value().ndim() == 2 ? block_table.value().size(1) : 0;
  t.slot_mapping = array_from<int64_t>("slot_mapping", slot_mapping, device);
  t.sinks = array_from<float>("sinks", sinks, device);
  t.alibi_slopes = array_from<float>("alibi_slopes", alibi_slopes, device);
  t.q_scale = array_from<float>("q_scale", q_scale, device);
  if (q_scale.has_value()) t.num_q_scales = static_cast<int32_t>(q_scale.value().numel());
  const PlanRequest& planned = plan->plan->request();
  refuse_unplanned("lse", lse, planned.options.lse_out, "lse_out");
  refuse_unplanned("sinks", sinks, planned.spec.has_sinks, "spec.has_sinks");
  refuse_unplanned("alibi_slopes", alibi_slopes, planned.spec.has_alibi, "spec.has_alibi");
  if (block_table.has_value() && block_table.value().ndim() != 2)
    raise(invalid_argument("block_table has rank " + std::to_string(block_table.value().ndim()) +
                           "; allowed: 2 ([requests, max_blocks])"));
  const int64_t requests = planned.batch.num_requests();
  check_length("query_start_loc", query_start_loc, requests + 1, "requests + 1");
  check_length("seq_lens", seq_lens, requests, "requests");
  check_length("block_table", block_table, requests * t.block_table_stride, "requests * max_blocks");
  check_length("slot_mapping", slot_mapping, planned.batch.num_tokens(), "tokens");
  check_length("sinks", sinks, planned.spec.num_heads, "num_heads");
  check_length("alibi_slopes", alibi_slopes, planned.spec.num_heads, "num_heads");
  if (is_host_readable(device) && t.query_start_loc != nullptr && t.seq_lens != nullptr && t.block_table != nullptr)
    check_host_batch(planned, t, slot_mapping.has_value() ? slot_mapping.value().numel() : 0);
  const sextant::TensorView scratch = view_from("workspace", workspace, device);
  t.workspace = scratch.data;
  t.workspace_bytes = workspace.has_value() ? static_cast<size_t>(scratch.num_elements()) * size_of(scratch.dtype) : 0;
  raise_unless_ok(plan->backend->run(*plan->plan, t, {reinterpret_cast<void*>(stream)}));
}

}  // namespace
}  // namespace sextant::python

TVM_FFI_DLL_EXPORT_TYPED_FUNC(plan_make, sextant::python::plan_make);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(plan_free, sextant::python::plan_free);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(plan_info, sextant::python::plan_info);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(plan_run, sextant::python::plan_run);
