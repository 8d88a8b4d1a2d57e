// Ops that Python callers use alone.
#include <tvm/ffi/function.h>

#include "handles.h"

namespace sextant::python {
namespace {

using tvm::ffi::String;

struct VarlenHandle {
  std::shared_ptr<Device> device;
  const Ops* ops;
  AttentionPlanPtr plan;
  std::vector<int32_t> query_start_loc, key_start_loc, seq_lens;
  int32_t num_heads;
  bool lse_out, has_sinks, has_alibi, has_spans;
};

HandleTable<VarlenHandle>& varlen_plans() {
  static HandleTable<VarlenHandle> table("varlen plan");
  return table;
}

const Ops& ops_of(const Json& json, const Device& device) {
  const std::string family = text_field(json, "family", "tuned");
  if (family != "portable" && family != "tuned")
    raise(invalid_argument("family is \"" + family + "\"; allowed: portable, tuned"));
  return device.ops(family == "portable" ? KernelFamily::kPortable : KernelFamily::kTuned);
}

// {device, device_index, family, spec, lse_out}; start locations on the host.
int64_t varlen_make(const String& description, OptionalTensor query_start_loc, OptionalTensor key_start_loc) {
  const Json json = parse_json(description);
  VarlenHandle handle{};
  handle.device = device_of(text_field(json, "device", "cpu"), integer_field(json, "device_index", 0));
  handle.ops = &ops_of(json, *handle.device);
  AttentionPlanArgs args;
  args.op = AttentionOp::kVarlen;
  args.spec = spec_from(json.at("spec"));
  args.query_start_loc = host_array_from<int32_t>("query_start_loc", query_start_loc);
  args.key_start_loc = host_array_from<int32_t>("key_start_loc", key_start_loc);
  std::vector<int32_t> seq_lens;
  for (size_t b = 0; b + 1 < args.key_start_loc.size(); ++b)
    seq_lens.push_back(args.key_start_loc[b + 1] - args.key_start_loc[b]);
  args.seq_lens = seq_lens;
  args.max_packed_keys = args.key_start_loc.empty() ? 0 : args.key_start_loc.back();
  args.lse_out = integer_field(json, "lse_out", 0) != 0;
  args.out_dtype = args.spec.dtype;
  handle.plan = value_or_raise(handle.ops->plan_attention(args));
  handle.query_start_loc.assign(args.query_start_loc.begin(), args.query_start_loc.end());
  handle.key_start_loc.assign(args.key_start_loc.begin(), args.key_start_loc.end());
  handle.seq_lens = std::move(seq_lens);
  handle.num_heads = args.spec.num_heads;
  handle.lse_out = args.lse_out;
  handle.has_sinks = args.spec.has_sinks;
  handle.has_alibi = args.spec.has_alibi;
  handle.has_spans = args.spec.has_spans();
  return varlen_plans().add(std::make_shared<VarlenHandle>(std::move(handle)));
}

void varlen_free(int64_t handle) { varlen_plans().remove(handle); }
int64_t varlen_workspace_bytes(int64_t handle) {
  return static_cast<int64_t>(varlen_plans().get(handle)->plan->workspace_bytes());
}

// Long enough; on the CPU also what was planned, since the kernels index by it.
void check_planned(const char* field, const OptionalTensor& tensor, const std::vector<int32_t>& planned,
                   const DeviceInfo& device) {
  check_length(field, tensor, static_cast<int64_t>(planned.size()), "as planned");
  if (!tensor.has_value() || !device.host_readable()) return;
  const int32_t* values = array_from<int32_t>(field, tensor, device);
  for (size_t b = 0; b < planned.size(); ++b)
    if (values[b] != planned[b])
      raise(invalid_argument(std::string(field) + "[" + std::to_string(b) + "] is " + std::to_string(values[b]) +
                             "; allowed: " + std::to_string(planned[b]) + ", as planned"));
}

// Rows [T, H, D], also of a dense batch [B, H, S, D] whose sequences follow one another in memory.
sextant::TensorView rows_of(const char* field, sextant::TensorView view) {
  if (view.rank != 4) return view;
  if (view.shape[0] > 1 && view.stride[0] != view.shape[2] * view.stride[2])
    raise(invalid_argument(std::string(field) + " is " + to_string(view) +
                           "; allowed: [B, H, S, D] whose sequences follow one another in memory"));
  sextant::TensorView rows = view;
  rows.rank = 3;
  rows.shape = {view.shape[0] * view.shape[2], view.shape[1], view.shape[3]};
  rows.stride = {view.stride[2], view.stride[1], view.stride[3]};
  return rows;
}

// Lengths that the plan has, where kernels read the host's memory and the caller brings none.
const int32_t* lengths_of(const char* field, const OptionalTensor& tensor, const std::vector<int32_t>& planned,
                          const DeviceInfo& device) {
  if (!tensor.has_value() && device.host_readable()) return planned.data();
  const int32_t* values = array_from<int32_t>(field, tensor, device);
  check_planned(field, tensor, planned, device);
  return values;
}

void* checked_workspace(const OptionalTensor& workspace, size_t needed, const DeviceInfo& device) {
  const Workspace scratch = workspace_from(workspace, device);
  if (scratch.bytes < needed)
    raise({StatusCode::kResourceExhausted,
           "workspace has " + std::to_string(scratch.bytes) + " bytes; allowed: at least " + std::to_string(needed)});
  return scratch.data;
}

void varlen_run(int64_t handle, OptionalTensor q, OptionalTensor k, OptionalTensor v, OptionalTensor out,
                OptionalTensor lse, OptionalTensor query_start_loc, OptionalTensor key_start_loc,
                OptionalTensor seq_lens, OptionalTensor sinks, OptionalTensor alibi_slopes, OptionalTensor token_spans,
                OptionalTensor workspace, int64_t stream) {
  const auto plan = varlen_plans().get(handle);
  const DeviceInfo& device = plan->device->info();
  AttentionArgs args;
  args.q = rows_of("q", view_from("q", q, device));
  args.k = rows_of("k", view_from("k", k, device));
  args.v = rows_of("v", view_from("v", v, device));
  args.out = rows_of("out", written_view_from("out", out, device));
  args.lse = written_view_from("lse", lse, device);
  args.query_start_loc = lengths_of("query_start_loc", query_start_loc, plan->query_start_loc, device);
  args.key_start_loc = lengths_of("key_start_loc", key_start_loc, plan->key_start_loc, device);
  args.seq_lens = lengths_of("seq_lens", seq_lens, plan->seq_lens, device);
  args.sinks = array_from<float>("sinks", sinks, device);
  args.alibi_slopes = array_from<float>("alibi_slopes", alibi_slopes, device);
  args.token_spans = array_from<int32_t>("token_spans", token_spans, device);
  refuse_unplanned("lse", lse, plan->lse_out, "lse_out");
  refuse_unplanned("sinks", sinks, plan->has_sinks, "spec.has_sinks");
  refuse_unplanned("alibi_slopes", alibi_slopes, plan->has_alibi, "spec.has_alibi");
  refuse_unplanned("token_spans", token_spans, plan->has_spans, "spec.max_span_len");
  const int64_t tokens = plan->query_start_loc.empty() ? 0 : plan->query_start_loc.back();
  check_length("token_spans", token_spans, 2 * tokens, "2 * tokens");
  check_length("sinks", sinks, plan->num_heads, "num_heads");
  check_length("alibi_slopes", alibi_slopes, plan->num_heads, "num_heads");
  args.workspace = checked_workspace(workspace, plan->plan->workspace_bytes(), device);
  raise_unless_ok(plan->ops->run_attention(*plan->plan, args, {reinterpret_cast<void*>(stream)}));
}

// {device, device_index, family}
void merge_attn_states(const String& description, Tensor prefix_out, Tensor prefix_lse, Tensor suffix_out,
                       Tensor suffix_lse, Tensor out, OptionalTensor lse, int64_t stream) {
  const Json json = parse_json(description);
  const auto device = device_of(text_field(json, "device", "cpu"), integer_field(json, "device_index", 0));
  const DeviceInfo& where = device->info();
  MergeAttnStatesArgs args;
  args.prefix_out = view_from("prefix_out", prefix_out, where);
  args.prefix_lse = view_from("prefix_lse", prefix_lse, where);
  args.suffix_out = view_from("suffix_out", suffix_out, where);
  args.suffix_lse = view_from("suffix_lse", suffix_lse, where);
  args.out = written_view_from("out", OptionalTensor(out), where);
  args.lse = written_view_from("lse", lse, where);
  raise_unless_ok(ops_of(json, *device).merge_attn_states(args, {reinterpret_cast<void*>(stream)}));
}

// The memory of a whole cache, contiguous. `v_cache` is absent for the latent layout.
KvCacheView whole_cache(const KvCacheSpec& spec, const OptionalTensor& k_cache, const OptionalTensor& v_cache,
                        const DeviceInfo& where) {
  const sextant::TensorView k = written_view_from("k_cache", k_cache, where),
                            v = written_view_from("v_cache", v_cache, where);
  check_cache_dtype("k_cache", k, spec);
  if (k.num_elements() < k_elements(spec) || !k.is_contiguous())
    raise(invalid_argument("k_cache is " + to_string(k) + "; allowed: contiguous, at least " +
                           std::to_string(k_elements(spec)) + " elements"));
  if (spec.is_latent()) {
    if (v_cache.has_value()) raise(invalid_argument("v_cache was given; allowed: none with the latent layout"));
    return make_kv_cache_view(spec, k.data, k.data);
  }
  if (!v_cache.has_value()) raise(invalid_argument("v_cache is missing; allowed: a tensor, but for the latent layout"));
  check_cache_dtype("v_cache", v, spec);
  if (v.num_elements() < v_elements(spec) || !v.is_contiguous())
    raise(invalid_argument("v_cache is " + to_string(v) + "; allowed: contiguous, at least " +
                           std::to_string(v_elements(spec)) + " elements"));
  return make_kv_cache_view(spec, k.data, v.data);
}

// {device, device_index, family, cache}
void concat_and_cache_mla(const String& description, Tensor kv_c, Tensor k_pe, Tensor slot_mapping, Tensor kv_cache,
                          OptionalTensor kv_scale, int64_t stream) {
  const Json json = parse_json(description);
  const auto device = device_of(text_field(json, "device", "cpu"), integer_field(json, "device_index", 0));
  const DeviceInfo& where = device->info();
  const KvCacheSpec spec = cache_spec_from(json.at("cache"), *device, nullptr);
  ConcatAndCacheMlaArgs args;
  args.kv_c = view_from("kv_c", kv_c, where);
  args.k_pe = view_from("k_pe", k_pe, where);
  args.slot_mapping = array_from<int64_t>("slot_mapping", OptionalTensor(slot_mapping), where);
  args.num_tokens = slot_mapping.numel();
  args.cache = whole_cache(spec, OptionalTensor(kv_cache), {}, where);
  args.cache.k_scale = args.cache.v_scale = array_from<float>("kv_scale", kv_scale, where);
  args.cache.num_scales = num_scales_from(kv_scale, {}, spec);
  raise_unless_ok(ops_of(json, *device).concat_and_cache_mla(args, {reinterpret_cast<void*>(stream)}));
}

// {device, device_index, family, cache, chunk_begin}
void gather_cache(const String& description, OptionalTensor k_cache, OptionalTensor v_cache, Tensor block_table,
                  Tensor key_start_loc, OptionalTensor k, OptionalTensor v, OptionalTensor k_scale,
                  OptionalTensor v_scale, int64_t stream) {
  const Json json = parse_json(description);
  const auto device = device_of(text_field(json, "device", "cpu"), integer_field(json, "device_index", 0));
  const DeviceInfo& where = device->info();
  const KvCacheSpec spec = cache_spec_from(json.at("cache"), *device, nullptr);
  if (block_table.ndim() != 2)
    raise(invalid_argument("block_table has rank " + std::to_string(block_table.ndim()) +
                           "; allowed: 2 ([requests, max_blocks])"));
  GatherCacheArgs args;
  args.cache = whole_cache(spec, k_cache, v_cache, where);
  args.cache.k_scale = array_from<float>("k_scale", k_scale, where);
  args.cache.v_scale = array_from<float>("v_scale", v_scale, where);
  args.cache.num_scales = num_scales_from(k_scale, v_scale, spec);
  args.block_table = array_from<int32_t>("block_table", OptionalTensor(block_table), where);
  args.block_table_stride = block_table.size(1);
  args.num_requests = static_cast<int32_t>(block_table.size(0));
  args.key_start_loc = array_from<int32_t>("key_start_loc", OptionalTensor(key_start_loc), where);
  check_length("key_start_loc", OptionalTensor(key_start_loc), block_table.size(0) + 1, "requests + 1");
  args.chunk_begin = integer_field(json, "chunk_begin", 0);
  args.k = written_view_from("k", k, where);
  args.v = written_view_from("v", v, where);
  args.max_rows = args.k.rank > 0 ? args.k.shape[0] : 0;
  raise_unless_ok(ops_of(json, *device).gather_cache(args, {reinterpret_cast<void*>(stream)}));
}

// {device, device_index, family, cache}
void copy_blocks(const String& description, OptionalTensor k_cache, OptionalTensor v_cache, Tensor mapping,
                 OptionalTensor k_scale, OptionalTensor v_scale, int64_t stream) {
  const Json json = parse_json(description);
  const auto device = device_of(text_field(json, "device", "cpu"), integer_field(json, "device_index", 0));
  const DeviceInfo& where = device->info();
  if (mapping.ndim() != 2 || mapping.size(1) != 2)
    raise(invalid_argument("mapping has " + std::to_string(mapping.numel()) + " elements of rank " +
                           std::to_string(mapping.ndim()) + "; allowed: [pairs, 2]"));
  CopyBlocksArgs args;
  const KvCacheSpec spec = cache_spec_from(json.at("cache"), *device, nullptr);
  args.cache = whole_cache(spec, k_cache, v_cache, where);
  args.cache.k_scale = array_from<float>("k_scale", k_scale, where);
  args.cache.v_scale = array_from<float>("v_scale", v_scale, where);
  args.cache.num_scales = num_scales_from(k_scale, v_scale, spec);
  args.mapping = array_from<int64_t>("mapping", OptionalTensor(mapping), where);
  args.num_pairs = mapping.size(0);
  raise_unless_ok(ops_of(json, *device).copy_blocks(args, {reinterpret_cast<void*>(stream)}));
}

// {device, device_index, family, cache}
void reshape_and_cache(const String& description, Tensor k, Tensor v, Tensor slot_mapping, Tensor k_cache,
                       Tensor v_cache, OptionalTensor k_scale, OptionalTensor v_scale, int64_t stream) {
  const Json json = parse_json(description);
  const auto device = device_of(text_field(json, "device", "cpu"), integer_field(json, "device_index", 0));
  const DeviceInfo& where = device->info();
  const KvCacheSpec spec = cache_spec_from(json.at("cache"), *device, nullptr);
  ReshapeAndCacheArgs args;
  args.k = view_from("k", k, where);
  args.v = view_from("v", v, where);
  args.slot_mapping = array_from<int64_t>("slot_mapping", OptionalTensor(slot_mapping), where);
  args.num_tokens = slot_mapping.numel();
  const sextant::TensorView k_memory = view_from("k_cache", k_cache, where),
                            v_memory = view_from("v_cache", v_cache, where);
  check_cache_dtype("k_cache", k_memory, spec);
  check_cache_dtype("v_cache", v_memory, spec);
  if (k_memory.num_elements() < k_elements(spec) || v_memory.num_elements() < v_elements(spec) ||
      !k_memory.is_contiguous() || !v_memory.is_contiguous())
    raise(invalid_argument("k_cache is " + to_string(k_memory) + " and v_cache " + to_string(v_memory) +
                           "; allowed: contiguous, at least " + std::to_string(k_elements(spec)) + " and " +
                           std::to_string(v_elements(spec)) + " elements"));
  args.cache = make_kv_cache_view(spec, k_memory.data, v_memory.data);
  args.cache.k_scale = array_from<float>("k_scale", k_scale, where);
  args.cache.v_scale = array_from<float>("v_scale", v_scale, where);
  args.cache.num_scales = num_scales_from(k_scale, v_scale, spec);
  raise_unless_ok(ops_of(json, *device).reshape_and_cache(args, {reinterpret_cast<void*>(stream)}));
}

// Latent decode of queries that are absorbed already.
struct MlaDecodeHandle {
  std::shared_ptr<Device> device;
  const Ops* ops;
  AttentionPlanPtr plan;
  KvCacheSpec cache;
  DType query_dtype;
  std::vector<int32_t> query_start_loc, seq_lens;
  bool lse_out;
};

HandleTable<MlaDecodeHandle>& mla_decode_plans() {
  static HandleTable<MlaDecodeHandle> table("mla decode plan");
  return table;
}

// {device, device_index, family, spec, cache, options}; lengths on the host. spec: one KV head of rank + rope and rank.
int64_t mla_decode_make(const String& description, OptionalTensor query_start_loc, OptionalTensor seq_lens) {
  const Json json = parse_json(description);
  MlaDecodeHandle handle{};
  handle.device = device_of(text_field(json, "device", "cpu"), integer_field(json, "device_index", 0));
  handle.ops = &ops_of(json, *handle.device);
  const PlanOptions options = options_from(json.value("options", Json::object()));
  AttentionPlanArgs args;
  args.op = AttentionOp::kMlaDecode;
  args.spec = spec_fields_from(json.at("spec"));
  args.cache = handle.cache = cache_spec_from(json.at("cache"), *handle.device, nullptr);
  args.query_start_loc = host_array_from<int32_t>("query_start_loc", query_start_loc);
  args.seq_lens = host_array_from<int32_t>("seq_lens", seq_lens);
  args.bounds = options.bounds;
  args.deterministic = options.deterministic;
  args.lse_out = handle.lse_out = options.lse_out;
  args.out_dtype = args.spec.dtype;
  handle.query_dtype = args.spec.query_type();
  handle.plan = value_or_raise(handle.ops->plan_attention(args));
  handle.query_start_loc.assign(args.query_start_loc.begin(), args.query_start_loc.end());
  handle.seq_lens.assign(args.seq_lens.begin(), args.seq_lens.end());
  return mla_decode_plans().add(std::make_shared<MlaDecodeHandle>(std::move(handle)));
}

void mla_decode_free(int64_t handle) { mla_decode_plans().remove(handle); }
int64_t mla_decode_workspace_bytes(int64_t handle) {
  return static_cast<int64_t>(mla_decode_plans().get(handle)->plan->workspace_bytes());
}

void mla_decode_run(int64_t handle, OptionalTensor q, OptionalTensor kv_cache, OptionalTensor out, OptionalTensor lse,
                    OptionalTensor kv_scale, OptionalTensor query_start_loc, OptionalTensor seq_lens,
                    OptionalTensor block_table, OptionalTensor q_scale, OptionalTensor workspace, int64_t stream,
                    bool next_layer) {
  const auto plan = mla_decode_plans().get(handle);
  const DeviceInfo& device = plan->device->info();
  AttentionArgs args;
  args.q = view_from("q", q, device);
  if (is_fp8(plan->query_dtype) && size_of(args.q.dtype) == 1) args.q.dtype = plan->query_dtype;  // as bytes
  args.q_scale = array_from<float>("q_scale", q_scale, device);
  if (q_scale.has_value()) args.num_q_scales = static_cast<int32_t>(q_scale.value().numel());
  args.out = written_view_from("out", out, device);
  args.lse = written_view_from("lse", lse, device);
  args.cache = whole_cache(plan->cache, kv_cache, {}, device);
  args.cache.k_scale = args.cache.v_scale = array_from<float>("kv_scale", kv_scale, device);
  args.cache.num_scales = num_scales_from(kv_scale, kv_scale, plan->cache);
  refuse_unplanned("lse", lse, plan->lse_out, "lse_out");
  args.query_start_loc = lengths_of("query_start_loc", query_start_loc, plan->query_start_loc, device);
  args.seq_lens = lengths_of("seq_lens", seq_lens, plan->seq_lens, device);
  const auto requests = static_cast<int64_t>(plan->seq_lens.size());
  if (block_table.has_value() && block_table.value().ndim() != 2)
    raise(invalid_argument("block_table has rank " + std::to_string(block_table.value().ndim()) +
                           "; allowed: 2 ([requests, max_blocks])"));
  args.block_table = array_from<int32_t>("block_table", block_table, device);
  args.block_table_stride =
      block_table.has_value() && block_table.value().ndim() == 2 ? block_table.value().size(1) : 0;
  check_length("block_table", block_table, requests * args.block_table_stride, "requests * max_blocks");
  args.workspace = checked_workspace(workspace, plan->plan->workspace_bytes(), device);
  args.next_layer = next_layer;
  raise_unless_ok(plan->ops->run_attention(*plan->plan, args, {reinterpret_cast<void*>(stream)}));
}

}  // namespace
}  // namespace sextant::python

TVM_FFI_DLL_EXPORT_TYPED_FUNC(varlen_make, sextant::python::varlen_make);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(varlen_free, sextant::python::varlen_free);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(varlen_workspace_bytes, sextant::python::varlen_workspace_bytes);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(varlen_run, sextant::python::varlen_run);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(mla_decode_make, sextant::python::mla_decode_make);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(mla_decode_free, sextant::python::mla_decode_free);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(mla_decode_workspace_bytes, sextant::python::mla_decode_workspace_bytes);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(mla_decode_run, sextant::python::mla_decode_run);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(merge_attn_states, sextant::python::merge_attn_states);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(reshape_and_cache, sextant::python::reshape_and_cache);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(concat_and_cache_mla, sextant::python::concat_and_cache_mla);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(gather_cache, sextant::python::gather_cache);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(copy_blocks, sextant::python::copy_blocks);
