// The memory of a random case on its device: inputs, a poisoned cache, the cache as it must be afterwards, and the same
// numbers as plain floats for the judge.
#pragma once

#include <memory>
#include <vector>

#include "verify/device_buffer.h"
#include "verify/random/random_case.h"
#include "verify/random/steps.h"

namespace sextant::verify {

// A request of a batch, and whose data it has: a request keeps its data in whatever batch it stands.
struct Member {
  RequestShape shape;
  uint64_t seed = 0;
};
std::vector<Member> members_of(const std::vector<RequestShape>& requests, uint64_t seed);

// One step's arrays on the host.
struct StepArrays {
  std::vector<int32_t> query_start_loc, seq_lens, block_table;
  std::vector<int64_t> slot_mapping;   // a row of q each; padding rows -1
  std::vector<int64_t> key_rows;       // [B + 1]: rows of each request in the judge's packed keys
  std::vector<TokenSpan> token_spans;  // [T] where the spec has spans
  TokenSpan span_of(int64_t token) const {
    return token_spans.empty() ? TokenSpan{} : token_spans[static_cast<size_t>(token)];
  }
};

class CaseMemory {
 public:
  // Room for every one of `batches`, which have the same number of requests and tokens.
  static Result<std::unique_ptr<CaseMemory>> make(Device& device, const RandomCase& test,
                                                  const std::vector<std::vector<Member>>& batches);

  // Puts a batch in place: inputs and tables, the cache poisoned but for what it holds before the call, outputs
  // poisoned. Blocks lie in an order that `block_seed` decides.
  Status load(const std::vector<Member>& batch, uint64_t block_seed);
  // Workspace of a plan, filled with `poison`; a guard follows it.
  Status take_workspace(size_t bytes, uint8_t poison);

  const StepArrays& arrays() const { return arrays_; }
  PlanRequest plan_request() const;
  const RunTensors& tensors() const { return tensors_; }
  const KvCacheSpec& cache() const { return cache_; }
  int64_t num_tokens() const { return arrays_.query_start_loc.back(); }
  Device& device() const { return *device_; }
  const RandomCase& test() const { return test_; }

  // Whether the call attends for request b, and which rows of out it writes.
  bool attends(size_t b) const;
  std::vector<bool> written_rows() const;

  // What the call wrote.
  Result<std::vector<uint8_t>> out() const;  // rows with their padding
  Result<std::vector<float>> lse() const;    // [num_heads, rows]
  int64_t out_row_elements() const { return row_elements_; }
  int64_t rows() const { return rows_; }
  // Empty, or what is wrong with the memory around the result: the cache, the workspace's guard.
  Result<std::string> faults() const;

  // For the judge.
  AttendShared attend_shared() const;
  const float* kv_b_proj_values() const { return weight_values_.as<float>(); }

 private:
  CaseMemory(Device& device, const RandomCase& test) : device_(&device), test_(test) {}
  Status allocate(const std::vector<std::vector<Member>>& batches);
  Status make_tables();
  Status fill_queries(const std::vector<uint64_t>& seeds);
  Status fill_new_tokens(const std::vector<uint64_t>& seeds);
  Status fill_caches(const std::vector<uint64_t>& seeds, const std::vector<int64_t>& before,
                     const std::vector<int64_t>& after);
  TokenScales token_scales(uint64_t salt) const;
  ValueTable table(const DeviceBuffer& bits, const DeviceBuffer& values, DType dtype, int32_t scales) const;

  Device* device_;
  RandomCase test_;
  KvCacheSpec cache_;
  StepArrays arrays_;
  RunTensors tensors_;
  int64_t rows_ = 0, row_elements_ = 0, columns_ = 0, most_key_rows_ = 0;
  size_t workspace_bytes_ = 0;
  DeviceBuffer q_, k_, v_, kv_c_, k_pe_, weight_, out_, lse_, workspace_;
  DeviceBuffer k_cache_, v_cache_, k_expected_, v_expected_;
  DeviceBuffer q_values_, key_values_, value_values_, weight_values_;
  DeviceBuffer query_start_loc_, seq_lens_, block_table_, slot_mapping_;
  DeviceBuffer k_token_scales_, v_token_scales_, token_spans_;
  DeviceBuffer sinks_, slopes_, q_scale_, k_scale_, v_scale_;
  // Tables of numbers: of queries, and of keys and values as the cache and as the call's tensors hold them.
  DeviceBuffer q_bits_, q_worth_, k_bits_, k_worth_, k_new_bits_, v_bits_, v_worth_, v_new_bits_, w_bits_, w_worth_;
};

}  // namespace sextant::verify
