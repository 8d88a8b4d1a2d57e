// What plan and run do for every backend: check first, then hand over to the strategy.
#include "sextant/backend.h"

#include <fmt/format.h>

#include <cstdint>

#include "backends/log.h"
#include "backends/run_checks.h"
#include "ops/array_checks.h"
#include "ops/checks.h"

namespace sextant {

const char* to_string(BackendCategory category) { return category == BackendCategory::kMha ? "MHA" : "MLA"; }

namespace {

Status check_options(const PlanOptions& options) {
  if (options.decode_max_query_len < 0)
    return invalid_argument(
        fmt::format("options.decode_max_query_len is {}; allowed: >= 0", options.decode_max_query_len));
  if (options.chunk_workspace_rows < 0)
    return invalid_argument(
        fmt::format("options.chunk_workspace_rows is {}; allowed: >= 0", options.chunk_workspace_rows));
  if (options.bounds.max_query_len < 0)
    return invalid_argument(
        fmt::format("options.bounds.max_query_len is {}; allowed: >= 0", options.bounds.max_query_len));
  if (options.bounds.max_seq_len < 0)
    return invalid_argument(fmt::format("options.bounds.max_seq_len is {}; allowed: >= 0", options.bounds.max_seq_len));
  return Status::ok();
}

// The cache must be one that this spec writes and reads.
Status check_cache_fits(const AttentionSpec& spec, const KvCacheSpec& cache) {
  if (!spec.mla.enabled())
    return check_cache_serves(cache, false, spec.num_kv_heads, spec.head_dim, spec.value_head_dim(), spec.dtype);
  const MlaSpec& mla = spec.mla;
  return check_cache_serves(cache, true, 1, mla.kv_lora_rank + mla.qk_rope_head_dim, mla.kv_lora_rank, spec.dtype);
}

}  // namespace

Result<PlanPtr> Backend::plan(const Device& device, const PlanRequest& request) const {
  return logged({LogEvent::Kind::kPlan, this, &request, nullptr, {}, 0}, [&](LogEvent& event) {
    auto plan = checked_plan(device, request);
    if (plan) event.plan = plan->get();
    return plan;
  });
}

KvCacheSpec with_layout(KvCacheSpec cache, const Backend& backend, const DeviceInfo& device) {
  if (cache.layout != KvLayout::kPreferred) return cache;
  cache.layout = backend.preferred_layout(device, cache.dtype);
  // Panels of the packed layout hold 16 tokens. In blocks of other sizes they are partly empty and have to be brought
  // together at every step: rows of tokens are then read twice as fast (blocks of 8) or more (blocks of 1).
  constexpr int32_t kPanelTokens = 16;
  if (cache.layout == KvLayout::kPacked && cache.block_size % kPanelTokens != 0) cache.layout = KvLayout::kNHD;
  return cache;
}

Result<PlanPtr> Backend::checked_plan(const Device& device, const PlanRequest& asked) const {
  PlanRequest request = asked;
  request.cache = with_layout(asked.cache, *this, device.info());
  SEXTANT_RETURN_IF_ERROR(validate(request.spec));
  SEXTANT_RETURN_IF_ERROR(check_options(request.options));
  SEXTANT_RETURN_IF_ERROR(validate(request.batch, request.cache, request.spec));
  if (!request.batch.slot_mapping.empty() && !request.spec.mla.enabled())
    SEXTANT_RETURN_IF_ERROR(check_keys_have_slots(request.batch.query_start_loc, request.batch.seq_lens,
                                                  request.batch.slot_mapping, request.options.decode_max_query_len));
  const std::vector<std::string> reasons = reasons_against(request.spec, request.cache, device);
  if (!reasons.empty()) {
    std::string text = info().name + " cannot serve this:";
    for (const std::string& reason : reasons) text += " " + reason + ";";
    text.pop_back();
    return unsupported(text);
  }
  SEXTANT_RETURN_IF_ERROR(check_cache_fits(request.spec, request.cache));

  // The plan outlives the caller's arrays: give the strategy copies that the plan will own.
  std::vector<int32_t> query_start_loc(request.batch.query_start_loc.begin(), request.batch.query_start_loc.end());
  std::vector<int32_t> seq_lens(request.batch.seq_lens.begin(), request.batch.seq_lens.end());
  PlanRequest own = request;
  own.batch.query_start_loc = query_start_loc;
  own.batch.seq_lens = seq_lens;
  own.batch.block_table = {};
  own.batch.slot_mapping = {};
  own.batch.token_spans = {};
  auto made = make_plan(device, own);
  if (!made) return made.status();
  std::shared_ptr<Plan> plan = std::move(made).value();
  plan->request_ = own;
  plan->query_start_loc_ = std::move(query_start_loc);  // moving keeps the buffers that the spans point to
  plan->seq_lens_ = std::move(seq_lens);
  plan->backend_ = this;
  plan->device_ = device.weak_from_this().lock();
  plan->host_readable_ = device.info().host_readable();
  return PlanPtr(plan);
}

Status Plan::run(const RunTensors& tensors, Stream stream) const {
  return logged({LogEvent::Kind::kRun, backend_, &request_, this, {}, 0}, [&](LogEvent&) {
    if (request_.batch.num_tokens() == 0) return Status::ok();
    SEXTANT_RETURN_IF_ERROR(check_run(request_, workspace_bytes_, host_readable_, tensors));
    return launch(tensors, stream);
  });
}

Status Backend::run(const Plan& plan, const RunTensors& tensors, Stream stream) const {
  if (&plan.backend() != this)
    return invalid_argument(fmt::format("plan is of {}; {} allows its own (plan.run() needs no backend)",
                                        plan.backend().info().name, info().name));
  return plan.run(tensors, stream);
}

}  // namespace sextant
