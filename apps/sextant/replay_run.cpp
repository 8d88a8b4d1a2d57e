// Walks a trace step by step and compares the backends' rows.
#include "replay_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "bench_measure.h"
#include "machine.h"
#include "reference/numbers.h"
#include "replay_lane.h"
#include "sextant/model.h"

namespace sextant::cli {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kMemoryShare = 0.4;  // of what is available, for all caches together

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// What all backends' caches of all layers need for one block.
int64_t bytes_a_block(const ReplayInputs& inputs, KvFormat kv_format, int32_t block_size, size_t backends) {
  int64_t bytes = 0;
  for (const size_t kind : inputs.kind_of_layer)
    bytes += block_size * token_bytes(kv_cache_for(inputs.kinds[kind], kv_format, block_size, 1));
  return bytes * static_cast<int64_t>(backends);
}

// As many blocks as an unbounded cache would use, if they fit into memory.
Result<int64_t> choose_num_blocks(const Device& device, const Trace& trace, const ReplayOptions& options,
                                  int64_t block_bytes) {
  if (options.scheduler.num_blocks > 0) return options.scheduler.num_blocks;
  auto unbounded = dry_run(trace, options.scheduler, false);
  if (!unbounded) return unbounded.status();
  const bool cpu = device.info().kind == DeviceKind::kCpu;
  const int64_t memory = cpu ? this_machine().available_bytes : device.info().memory_bytes;
  const auto fit = static_cast<int64_t>(kMemoryShare * static_cast<double>(memory)) / std::max<int64_t>(block_bytes, 1);
  return std::max<int64_t>(std::min(unbounded->blocks_used, fit), 1);
}

// First and last token of the step, and the last token of a request in its middle.
std::set<int64_t> sample_tokens(const BatchArrays& batch) {
  const size_t middle = batch.seq_lens.size() / 2;
  return {0, batch.query_start_loc[middle + 1] - 1, batch.query_start_loc.back() - 1};
}

void compare_rows(const AttentionSpec& spec, const std::vector<uint8_t>& expected, const std::vector<uint8_t>& got,
                  const std::string& where, Agreement& agreement) {
  const int32_t dim = spec.value_head_dim();
  for (int32_t head = 0; head < spec.num_heads; ++head) {
    double squares = 0, largest = 0;
    for (int32_t d = 0; d < dim; ++d) {
      const double a = reference::load(spec.dtype, expected.data(), int64_t{head} * dim + d);
      const double b = reference::load(spec.dtype, got.data(), int64_t{head} * dim + d);
      squares += a * a;
      const double difference = std::fabs(a - b);
      largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
    }
    const double relative = largest == 0 ? 0 : largest / std::sqrt(squares / dim);
    ++agreement.rows;
    if (relative <= agreement.largest) continue;
    agreement.largest = relative;
    agreement.where = fmt::format("{}, head {}", where, head);
  }
}

Status compare_lanes(Device& device, const ReplayInputs& inputs, const BatchArrays& batch, int64_t step,
                     std::vector<ReplayLane>& lanes, KvFormat kv_format, Agreement& agreement) {
  std::vector<uint8_t> expected, got;
  for (size_t kind = 0; kind < inputs.kinds.size(); ++kind) {
    const AttentionSpec& spec = inputs.kinds[kind];
    agreement.allowed = std::max(agreement.allowed, 2 * allowed_row_error(spec, kv_format));  // both may be off
    const std::string where = inputs.kinds.size() > 1 ? fmt::format(", kind {}", kind + 1) : "";
    for (const int64_t token : sample_tokens(batch)) {
      SEXTANT_RETURN_IF_ERROR(lanes.front().read_row(device, inputs, kind, token, expected));
      for (ReplayLane& lane : lanes) {  // the first against itself too: NaN never agrees
        SEXTANT_RETURN_IF_ERROR(lane.read_row(device, inputs, kind, token, got));
        compare_rows(spec, expected, got,
                     fmt::format("{}, step {}{}, token {}", lane.result().backend->info().name, step, where, token),
                     agreement);
      }
    }
  }
  return Status::ok();
}

// Those of the model's category that serve all its layers' kinds; the others with their reasons.
std::vector<const Backend*> fitting_backends(const Device& device, const ReplayInputs& inputs, KvFormat kv_format,
                                             int32_t block_size, const std::vector<const Backend*>& backends,
                                             ModelReplay& replay) {
  std::vector<const Backend*> fitting;
  for (const Backend* backend : backends) {
    if ((backend->info().category == BackendCategory::kMla) != inputs.kinds.front().mla.enabled()) continue;
    std::vector<std::string> reasons;
    for (const AttentionSpec& spec : inputs.kinds) {
      if (const Status valid = validate(spec); !valid.is_ok()) {
        reasons.push_back(valid.message());
        continue;
      }
      const KvCacheSpec cache = with_layout(kv_cache_for(spec, kv_format, block_size, 1), *backend, device.info());
      for (const std::string& reason : backend->reasons_against(spec, cache, device)) reasons.push_back(reason);
    }
    if (reasons.empty())
      fitting.push_back(backend);
    else
      replay.skipped.emplace_back(backend->info().name, fmt::format("{}", fmt::join(reasons, "; ")));
  }
  return fitting;
}

Status run_steps(Device& device, const ReplayInputs& inputs, const Trace& trace, const ReplayOptions& options,
                 KvFormat kv_format, int64_t expected_steps, Scheduler& scheduler, std::vector<ReplayLane>& lanes,
                 ModelReplay& replay) {
  Progress progress("replay " + replay.model, expected_steps);
  std::vector<BatchOnDevice> batch(inputs.windows.size());  // one a group
  std::vector<BatchArrays> host(inputs.windows.size());
  Step step;
  const auto start = Clock::now();
  double longest_step = 0;  // seconds
  for (int64_t index = 0;; ++index) {
    const double step_start = seconds_since(start);
    auto more = scheduler.next(step);
    if (!more) return more.status();
    if (!*more) break;
    for (size_t group = 0; group < host.size(); ++group) {
      scheduler.fill_batch(step, host[group], group);
      SEXTANT_RETURN_IF_ERROR(batch[group].upload(device, host[group]));
    }
    for (ReplayLane& lane : lanes) {
      const Status ran = lane.run_step(device, inputs, host, batch, index);
      if (!ran.is_ok())
        return Status(ran.code(),
                      fmt::format("{}, step {}: {}", lane.result().backend->info().name, index, ran.message()));
    }
    SEXTANT_RETURN_IF_ERROR(compare_lanes(device, inputs, host.front(), index, lanes, kv_format, replay.agreement));
    progress.update(index + 1,
                    fmt::format("{} of {} requests done", scheduler.stats().finished_requests, trace.requests.size()));
    longest_step = std::max(longest_step, seconds_since(start) - step_start);
    // The next step may be as long as the longest so far.
    if (options.seconds <= 0 || seconds_since(start) + longest_step <= options.seconds) continue;
    replay.stopped_by_time = scheduler.num_running() + scheduler.num_waiting() > 0;
    break;
  }
  return Status::ok();
}

}  // namespace

Result<DryRun> dry_run(const Trace& trace, const SchedulerOptions& options, bool show_progress) {
  const auto start = Clock::now();
  auto scheduler = Scheduler::make(trace, options);
  if (!scheduler) return scheduler.status();
  Progress progress("dry run", show_progress ? static_cast<int64_t>(trace.requests.size()) : 0);
  Step step;
  while (true) {
    auto more = scheduler->next(step);
    if (!more) return more.status();
    if (!*more) break;
    if (show_progress) progress.update(scheduler->stats().finished_requests);
  }
  return DryRun{scheduler->stats(), scheduler->allocator().num_blocks(), scheduler->allocator().stats().evictions,
                seconds_since(start)};
}

Result<ModelDryRun> dry_run_model(const LoadedModel& model, const Trace& trace, const SchedulerOptions& options) {
  CapacityRequest request;
  request.memory_bytes = int64_t{1} << 40;  // the groups do not depend on it
  request.kv_format = model.kv_format;
  request.block_size = options.block_size;
  request.max_num_batched_tokens = options.max_num_batched_tokens;
  auto capacity = kv_capacity(model.shape, request);
  if (!capacity) return capacity.status();
  SchedulerOptions grouped = options;
  grouped.windows.clear();
  for (const CapacityKind& kind : capacity->kinds)
    grouped.windows.insert(grouped.windows.end(), static_cast<size_t>(kind.groups),
                           static_cast<int32_t>(kind.most_tokens));
  // Layers that see everything come first: prefixes are found by the first group's blocks.
  std::stable_sort(grouped.windows.begin(), grouped.windows.end(),
                   [](int32_t a, int32_t b) { return a == 0 && b > 0; });
  if (grouped.windows.empty())
    return unsupported(
        fmt::format("{}: no layer keeps keys and values; allowed: a model with attention", model.shape.name));
  auto run = dry_run(trace, grouped, true);
  if (!run) return Status(run.status().code(), model.shape.name + ": " + run.status().message());
  return ModelDryRun{model, std::move(*capacity), *run};
}

Result<ModelReplay> replay_model(Device& device, const LoadedModel& model, const std::vector<const Backend*>& backends,
                                 const Trace& trace, const ReplayOptions& given) {
  ModelReplay replay;
  replay.model = model.shape.name;
  replay.model_layers = model.shape.layers.size();
  replay.unserved = model.unserved;
  replay.notes = model.shape.notes;
  if (model.kinds.empty()) return replay;
  ReplayOptions options = given;
  auto inputs = make_replay_inputs(device, model, options, replay);
  if (!inputs) return inputs.status();
  if (inputs->kinds.empty()) return replay;
  options.scheduler.windows = inputs->windows;
  replay.layers = static_cast<int32_t>(inputs->kind_of_layer.size());
  const int32_t block_size = options.scheduler.block_size;
  const auto fitting = fitting_backends(device, *inputs, model.kv_format, block_size, backends, replay);
  if (fitting.empty()) {
    for (ReplayedKind& kind : replay.kinds)
      if (kind.run > 0) kind = {kind.kind, 0, "no backend serves all kinds that would run", true};
    return replay;
  }
  auto num_blocks =
      choose_num_blocks(device, trace, options, bytes_a_block(*inputs, model.kv_format, block_size, fitting.size()));
  if (!num_blocks) return num_blocks.status();
  replay.num_blocks = *num_blocks;
  SchedulerOptions bounded = options.scheduler;
  bounded.num_blocks = *num_blocks;
  auto expected = dry_run(trace, bounded, false);
  if (!expected) return expected.status();
  auto scheduler = Scheduler::make(trace, bounded);
  if (!scheduler) return scheduler.status();
  std::vector<ReplayLane> lanes;
  for (const Backend* backend : fitting) {
    auto lane = ReplayLane::make(device, *backend, *inputs, model.kv_format, options, *num_blocks);
    if (!lane) return lane.status();
    lanes.push_back(std::move(*lane));
  }
  SEXTANT_RETURN_IF_ERROR(
      run_steps(device, *inputs, trace, options, model.kv_format, expected->stats.steps, *scheduler, lanes, replay));
  replay.stats = scheduler->stats();
  for (ReplayLane& lane : lanes) replay.backends.push_back(std::move(lane.result()));
  return replay;
}

}  // namespace sextant::cli
