// Drives a model's paged caches with a trace's batches, through several backends in lock step.
#pragma once

#include <string>
#include <vector>

#include "arguments.h"
#include "progress.h"
#include "sextant/scheduler.h"

namespace sextant::cli {

struct ReplayOptions {
  SchedulerOptions scheduler;  // num_blocks 0: what an unbounded cache would use, as far as memory allows
  int32_t layers = 1;          // the model's first ones
  double seconds = 0;          // stop before that; 0: never
  uint64_t seed = 1;
};

struct BackendReplay {
  const Backend* backend = nullptr;
  std::vector<double> step_ms;  // plan and run of all layers
  double plan_ms = 0;           // of all steps together
  double total_ms() const;
  double quantile(double at) const;
};

// Sampled rows of every step's last layer, each backend against the first. Differences are relative to a row's root
// mean square.
struct Agreement {
  int64_t rows = 0;
  double largest = 0;
  double allowed = 0;
  std::string where;  // of the largest: "ROCM_ATTN, step 7, token 3, head 1"
  bool agrees() const { return largest <= allowed; }
};

struct ModelReplay {
  std::string model;
  int32_t layers = 0;
  int64_t num_blocks = 0;
  bool stopped_by_time = false;
  SchedulerStats stats;
  std::vector<BackendReplay> backends;
  std::vector<std::pair<std::string, std::string>> skipped;  // backend, reason
  Agreement agreement;
};

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

}  // namespace sextant::cli
