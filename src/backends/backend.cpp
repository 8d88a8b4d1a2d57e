// What plan and run do for every backend: check first, then hand over to the strategy.
#include "sextant/backend.h"

#include <fmt/format.h>

#include <cstdint>

#include "backends/run_checks.h"

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
  const bool mla = spec.mla.enabled();
  const int32_t heads = mla ? 1 : spec.num_kv_heads;
  const int32_t dim = mla ? spec.mla.kv_lora_rank + spec.mla.qk_rope_head_dim : spec.head_dim;
  const int32_t dim_v = mla ? spec.mla.kv_lora_rank : spec.value_head_dim();
  if (cache.is_latent() != mla)
    return invalid_argument(fmt::format("cache.layout is {}; this spec allows {}", to_string(cache.layout),
                                        mla ? "latent" : "every layout but latent"));
  if (cache.num_kv_heads != heads || cache.head_dim != dim || cache.head_dim_v != dim_v)
    return invalid_argument(
        fmt::format("cache has num_kv_heads {}, head_dim {}, head_dim_v {}; this spec allows {}, {}, {}",
                    cache.num_kv_heads, cache.head_dim, cache.head_dim_v, heads, dim, dim_v));
  if (!is_fp8(cache.dtype) && cache.dtype != spec.dtype)
    return invalid_argument(fmt::format("cache.dtype is {}; allowed: {} (spec.dtype) or fp8_*", to_string(cache.dtype),
                                        to_string(spec.dtype)));
  return Status::ok();
}

}  // namespace

Result<PlanPtr> Backend::plan(const Device& device, const PlanRequest& request) const {
  SEXTANT_RETURN_IF_ERROR(validate(request.spec));
  SEXTANT_RETURN_IF_ERROR(check_options(request.options));
  SEXTANT_RETURN_IF_ERROR(validate(request.batch, request.cache));
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
  auto made = make_plan(device, own);
  if (!made) return made.status();
  std::shared_ptr<Plan> plan = std::move(made).value();
  plan->request_ = own;
  plan->query_start_loc_ = std::move(query_start_loc);  // moving keeps the buffers that the spans point to
  plan->seq_lens_ = std::move(seq_lens);
  return PlanPtr(plan);
}

Status Backend::run(const Plan& plan, const RunTensors& tensors, Stream stream) const {
  SEXTANT_RETURN_IF_ERROR(check_run(plan, tensors));
  if (plan.request().batch.num_tokens() == 0) return Status::ok();
  return launch(plan, tensors, stream);
}

}  // namespace sextant
