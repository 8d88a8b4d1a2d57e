// One backend's side of a replay: its caches, its output, its times.
#pragma once

#include "arguments.h"
#include "attention_data.h"
#include "replay_results.h"

namespace sextant::cli {

// Inputs of every kind of layer that the replay runs; all lanes read the same ones.
struct ReplayInputs {
  std::vector<AttentionSpec> kinds;
  std::vector<size_t> kind_of_layer;  // of the layers that run
  std::vector<int32_t> windows;       // of the groups whose layers share block tables: 0 or a window
  std::vector<size_t> group_of_kind;
  std::vector<AttentionInputs> inputs;  // one a kind
  int64_t spare_rows = 0;               // rows beyond the token budget: steps start at different ones
};
Result<ReplayInputs> make_replay_inputs(Device& device, const LoadedModel& model, const ReplayOptions& options,
                                        ModelReplay& replay);

class ReplayLane {
 public:
  static Result<ReplayLane> make(Device& device, const Backend& backend, const ReplayInputs& inputs, KvFormat kv_format,
                                 const ReplayOptions& options, int64_t num_blocks);
  // Plans and runs all layers of a step; the time goes to result().
  // Host and device batches: one a group.
  Status run_step(Device& device, const ReplayInputs& inputs, const std::vector<BatchArrays>& host,
                  const std::vector<BatchOnDevice>& batch, int64_t step);
  // One token's output of the last layer of a kind: [Hq, Dv] as stored.
  Status read_row(Device& device, const ReplayInputs& inputs, size_t kind, int64_t token,
                  std::vector<uint8_t>& row) const;
  BackendReplay& result() { return result_; }

 private:
  BackendReplay result_;
  std::vector<PagedCache> caches_;  // one a layer
  std::vector<ReusedBuffer> out_;   // one a kind
  ReusedBuffer workspace_;
};

}  // namespace sextant::cli
