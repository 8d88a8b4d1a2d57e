// Plans and runs a backend's step of a replay, and keeps its times.
#include "replay_lane.h"

#include <algorithm>
#include <chrono>

#include "sextant/model.h"

namespace sextant::cli {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kSpareRows = 61;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

KvCacheSpec cache_spec(const AttentionSpec& spec, KvFormat format, const ReplayOptions& options, int64_t num_blocks,
                       const Backend& backend, const Device& device) {
  return with_layout(kv_cache_for(spec, format, options.scheduler.block_size, num_blocks), backend, device.info());
}

}  // namespace

double BackendReplay::total_ms() const {
  double total = 0;
  for (const double ms : step_ms) total += ms;
  return total;
}

double BackendReplay::quantile(double at) const {
  if (step_ms.empty()) return 0;
  std::vector<double> sorted = step_ms;
  std::sort(sorted.begin(), sorted.end());
  return sorted[std::min(sorted.size() - 1, static_cast<size_t>(at * static_cast<double>(sorted.size())))];
}

namespace {

// Which layers run: the first `layers` served ones, or one of each kind (0).
std::vector<size_t> layers_to_run(const LoadedModel& model, int32_t layers) {
  std::vector<size_t> chosen;
  for (const LayerKind& kind : model.kinds)
    for (const int32_t layer : kind.layers) {
      chosen.push_back(static_cast<size_t>(layer));
      if (layers == 0) break;
    }
  std::sort(chosen.begin(), chosen.end());
  if (layers > 0 && chosen.size() > static_cast<size_t>(layers)) chosen.resize(static_cast<size_t>(layers));
  return chosen;
}

// Why a kind is not replayed though a backend serves it.
std::string not_replayed(const LoadedModel& model, const LayerKind& kind) {
  if (const Status valid = validate(kind.spec); !valid.is_ok()) return valid.message();
  if (!kind.spec.causal) return "not causal: a prompt cannot run in chunks";
  if (kind.spec.mla.enabled() != model.kinds.front().spec.mla.enabled())
    return "served by backends of another category than the model's first kind";
  return "";
}

}  // namespace

Result<ReplayInputs> make_replay_inputs(Device& device, const LoadedModel& model, const ReplayOptions& options,
                                        ModelReplay& replay) {
  ReplayInputs inputs;
  inputs.spare_rows = kSpareRows;
  LoadedModel replayed = model;
  replayed.kinds.clear();
  for (const LayerKind& kind : model.kinds) {
    const std::string why = not_replayed(model, kind);
    if (why.empty())
      replayed.kinds.push_back(kind);
    else
      replay.kinds.push_back({kind, 0, why, !validate(kind.spec).is_ok()});
  }
  const std::vector<size_t> layers = layers_to_run(replayed, options.layers);
  inputs.kind_of_layer.resize(layers.size());
  for (const LayerKind& kind : replayed.kinds) {
    int32_t run = 0;
    for (size_t i = 0; i < layers.size(); ++i)
      if (std::find(kind.layers.begin(), kind.layers.end(), static_cast<int32_t>(layers[i])) != kind.layers.end()) {
        inputs.kind_of_layer[i] = inputs.kinds.size();
        ++run;
      }
    replay.kinds.push_back({kind, run, run == 0 ? "beyond --layers" : "", false});
    if (run == 0) continue;
    auto made = AttentionInputs::make(device, kind.spec, options.scheduler.max_num_batched_tokens + kSpareRows,
                                      options.seed + inputs.kinds.size() * 16);
    if (!made) return made.status();
    inputs.kinds.push_back(kind.spec);
    inputs.inputs.push_back(std::move(*made));
    const auto group = std::find(inputs.windows.begin(), inputs.windows.end(), kind.spec.sliding_window);
    inputs.group_of_kind.push_back(static_cast<size_t>(group - inputs.windows.begin()));
    if (group == inputs.windows.end()) inputs.windows.push_back(kind.spec.sliding_window);
  }
  return inputs;
}

Result<ReplayLane> ReplayLane::make(Device& device, const Backend& backend, const ReplayInputs& inputs,
                                    KvFormat kv_format, const ReplayOptions& options, int64_t num_blocks) {
  ReplayLane lane;
  lane.result_.backend = &backend;
  lane.out_.resize(inputs.kinds.size());
  for (const size_t kind : inputs.kind_of_layer) {
    const KvCacheSpec spec = cache_spec(inputs.kinds[kind], kv_format, options, num_blocks, backend, device);
    auto cache = PagedCache::make(device, spec, /*random=*/false, 0);
    if (!cache) return cache.status();
    lane.caches_.push_back(std::move(*cache));
  }
  return lane;
}

Status ReplayLane::run_step(Device& device, const ReplayInputs& inputs, const std::vector<BatchArrays>& host,
                            const std::vector<BatchOnDevice>& batch, int64_t step) {
  const Backend& backend = *result_.backend;
  const int64_t tokens = host.front().query_start_loc.back();
  const auto start = Clock::now();
  std::vector<PlanPtr> plans(inputs.kinds.size());  // one a kind: all layers of the kind share it
  for (size_t kind = 0; kind < inputs.kinds.size(); ++kind) {
    PlanRequest request;
    request.spec = inputs.kinds[kind];
    const size_t layer = static_cast<size_t>(std::find(inputs.kind_of_layer.begin(), inputs.kind_of_layer.end(), kind) -
                                             inputs.kind_of_layer.begin());
    request.cache = caches_[layer].spec();
    request.batch = host[inputs.group_of_kind[kind]].metadata();
    auto plan = backend.plan(device, request);
    if (!plan) return plan.status();
    plans[kind] = *plan;
  }
  const double plan_ms = milliseconds_since(start);
  for (size_t kind = 0; kind < inputs.kinds.size(); ++kind) {  // memory is an engine's own affair: not timed
    const AttentionSpec& spec = inputs.kinds[kind];
    SEXTANT_RETURN_IF_ERROR(workspace_.reserve(device, plans[kind]->workspace_bytes()));
    SEXTANT_RETURN_IF_ERROR(out_[kind].reserve(
        device, static_cast<size_t>(tokens * spec.num_heads * spec.value_head_dim()) * size_of(spec.dtype)));
  }
  SEXTANT_RETURN_IF_ERROR(device.synchronize({}));
  const auto run_start = Clock::now();
  for (size_t layer = 0; layer < caches_.size(); ++layer) {
    const size_t kind = inputs.kind_of_layer[layer];
    const AttentionSpec& spec = inputs.kinds[kind];
    RunTensors tensors;
    inputs.inputs[kind].bind((step * 17 + static_cast<int64_t>(layer) * 5) % inputs.spare_rows, tokens, tensors);
    tensors.out = make_view(out_[kind].data(), spec.dtype, {tokens, spec.num_heads, spec.value_head_dim()});
    batch[inputs.group_of_kind[kind]].bind(tensors);
    tensors.cache = caches_[layer].view();
    tensors.workspace = workspace_.data();
    tensors.workspace_bytes = workspace_.bytes();
    SEXTANT_RETURN_IF_ERROR(plans[kind]->run(tensors, {}));
  }
  SEXTANT_RETURN_IF_ERROR(device.synchronize({}));
  result_.step_ms.push_back(plan_ms + milliseconds_since(run_start));
  result_.plan_ms += plan_ms;
  return Status::ok();
}

Status ReplayLane::read_row(Device& device, const ReplayInputs& inputs, size_t kind, int64_t token,
                            std::vector<uint8_t>& row) const {
  const AttentionSpec& spec = inputs.kinds[kind];
  row.resize(static_cast<size_t>(spec.num_heads * spec.value_head_dim()) * size_of(spec.dtype));
  const auto* out = static_cast<const uint8_t*>(out_[kind].data());
  SEXTANT_RETURN_IF_ERROR(
      device.copy_to_host(row.data(), out + static_cast<size_t>(token) * row.size(), row.size(), {}));
  return device.synchronize({});
}

}  // namespace sextant::cli
