// What a replay is asked for, and what it finds.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "sextant/model.h"
#include "sextant/scheduler.h"
#include "sextant/selector.h"

namespace sextant::cli {

struct ReplayOptions {
  SchedulerOptions scheduler;  // num_blocks 0: what an unbounded cache would use, as far as memory allows
  int32_t layers = 0;          // the model's first served ones; 0: one of each kind
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

// Sampled rows of every step's last layer of each kind, each backend against the first. Differences are relative to a
// row's root mean square.
struct Agreement {
  int64_t rows = 0;
  double largest = 0;
  double allowed = 0;
  std::string where;  // of the largest: "ROCM_ATTN, step 7, token 3, head 1"
  bool agrees() const { return largest <= allowed; }
};

// A kind of layer: how many of it ran, or why none did.
struct ReplayedKind {
  LayerKind kind;
  int32_t run = 0;
  std::string why_not;
  bool refused = false;  // no backend takes it
};

struct ModelReplay {
  std::string model;
  size_t model_layers = 0;
  std::vector<ReplayedKind> kinds;
  std::vector<UnservedKind> unserved;
  std::vector<std::string> notes;
  int32_t layers = 0;
  int64_t num_blocks = 0;
  bool stopped_by_time = false;
  SchedulerStats stats;
  std::vector<BackendReplay> backends;
  std::vector<std::pair<std::string, std::string>> skipped;  // backend, reason
  Agreement agreement;
};

}  // namespace sextant::cli
