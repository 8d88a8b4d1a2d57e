// One backend with everything bound on a device, ready to run steps of different lengths: what an engine keeps for a
// captured graph. The data is the same on every device and in every layout.
#pragma once

#include <memory>
#include <vector>

#include "sextant/backend.h"
#include "verify/device_buffer.h"

namespace sextant::testing {

struct StepRequest {
  int32_t query_len = 0, seq_len = 0;
};

// One step's arrays, as the scheduler makes them.
struct Step {
  std::vector<int32_t> query_start_loc, seq_lens;
  std::vector<int32_t> block_table;   // [B, kColumns]
  std::vector<int64_t> slot_mapping;  // [T]
};

inline constexpr int32_t kBlockSize = 16, kColumns = 26, kRequests = 5;
inline constexpr int32_t kMaxSeqLen = kBlockSize * kColumns, kNumBlocks = kRequests * kColumns;

// kRequests requests in blocks of their own, in an order that the seed decides.
Step make_step(const std::vector<StepRequest>& requests, uint32_t seed);

class PagedRun {
 public:
  // Plans for `planned`; with `host_tables` the plan also sees the block table and the slots.
  static Result<std::unique_ptr<PagedRun>> make(Device& device, const Backend& backend, const AttentionSpec& spec,
                                                const Step& planned, const PlanOptions& options,
                                                bool host_tables = true);

  Status load(const Step& step);  // lengths and tables to the device; cache as at the start, out poisoned
  Status launch(Stream stream) { return plan_->run(tensors_, stream); }
  const Plan& plan() const { return *plan_; }
  RunTensors& tensors() { return tensors_; }
  Result<std::vector<float>> out() const;  // [T, Hq * Dv]
  Result<std::vector<uint8_t>> cache_bytes() const;
  Result<bool> out_untouched() const;  // still poisoned
  Result<bool> guards_intact() const;  // memory around the cache
  int64_t row_elements() const { return row_elements_; }

 private:
  explicit PagedRun(Device& device) : device_(&device) {}
  Status bind(const AttentionSpec& spec, int64_t tokens);
  Status fill_cache();

  Device* device_;
  PlanPtr plan_;
  KvCacheSpec cache_;
  RunTensors tensors_;
  std::vector<DeviceBuffer> inputs_;
  std::vector<uint8_t> k_start_, v_start_;  // the cache before the step, guards included
  DeviceBuffer k_cache_, v_cache_, query_start_loc_, seq_lens_, block_table_, slot_mapping_, out_, workspace_;
  int64_t row_elements_ = 0, tokens_ = 0;
};

}  // namespace sextant::testing
