// Single ops.
#include <fmt/format.h>

#include <vector>

#include "c_api/convert.h"
#include "ops/array_checks.h"

using namespace sextant;         // NOLINT(google-build-using-namespace): this file only glues
using namespace sextant::c_api;  // NOLINT(google-build-using-namespace)

struct sextant_attention_plan {
  std::shared_ptr<Device> device;
  const Ops* ops;
  AttentionPlanPtr plan;
};

namespace {

// Assigns the value or leaves the enclosing function with its status.
#define SEXTANT_ASSIGN(target, expression)                 \
  do {                                                     \
    auto sextant_result_ = (expression);                   \
    if (!sextant_result_) return sextant_result_.status(); \
    (target) = std::move(sextant_result_).value();         \
  } while (false)

// These functions' runs bring no spans.
Status check_no_spans(const AttentionSpec& spec) {
  if (!spec.has_spans()) return Status::ok();
  return unsupported(fmt::format("spec.max_span_len is {}; an op called alone allows 0", spec.max_span_len));
}

}  // namespace

sextant_status sextant_reshape_and_cache(const sextant_device* device, int32_t family, const sextant_tensor* k,
                                         const sextant_tensor* v, const int64_t* slot_mapping, int64_t num_tokens,
                                         const sextant_kv_cache* cache, void* stream) {
  return guarded([&]() -> Status {
    const Ops* ops = nullptr;
    ReshapeAndCacheArgs args;
    SEXTANT_ASSIGN(ops, ops_of(device, family));
    SEXTANT_ASSIGN(args.k, to_view("k", k));
    SEXTANT_ASSIGN(args.v, to_view("v", v));
    SEXTANT_ASSIGN(args.cache, to_cache_view(cache, *device->device, nullptr));
    args.slot_mapping = slot_mapping;
    args.num_tokens = num_tokens;
    return ops->reshape_and_cache(args, {stream});
  });
}

sextant_status sextant_concat_and_cache_mla(const sextant_device* device, int32_t family, const sextant_tensor* kv_c,
                                            const sextant_tensor* k_pe, const int64_t* slot_mapping, int64_t num_tokens,
                                            const sextant_kv_cache* cache, void* stream) {
  return guarded([&]() -> Status {
    const Ops* ops = nullptr;
    ConcatAndCacheMlaArgs args;
    SEXTANT_ASSIGN(ops, ops_of(device, family));
    SEXTANT_ASSIGN(args.kv_c, to_view("kv_c", kv_c));
    SEXTANT_ASSIGN(args.k_pe, to_view("k_pe", k_pe));
    SEXTANT_ASSIGN(args.cache, to_cache_view(cache, *device->device, nullptr));
    args.slot_mapping = slot_mapping;
    args.num_tokens = num_tokens;
    return ops->concat_and_cache_mla(args, {stream});
  });
}

sextant_status sextant_merge_attn_states(const sextant_device* device, int32_t family, const sextant_tensor* prefix_out,
                                         const sextant_tensor* prefix_lse, const sextant_tensor* suffix_out,
                                         const sextant_tensor* suffix_lse, const sextant_tensor* out,
                                         const sextant_tensor* lse, void* stream) {
  return guarded([&]() -> Status {
    const Ops* ops = nullptr;
    MergeAttnStatesArgs args;
    SEXTANT_ASSIGN(ops, ops_of(device, family));
    SEXTANT_ASSIGN(args.prefix_out, to_view("prefix_out", prefix_out));
    SEXTANT_ASSIGN(args.prefix_lse, to_view("prefix_lse", prefix_lse));
    SEXTANT_ASSIGN(args.suffix_out, to_view("suffix_out", suffix_out));
    SEXTANT_ASSIGN(args.suffix_lse, to_view("suffix_lse", suffix_lse));
    SEXTANT_ASSIGN(args.out, to_view("out", out));
    SEXTANT_ASSIGN(args.lse, to_view("lse", lse));
    return ops->merge_attn_states(args, {stream});
  });
}

sextant_status sextant_gather_cache(const sextant_device* device, int32_t family, const sextant_kv_cache* cache,
                                    const int32_t* block_table, int64_t block_table_stride, int32_t num_requests,
                                    const int32_t* key_start_loc, int64_t chunk_begin, int64_t max_rows,
                                    const sextant_tensor* k, const sextant_tensor* v, void* stream) {
  return guarded([&]() -> Status {
    const Ops* ops = nullptr;
    GatherCacheArgs args;
    SEXTANT_ASSIGN(ops, ops_of(device, family));
    SEXTANT_ASSIGN(args.cache, to_cache_view(cache, *device->device, nullptr));
    SEXTANT_ASSIGN(args.k, to_view("k", k));
    SEXTANT_ASSIGN(args.v, to_view("v", v));
    args.block_table = block_table;
    args.block_table_stride = block_table_stride;
    args.num_requests = num_requests;
    args.key_start_loc = key_start_loc;
    args.chunk_begin = chunk_begin;
    args.max_rows = max_rows;
    return ops->gather_cache(args, {stream});
  });
}

sextant_status sextant_copy_blocks(const sextant_device* device, int32_t family, const sextant_kv_cache* cache,
                                   const int64_t* mapping, int64_t num_pairs, void* stream) {
  return guarded([&]() -> Status {
    const Ops* ops = nullptr;
    CopyBlocksArgs args;
    SEXTANT_ASSIGN(ops, ops_of(device, family));
    SEXTANT_ASSIGN(args.cache, to_cache_view(cache, *device->device, nullptr));
    args.mapping = mapping;
    args.num_pairs = num_pairs;
    return ops->copy_blocks(args, {stream});
  });
}

sextant_status sextant_varlen_plan_make(const sextant_device* device, int32_t family,
                                        const sextant_attention_spec* spec, int32_t num_requests,
                                        const int32_t* query_start_loc, const int32_t* key_start_loc, int32_t lse_out,
                                        sextant_attention_plan** plan) {
  return guarded([&]() -> Status {
    const Ops* ops = nullptr;
    SEXTANT_ASSIGN(ops, ops_of(device, family));
    SEXTANT_RETURN_IF_ERROR(check_argument("plan", plan));
    SEXTANT_RETURN_IF_ERROR(check_argument("query_start_loc", query_start_loc));
    SEXTANT_RETURN_IF_ERROR(check_argument("key_start_loc", key_start_loc));
    if (num_requests < 0) return invalid_argument(fmt::format("num_requests is {}; allowed: >= 0", num_requests));
    AttentionPlanArgs args;
    args.op = AttentionOp::kVarlen;
    SEXTANT_ASSIGN(args.spec, to_spec(spec));
    SEXTANT_RETURN_IF_ERROR(check_no_spans(args.spec));
    const auto requests = static_cast<size_t>(num_requests);
    std::vector<int32_t> seq_lens(requests);
    SEXTANT_RETURN_IF_ERROR(check_key_starts({key_start_loc, requests + 1}));
    for (size_t b = 0; b < requests; ++b) seq_lens[b] = key_start_loc[b + 1] - key_start_loc[b];
    args.query_start_loc = {query_start_loc, requests + 1};
    args.key_start_loc = {key_start_loc, requests + 1};
    args.seq_lens = seq_lens;
    args.max_packed_keys = key_start_loc[requests];
    args.lse_out = lse_out != 0;
    args.out_dtype = args.spec.dtype;
    AttentionPlanPtr made;
    SEXTANT_ASSIGN(made, ops->plan_attention(args));
    *plan = new sextant_attention_plan{device->device, ops, std::move(made)};
    return Status::ok();
  });
}

void sextant_attention_plan_free(sextant_attention_plan* plan) { delete plan; }
size_t sextant_attention_plan_workspace_bytes(const sextant_attention_plan* plan) {
  return plan ? plan->plan->workspace_bytes() : 0;
}

sextant_status sextant_varlen_run(const sextant_attention_plan* plan, const sextant_tensor* q, const sextant_tensor* k,
                                  const sextant_tensor* v, const sextant_tensor* out, const sextant_tensor* lse,
                                  const int32_t* query_start_loc, const int32_t* key_start_loc, const int32_t* seq_lens,
                                  const float* sinks, const float* alibi_slopes, void* workspace, void* stream) {
  return guarded([&]() -> Status {
    SEXTANT_RETURN_IF_ERROR(check_argument("plan", plan));
    AttentionArgs args;
    SEXTANT_ASSIGN(args.q, to_view("q", q));
    SEXTANT_ASSIGN(args.k, to_view("k", k));
    SEXTANT_ASSIGN(args.v, to_view("v", v));
    SEXTANT_ASSIGN(args.out, to_view("out", out));
    SEXTANT_ASSIGN(args.lse, to_view("lse", lse));
    args.query_start_loc = query_start_loc;
    args.key_start_loc = key_start_loc;
    args.seq_lens = seq_lens;
    args.sinks = sinks;
    args.alibi_slopes = alibi_slopes;
    args.workspace = workspace;
    return plan->ops->run_attention(*plan->plan, args, {stream});
  });
}

sextant_status sextant_mla_decode_plan_make(const sextant_device* device, int32_t family,
                                            const sextant_attention_spec* spec, const sextant_kv_cache_spec* cache,
                                            int32_t num_requests, const int32_t* query_start_loc,
                                            const int32_t* seq_lens, int32_t lse_out, sextant_attention_plan** plan) {
  return guarded([&]() -> Status {
    const Ops* ops = nullptr;
    SEXTANT_ASSIGN(ops, ops_of(device, family));
    SEXTANT_RETURN_IF_ERROR(check_argument("plan", plan));
    SEXTANT_RETURN_IF_ERROR(check_argument("query_start_loc", query_start_loc));
    if (num_requests < 0) return invalid_argument(fmt::format("num_requests is {}; allowed: >= 0", num_requests));
    if (num_requests > 0) SEXTANT_RETURN_IF_ERROR(check_argument("seq_lens", seq_lens));
    AttentionPlanArgs args;
    args.op = AttentionOp::kMlaDecode;
    SEXTANT_ASSIGN(args.spec, to_spec(spec));
    SEXTANT_RETURN_IF_ERROR(check_no_spans(args.spec));
    SEXTANT_ASSIGN(args.cache, to_cache_spec(cache, *device->device, nullptr));
    const auto requests = static_cast<size_t>(num_requests);
    args.query_start_loc = {query_start_loc, requests + 1};
    args.seq_lens = {seq_lens, requests};
    args.lse_out = lse_out != 0;
    args.out_dtype = args.spec.dtype;
    AttentionPlanPtr made;
    SEXTANT_ASSIGN(made, ops->plan_attention(args));
    *plan = new sextant_attention_plan{device->device, ops, std::move(made)};
    return Status::ok();
  });
}

sextant_status sextant_mla_decode_run(const sextant_attention_plan* plan, const sextant_tensor* q,
                                      const sextant_kv_cache* cache, const int32_t* block_table,
                                      int64_t block_table_stride, const sextant_tensor* out, const sextant_tensor* lse,
                                      const int32_t* query_start_loc, const int32_t* seq_lens, void* workspace,
                                      void* stream) {
  return guarded([&]() -> Status {
    SEXTANT_RETURN_IF_ERROR(check_argument("plan", plan));
    AttentionArgs args;
    SEXTANT_ASSIGN(args.q, to_view("q", q));
    SEXTANT_ASSIGN(args.out, to_view("out", out));
    SEXTANT_ASSIGN(args.lse, to_view("lse", lse));
    SEXTANT_ASSIGN(args.cache, to_cache_view(cache, *plan->device, nullptr));
    args.block_table = block_table;
    args.block_table_stride = block_table_stride;
    args.query_start_loc = query_start_loc;
    args.seq_lens = seq_lens;
    args.workspace = workspace;
    return plan->ops->run_attention(*plan->plan, args, {stream});
  });
}
