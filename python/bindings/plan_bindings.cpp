// plan and run.
#include <tvm/ffi/function.h>

#include <limits>

#include "backends/run_checks.h"
#include "handles.h"

namespace sextant::python {
namespace {

using tvm::ffi::String;

struct PlanHandle {
  std::shared_ptr<Device> device;
  PlanPtr plan;
  bool stored_keys = false;  // new keys and values are attended to as a rounding cache holds them
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

// Writes the new keys and values first, so that every backend attends to what the cache holds, as later steps will.
Status run_from_cache(const PlanHandle& handle, RunTensors tensors, Stream stream) {
  const PlanRequest& planned = handle.plan->request();
  SEXTANT_RETURN_IF_ERROR(
      check_run(planned, handle.plan->workspace_bytes(), handle.device->info().host_readable(), tensors));
  const ReshapeAndCacheArgs write{tensors.k, tensors.v, tensors.slot_mapping, planned.batch.num_tokens(),
                                  tensors.cache};
  SEXTANT_RETURN_IF_ERROR(handle.device->ops(handle.plan->backend().info().family).reshape_and_cache(write, stream));
  tensors.k = tensors.v = {};
  tensors.slot_mapping = nullptr;
  return handle.plan->run(tensors, stream);
}

// All of a plan but its batch: an engine plans many steps alike, and reading the description takes longer than
// planning.
struct PlanTemplate {
  std::shared_ptr<Device> device;
  const Backend* backend = nullptr;
  PlanRequest request;
  bool stored_keys = false;
};

HandleTable<PlanTemplate>& templates() {
  static HandleTable<PlanTemplate> table("plan template");
  return table;
}

// Description: {device, device_index, backend, spec, cache, options, stored_keys}.
int64_t template_make(const String& description) {
  const Json json = parse_json(description);
  PlanTemplate made;
  made.device = device_of(text_field(json, "device", "cpu"), integer_field(json, "device_index", 0));
  made.backend = value_or_raise(find_backend(text_field(json, "backend", "")));
  PlanRequest& request = made.request;
  request.spec = spec_from(json.at("spec"));
  request.cache = cache_spec_from(json.at("cache"), *made.device, made.backend);
  request.options = options_from(json.value("options", Json::object()));
  const bool rounds = request.cache.dtype != request.spec.dtype;
  made.stored_keys = rounds && !request.cache.is_latent() && integer_field(json, "stored_keys", 0) != 0;
  return templates().add(std::make_shared<PlanTemplate>(std::move(made)));
}

void template_free(int64_t handle) { templates().remove(handle); }

// The batch: arrays on the host.
int64_t plan_make(int64_t template_handle, OptionalTensor query_start_loc, OptionalTensor seq_lens,
                  OptionalTensor block_table, OptionalTensor slot_mapping, OptionalTensor token_spans,
                  int64_t max_blocks_per_request, int64_t shared_prefix_len) {
  const auto of = templates().get(template_handle);
  if (shared_prefix_len < 0 || shared_prefix_len > std::numeric_limits<int32_t>::max())
    raise(invalid_argument("shared_prefix_len is " + std::to_string(shared_prefix_len) + "; allowed: 0..2147483647"));
  PlanRequest request = of->request;
  request.batch.query_start_loc = host_array_from<int32_t>("query_start_loc", query_start_loc);
  request.batch.seq_lens = host_array_from<int32_t>("seq_lens", seq_lens);
  request.batch.block_table = host_array_from<int32_t>("block_table", block_table);
  request.batch.slot_mapping = host_array_from<int64_t>("slot_mapping", slot_mapping);
  request.batch.token_spans = host_array_from<int32_t>("token_spans", token_spans);
  request.batch.max_blocks_per_request = max_blocks_per_request;
  request.batch.shared_prefix_len = static_cast<int32_t>(shared_prefix_len);
  PlanHandle handle{of->device, value_or_raise(of->backend->plan(*of->device, request)), of->stored_keys};
  return plans().add(std::make_shared<PlanHandle>(std::move(handle)));
}

int64_t plan_workspace_bytes(int64_t handle) {
  return static_cast<int64_t>(plans().get(handle)->plan->workspace_bytes());
}

void plan_free(int64_t handle) { plans().remove(handle); }

String plan_info(int64_t handle) {
  const auto plan = plans().get(handle);
  const KvCacheSpec& cache = plan->plan->request().cache;
  return Json({{"backend", plan->plan->backend().info().name},
               {"layout", to_string(cache.layout)},
               {"steps", plan->plan->steps()}})
      .dump();
}

void plan_run(int64_t handle, OptionalTensor q, OptionalTensor k, OptionalTensor v, OptionalTensor out,
              OptionalTensor lse, OptionalTensor kv_c, OptionalTensor k_pe, OptionalTensor kv_b_proj,
              OptionalTensor k_cache, OptionalTensor v_cache, OptionalTensor k_scale, OptionalTensor v_scale,
              OptionalTensor query_start_loc, OptionalTensor seq_lens, OptionalTensor block_table,
              OptionalTensor slot_mapping, OptionalTensor sinks, OptionalTensor alibi_slopes, OptionalTensor q_scale,
              OptionalTensor token_spans, OptionalTensor workspace, int64_t stream, bool next_layer) {
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
  t.token_spans = array_from<int32_t>("token_spans", token_spans, device);
  t.q_scale = array_from<float>("q_scale", q_scale, device);
  if (q_scale.has_value()) t.num_q_scales = static_cast<int32_t>(q_scale.value().numel());
  const PlanRequest& planned = plan->plan->request();
  refuse_unplanned("lse", lse, planned.options.lse_out, "lse_out");
  refuse_unplanned("sinks", sinks, planned.spec.has_sinks, "spec.has_sinks");
  refuse_unplanned("alibi_slopes", alibi_slopes, planned.spec.has_alibi, "spec.has_alibi");
  refuse_unplanned("token_spans", token_spans, planned.spec.has_spans(), "spec.max_span_len");
  if (block_table.has_value() && block_table.value().ndim() != 2)
    raise(invalid_argument("block_table has rank " + std::to_string(block_table.value().ndim()) +
                           "; allowed: 2 ([requests, max_blocks])"));
  const int64_t requests = planned.batch.num_requests();
  check_length("query_start_loc", query_start_loc, requests + 1, "requests + 1");
  check_length("seq_lens", seq_lens, requests, "requests");
  check_length("block_table", block_table, requests * t.block_table_stride, "requests * max_blocks");
  check_length("slot_mapping", slot_mapping, planned.batch.num_tokens(), "tokens");
  check_length("token_spans", token_spans, 2 * planned.batch.num_tokens(), "2 * tokens");
  check_length("sinks", sinks, planned.spec.num_heads, "num_heads");
  check_length("alibi_slopes", alibi_slopes, planned.spec.num_heads, "num_heads");
  const Workspace scratch = workspace_from(workspace, device);
  t.workspace = scratch.data;
  t.workspace_bytes = scratch.bytes;
  t.next_layer = next_layer;
  const Stream on{reinterpret_cast<void*>(stream)};
  const bool from_cache = plan->stored_keys && t.slot_mapping != nullptr && planned.batch.num_tokens() > 0;
  raise_unless_ok(from_cache ? run_from_cache(*plan, t, on) : plan->plan->run(t, on));
}

}  // namespace
}  // namespace sextant::python

TVM_FFI_DLL_EXPORT_TYPED_FUNC(plan_template_make, sextant::python::template_make);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(plan_template_free, sextant::python::template_free);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(plan_workspace_bytes, sextant::python::plan_workspace_bytes);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(plan_make, sextant::python::plan_make);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(plan_free, sextant::python::plan_free);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(plan_info, sextant::python::plan_info);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(plan_run, sextant::python::plan_run);
