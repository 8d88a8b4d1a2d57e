// Drives a model's paged caches with a trace's batches, through several backends in lock step.
#pragma once

#include <vector>

#include "arguments.h"
#include "progress.h"
#include "replay_results.h"
#include "sextant/capacity.h"

namespace sextant::cli {

Result<ModelReplay> replay_model(Device& device, const LoadedModel& model, const std::vector<const Backend*>& backends,
                                 const Trace& trace, const ReplayOptions& options);

// The scheduler alone.
struct DryRun {
  SchedulerStats stats;
  int64_t blocks_used = 0;
  int64_t evictions = 0;
  double seconds = 0;
};
Result<DryRun> dry_run(const Trace& trace, const SchedulerOptions& options, bool show_progress);

// The scheduler with a model's layers: those that keep keys for as long are groups with blocks of their own out of one
// pool, as in an engine, and windows give back what no later token sees.
struct ModelDryRun {
  LoadedModel model;
  Capacity capacity;  // the groups; its num_blocks is not looked at
  DryRun run;
  int64_t block_bytes() const { return capacity.page_bytes * capacity.group_layers; }
};
Result<ModelDryRun> dry_run_model(const LoadedModel& model, const Trace& trace, const SchedulerOptions& options);

}  // namespace sextant::cli
