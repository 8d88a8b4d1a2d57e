// Plans and runs what the two MLA backends have in common.
#include "backends/mla_backend.h"

#include <fmt/format.h>

#include "backends/mha_backend.h"
#include "backends/mla_decode_path.h"
#include "backends/mla_prefill_path.h"

namespace sextant {
namespace {

class MlaPlan : public Plan {
 public:
  const Ops* ops = nullptr;
  std::unique_ptr<MlaDecodePath> decode;
  std::unique_ptr<MlaPrefillPath> prefill;
  Status launch(const RunTensors& tensors, Stream stream) const override;
  void finish(size_t workspace_bytes, std::vector<std::string> steps) {
    workspace_bytes_ = workspace_bytes;
    steps_ = std::move(steps);
  }
};

Status MlaPlan::launch(const RunTensors& tensors, Stream stream) const {
  if (tensors.slot_mapping != nullptr) {
    const ConcatAndCacheMlaArgs write{tensors.kv_c, tensors.k_pe, tensors.slot_mapping, request().batch.num_tokens(),
                                      tensors.cache};
    SEXTANT_RETURN_IF_ERROR(ops->concat_and_cache_mla(write, stream));
  }
  if (decode) SEXTANT_RETURN_IF_ERROR(decode->launch(tensors, stream));
  return prefill ? prefill->launch(tensors, stream) : Status::ok();
}

}  // namespace

std::vector<std::string> MlaBackend::reasons_against(const AttentionSpec& spec, const KvCacheSpec& cache,
                                                     const Device& device) const {
  if (!spec.mla.enabled()) return {"the model has no latent KV; this backend serves multi-head latent attention"};
  if (const Status valid = validate(cache); !valid.is_ok()) return {valid.message()};
  if (spec.has_fp8_queries())
    return {fmt::format("query_dtype is {}; MLA allows {}, because its queries are multiplied by weights first",
                        to_string(spec.query_type()), to_string(spec.dtype))};
  PlanRequest request;
  request.spec = spec;
  request.cache = cache;
  const PlanRequest mha = mla_prefill_request(request, prefill_value_dim(spec.mla));
  const AttentionPlanArgs uses[] = {plan_args(AttentionOp::kVarlen, mha), mla_decode_args(request)};
  return op_reasons(device.ops(info().family), uses);
}

Result<std::shared_ptr<Plan>> MlaBackend::make_plan(const Device& device, const PlanRequest& request) const {
  auto plan = std::make_shared<MlaPlan>();
  plan->ops = &device.ops(info().family).unchecked();
  WorkspaceLayout layout;
  std::vector<std::string> steps = {fmt::format("concat_and_cache_mla: {} tokens", request.batch.num_tokens())};
  if (count_requests(request.batch, decode_filter(request.options)) > 0) {
    auto decode = MlaDecodePath::make(*plan->ops, request, decode_split(device, request), layout);
    if (!decode) return decode.status();
    plan->decode = std::move(decode).value();
    steps.insert(steps.end(), plan->decode->steps.begin(), plan->decode->steps.end());
  }
  if (count_requests(request.batch, prefill_filter(request.options)) > 0) {
    auto prefill = MlaPrefillPath::make(*plan->ops, request, prefill_value_dim(request.spec.mla), layout);
    if (!prefill) return prefill.status();
    plan->prefill = std::move(prefill).value();
    steps.insert(steps.end(), plan->prefill->steps.begin(), plan->prefill->steps.end());
  }
  plan->finish(layout.total(), std::move(steps));
  return std::shared_ptr<Plan>(plan);
}

}  // namespace sextant
