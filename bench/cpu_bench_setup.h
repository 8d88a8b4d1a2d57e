// Batches with tensors, for benchmarks of the CPU device.
#pragma once

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "sextant/backend.h"
#include "sextant/device.h"
#include "sextant/executor.h"

namespace sextant::bench {

// Memory of the device, as an engine would hold its cache.
struct Buffer {
  Buffer(const std::shared_ptr<Device>& device, size_t bytes);
  void* data() const { return memory.get(); }
  std::shared_ptr<void> memory;
};

struct BatchShape {
  int32_t requests = 1, query_len = 1, seq_len = 1024;
};

// A layer's attention over one batch, ready to run again and again.
class Workload {
 public:
  Workload(const std::shared_ptr<Device>& device, const Backend& backend, const AttentionSpec& spec, DType cache_dtype,
           BatchShape shape, int32_t block_size = 16);
  const std::string& error() const { return error_; }  // empty: ready
  Status run() const { return backend_.run(*plan_, tensors_, {}); }
  Status write_cache(const Device& device) const;
  // Reads the bytes of K and V once, in order, all workers at once.
  void read_cache(Executor& executor) const;
  double operations() const;  // of the two products, causal
  double kv_bytes() const;    // K and V of all visible keys, once
  double written_bytes() const;
  const Plan& plan() const { return *plan_; }

 private:
  Buffer filled(int64_t elements, DType dtype);
  void lay_out(BatchShape shape);
  void make_tensors(const KvCacheSpec& cache);

  std::shared_ptr<Device> device_;
  const Backend& backend_;
  AttentionSpec spec_;
  BatchShape shape_;
  KvCacheSpec cache_;
  std::string error_;
  PlanPtr plan_;
  RunTensors tensors_;
  std::vector<int32_t> query_start_loc_, seq_lens_, block_table_;
  std::vector<int64_t> slot_mapping_;
  std::vector<Buffer> buffers_;
};

AttentionSpec mha_spec(int32_t heads, int32_t kv_heads, int32_t head_dim, DType dtype = DType::kBF16);
AttentionSpec mla_spec(int32_t heads);  // DeepSeek's head sizes

}  // namespace sextant::bench
