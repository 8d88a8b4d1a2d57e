// A log of what is planned and run, which a user can switch on: which backend does what, for how many tokens, and what
// was refused. Off, it costs one relaxed load a call.
#pragma once

#include <functional>
#include <string>

#include "sextant/backend.h"

namespace sextant {

struct LogEvent {
  enum class Kind { kPlan, kRun };
  Kind kind = Kind::kPlan;
  const Backend* backend = nullptr;
  const PlanRequest* request = nullptr;  // planned, or asked for
  const Plan* plan = nullptr;            // null: planning was refused
  Status status;                         // of the call
  double host_us = 0;                    // how long it took on the host; on a GPU the work itself goes on
};
// Called in the thread of each plan and run, after it, from several at once; the event ends with the call.
using LogSink = std::function<void(const LogEvent&)>;
// Replaces the sink; an empty one switches the log off. Calls that are under way may still reach the one before.
void set_log(LogSink sink);

// One JSON object on one line: {"event": "plan" or "run", "backend", "requests", "tokens", "steps" (of a plan),
// "workspace_bytes", "host_us", "error" (null or its text)}.
std::string to_json(const LogEvent& event);

}  // namespace sextant
