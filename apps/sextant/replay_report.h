// What a replay says, as text and as JSON.
#pragma once

#include <vector>

#include "replay_run.h"

namespace sextant::cli {

Json dry_run_json(const Trace& trace, const DryRun& run, const ReplayOptions& options);
void print_dry_run(const Trace& trace, const DryRun& run, const ReplayOptions& options);
// The same with models: the first one's figures stand at the top of the JSON.
Json dry_run_json(const Trace& trace, const std::vector<ModelDryRun>& runs, const ReplayOptions& options);
void print_dry_run(const Trace& trace, const std::vector<ModelDryRun>& runs, const ReplayOptions& options);
Json replay_json(const Trace& trace, const std::vector<ModelReplay>& replays, const ReplayOptions& options,
                 const DeviceInfo& device);
void print_replay(const Trace& trace, const std::vector<ModelReplay>& replays, const ReplayOptions& options,
                  const DeviceInfo& device);

}  // namespace sextant::cli
