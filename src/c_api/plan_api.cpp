// plan and run of a backend.
#include <fmt/format.h>

#include <cstddef>
#include <limits>

#include "c_api/convert.h"
#include "c_api/fields.h"
#include "sextant/log.h"

using namespace sextant;         // NOLINT(google-build-using-namespace): this file only glues
using namespace sextant::c_api;  // NOLINT(google-build-using-namespace)

struct sextant_plan {
  std::shared_ptr<Device> device;
  PlanPtr plan;
  std::string description;
};

namespace {

Status to_batch(const sextant_batch* from, BatchMetadata& to) {
  const auto batch = read_struct("batch", from, offsetof(sextant_batch, shared_prefix_len) + sizeof(int32_t));
  if (!batch) return batch.status();
  if (batch->num_requests < 0)
    return invalid_argument(fmt::format("batch.num_requests is {}; allowed: >= 0", batch->num_requests));
  SEXTANT_RETURN_IF_ERROR(check_argument("batch.query_start_loc", batch->query_start_loc));
  if (batch->num_requests > 0) SEXTANT_RETURN_IF_ERROR(check_argument("batch.seq_lens", batch->seq_lens));
  const auto requests = static_cast<size_t>(batch->num_requests);
  to.query_start_loc = {batch->query_start_loc, requests + 1};
  to.seq_lens = {batch->seq_lens, requests};
  to.max_blocks_per_request = batch->max_blocks_per_request;
  if (batch->max_blocks_per_request < 0 || batch->max_blocks_per_request > std::numeric_limits<int32_t>::max())
    return invalid_argument(fmt::format("batch.max_blocks_per_request is {}; allowed: 0..{}",
                                        batch->max_blocks_per_request, std::numeric_limits<int32_t>::max()));
  if (batch->block_table != nullptr)
    to.block_table = {batch->block_table, requests * static_cast<size_t>(batch->max_blocks_per_request)};
  const int32_t tokens = batch->query_start_loc[requests];
  if (batch->slot_mapping != nullptr && tokens > 0)
    to.slot_mapping = {batch->slot_mapping, static_cast<size_t>(tokens)};
  to.shared_prefix_len = batch->shared_prefix_len;
  if (batch->token_spans != nullptr && tokens > 0)
    to.token_spans = {batch->token_spans, 2 * static_cast<size_t>(tokens)};
  return Status::ok();
}

Status to_options(const sextant_plan_options* from, PlanOptions& to) {
  if (from == nullptr) return Status::ok();
  constexpr size_t kOldest = offsetof(sextant_plan_options, chunk_workspace_rows) + sizeof(int64_t);
  const auto options = read_struct("options", from, kOldest);
  if (!options) return options.status();
  if (options->decode_max_query_len < -1)
    return invalid_argument(
        fmt::format("options.decode_max_query_len is {}; allowed: >= -1", options->decode_max_query_len));
  SEXTANT_RETURN_IF_ERROR(copy_fields("options", *options, to));
  if (options->decode_max_query_len == -1) to.decode_max_query_len = 0;
  return Status::ok();
}

Status to_tensors(const sextant_run_tensors* tensors, const sextant_plan& plan, RunTensors& to) {
  const auto from = read_tensors(tensors);
  if (!from) return from.status();
  const struct {
    const char* field;
    const sextant_tensor* from;
    TensorView* to;
  } views[] = {{"q", &from->q, &to.q},          {"k", &from->k, &to.k},
               {"v", &from->v, &to.v},          {"out", &from->out, &to.out},
               {"lse", &from->lse, &to.lse},    {"kv_c", &from->kv_c, &to.kv_c},
               {"k_pe", &from->k_pe, &to.k_pe}, {"kv_b_proj", &from->kv_b_proj, &to.kv_b_proj}};
  for (const auto& entry : views) {
    auto view = to_view(entry.field, entry.from);
    if (!view) return view.status();
    *entry.to = *view;
  }
  auto cache = to_cache_view(&from->cache, *plan.device, &plan.plan->backend());
  if (!cache) return cache.status();
  to.cache = *cache;
  to.query_start_loc = from->query_start_loc;
  to.seq_lens = from->seq_lens;
  to.block_table = from->block_table;
  to.block_table_stride = from->block_table_stride;
  to.slot_mapping = from->slot_mapping;
  to.sinks = from->sinks;
  to.alibi_slopes = from->alibi_slopes;
  to.workspace = from->workspace;
  to.workspace_bytes = from->workspace_bytes;
  if (from->num_q_scales < 0)
    return invalid_argument(fmt::format("num_q_scales is {}; allowed: >= 0", from->num_q_scales));
  to.q_scale = from->q_scale;
  to.num_q_scales = from->num_q_scales > 0 ? from->num_q_scales : 1;
  to.token_spans = from->token_spans;
  to.next_layer = from->next_layer != 0;
  return Status::ok();
}

}  // namespace

void sextant_set_log(sextant_log_sink sink, void* user) {
  if (sink == nullptr) return set_log({});
  set_log([sink, user](const LogEvent& event) { sink(to_json(event).c_str(), user); });
}

sextant_status sextant_plan_make(const sextant_device* device, const char* backend, const sextant_attention_spec* spec,
                                 const sextant_kv_cache_spec* cache, const sextant_batch* batch,
                                 const sextant_plan_options* options, sextant_plan** plan) {
  return guarded([&]() -> Status {
    SEXTANT_RETURN_IF_ERROR(check_argument("device", device));
    SEXTANT_RETURN_IF_ERROR(check_argument("backend", backend));
    SEXTANT_RETURN_IF_ERROR(check_argument("plan", plan));
    auto found = find_backend(backend);
    if (!found) return found.status();
    PlanRequest request;
    auto attention = to_spec(spec);
    if (!attention) return attention.status();
    request.spec = *attention;
    auto cache_spec = to_cache_spec(cache, *device->device, *found);
    if (!cache_spec) return cache_spec.status();
    request.cache = *cache_spec;
    SEXTANT_RETURN_IF_ERROR(to_batch(batch, request.batch));
    SEXTANT_RETURN_IF_ERROR(to_options(options, request.options));
    auto made = (*found)->plan(*device->device, request);
    if (!made) return made.status();
    std::string description;
    for (const std::string& step : (*made)->steps()) description += (description.empty() ? "" : "\n") + step;
    *plan = new sextant_plan{device->device, std::move(made).value(), std::move(description)};
    return Status::ok();
  });
}

void sextant_plan_free(sextant_plan* plan) { delete plan; }
size_t sextant_plan_workspace_bytes(const sextant_plan* plan) { return plan ? plan->plan->workspace_bytes() : 0; }
const char* sextant_plan_describe(const sextant_plan* plan) { return plan ? plan->description.c_str() : ""; }

sextant_status sextant_plan_run(const sextant_plan* plan, const sextant_run_tensors* tensors, void* stream) {
  return guarded([&]() -> Status {
    SEXTANT_RETURN_IF_ERROR(check_argument("plan", plan));
    RunTensors run;
    SEXTANT_RETURN_IF_ERROR(to_tensors(tensors, *plan, run));
    return plan->plan->run(run, {stream});
  });
}
