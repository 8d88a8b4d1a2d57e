// One backend's side of a replay: its caches, its output, its times.
#pragma once

#include "attention_data.h"
#include "replay_run.h"

namespace sextant::cli {

// Inputs of every kind of layer that the replay runs; all lanes read the same ones.
struct ReplayInputs {
  std::vector<AttentionSpec> kinds;
  std::vector<size_t> kind_of_layer;
  std::vector<AttentionInputs> inputs;  // one a kind
  int64_t spare_rows = 0;               // rows beyond the token budget: steps start at different ones
};
Result<ReplayInputs> make_replay_inputs(Device& device, const LoadedModel& model, const ReplayOptions& options);

class ReplayLane {
 public:
  static Result<ReplayLane> make(Device& device, const Backend& backend, const ReplayInputs& inputs, DType cache_dtype,
                                 const ReplayOptions& options, int64_t num_blocks);
  // Plans and runs all layers of a step; the time goes to result().
  Status run_step(Device& device, const ReplayInputs& inputs, const BatchArrays& host, const BatchOnDevice& batch,
                  int64_t step);
  // One token's output of the last layer: [Hq, Dv] as stored.
  Status read_row(Device& device, const ReplayInputs& inputs, int64_t token, std::vector<uint8_t>& row) const;
  BackendReplay& result() { return result_; }

 private:
  BackendReplay result_;
  std::vector<PagedCache> caches_;  // one a layer
  ReusedBuffer out_, workspace_;
};

}  // namespace sextant::cli
