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

KvCacheSpec cache_spec(const AttentionSpec& spec, DType dtype, const ReplayOptions& options, int64_t num_blocks,
                       const Backend& backend, const Device& device) {
  KvCacheSpec cache = kv_cache_for(spec, dtype, options.scheduler.block_size, num_blocks);
  cache.layout = backend.preferred_layout(device.info(), dtype);
  return cache;
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

Result<ReplayInputs> make_replay_inputs(Device& device, const LoadedModel& model, const ReplayOptions& options) {
  ReplayInputs inputs;
  inputs.spare_rows = kSpareRows;
  const auto layers = std::min<size_t>(static_cast<size_t>(options.layers), model.shape.layers.size());
  for (const LayerKind& kind : model.kinds) {
    bool used = false;
    for (const int32_t layer : kind.layers) {
      if (static_cast<size_t>(layer) >= layers) continue;
      inputs.kind_of_layer.resize(layers);
      inputs.kind_of_layer[static_cast<size_t>(layer)] = inputs.kinds.size();
      used = true;
    }
    if (!used) continue;
    auto made = AttentionInputs::make(device, kind.spec, options.scheduler.max_num_batched_tokens + kSpareRows,
                                      options.seed + inputs.kinds.size() * 16);
    if (!made) return made.status();
    inputs.kinds.push_back(kind.spec);
    inputs.inputs.push_back(std::move(*made));
  }
  return inputs;
}

Result<ReplayLane> ReplayLane::make(Device& device, const Backend& backend, const ReplayInputs& inputs,
                                    DType cache_dtype, const ReplayOptions& options, int64_t num_blocks) {
  ReplayLane lane;
  lane.result_.backend = &backend;
  for (const size_t kind : inputs.kind_of_layer) {
    const KvCacheSpec spec = cache_spec(inputs.kinds[kind], cache_dtype, options, num_blocks, backend, device);
    auto cache = PagedCache::make(device, spec, /*random=*/false, 0);
    if (!cache) return cache.status();
    lane.caches_.push_back(std::move(*cache));
  }
  return lane;
}

Status ReplayLane::run_step(Device& device, const ReplayInputs& inputs, const BatchArrays& host,
                            const BatchOnDevice& batch, int64_t step) {
  const Backend& backend = *result_.backend;
  const int64_t tokens = host.query_start_loc.back();
  const auto start = Clock::now();
  std::vector<PlanPtr> plans(inputs.kinds.size());  // one a kind: all layers of the kind share it
  for (size_t kind = 0; kind < inputs.kinds.size(); ++kind) {
    PlanRequest request;
    request.spec = inputs.kinds[kind];
    const size_t layer = static_cast<size_t>(std::find(inputs.kind_of_layer.begin(), inputs.kind_of_layer.end(), kind) -
                                             inputs.kind_of_layer.begin());
    request.cache = caches_[layer].spec();
    request.batch = host.metadata();
    auto plan = backend.plan(device, request);
    if (!plan) return plan.status();
    plans[kind] = *plan;
  }
  const double plan_ms = milliseconds_since(start);
  for (size_t kind = 0; kind < inputs.kinds.size(); ++kind) {  // memory is an engine's own affair: not timed
    const AttentionSpec& spec = inputs.kinds[kind];
    SEXTANT_RETURN_IF_ERROR(workspace_.reserve(device, plans[kind]->workspace_bytes()));
    SEXTANT_RETURN_IF_ERROR(out_.reserve(
        device, static_cast<size_t>(tokens * spec.num_heads * spec.value_head_dim()) * size_of(spec.dtype)));
  }
  SEXTANT_RETURN_IF_ERROR(device.synchronize({}));
  const auto run_start = Clock::now();
  for (size_t layer = 0; layer < caches_.size(); ++layer) {
    const size_t kind = inputs.kind_of_layer[layer];
    const AttentionSpec& spec = inputs.kinds[kind];
    RunTensors tensors;
    inputs.inputs[kind].bind((step * 17 + static_cast<int64_t>(layer) * 5) % inputs.spare_rows, tokens, tensors);
    tensors.out = make_view(out_.data(), spec.dtype, {tokens, spec.num_heads, spec.value_head_dim()});
    batch.bind(tensors);
    tensors.cache = caches_[layer].view();
    tensors.workspace = workspace_.data();
    tensors.workspace_bytes = workspace_.bytes();
    SEXTANT_RETURN_IF_ERROR(backend.run(*plans[kind], tensors, {}));
  }
  SEXTANT_RETURN_IF_ERROR(device.synchronize({}));
  result_.step_ms.push_back(plan_ms + milliseconds_since(run_start));
  result_.plan_ms += plan_ms;
  return Status::ok();
}

Status ReplayLane::read_row(Device& device, const ReplayInputs& inputs, int64_t token,
                            std::vector<uint8_t>& row) const {
  const AttentionSpec& spec = inputs.kinds[inputs.kind_of_layer.back()];
  row.resize(static_cast<size_t>(spec.num_heads * spec.value_head_dim()) * size_of(spec.dtype));
  const auto* out = static_cast<const uint8_t*>(out_.data());
  SEXTANT_RETURN_IF_ERROR(
      device.copy_to_host(row.data(), out + static_cast<size_t>(token) * row.size(), row.size(), {}));
  return device.synchronize({});
}

}  // namespace sextant::cli
