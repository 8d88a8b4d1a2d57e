// Tensors on a device for one attention spec: random inputs that all backends share, a cache for each.
#pragma once

#include <cstdint>
#include <vector>

#include "sextant/backend.h"
#include "sextant/workload.h"
#include "verify/device_buffer.h"

namespace sextant::cli {

// `elements` random numbers near N(0, magnitude^2), rounded to dtype. Drawn once for a prime period and repeated:
// gigabytes in no time, and no two heads or blocks line up.
std::vector<uint8_t> random_elements(DType dtype, int64_t elements, double magnitude, uint64_t seed);

// Device memory that grows and is used again: a step's arrays change size all the time.
class ReusedBuffer {
 public:
  Status upload(Device& device, const void* host, size_t bytes);
  Status reserve(Device& device, size_t bytes);
  void* data() const { return buffer_.data(); }
  size_t bytes() const { return buffer_.bytes(); }

 private:
  DeviceBuffer buffer_;
};

// q, k, v (or q, kv_c, k_pe, kv_b_proj), sinks and slopes for up to `rows` tokens.
class AttentionInputs {
 public:
  static Result<AttentionInputs> make(Device& device, const AttentionSpec& spec, int64_t rows, uint64_t seed);
  // Fills q, k, v, ... of `tensors` with rows first_row .. first_row + tokens.
  void bind(int64_t first_row, int64_t tokens, RunTensors& tensors) const;
  int64_t rows() const { return rows_; }
  const AttentionSpec& spec() const { return spec_; }
  // Host copies, for the oracle.
  const std::vector<float>& sinks() const { return host_sinks_; }
  const std::vector<float>& alibi_slopes() const { return host_slopes_; }

 private:
  AttentionSpec spec_;
  int64_t rows_ = 0;
  DeviceBuffer q_, k_, v_, kv_c_, k_pe_, kv_b_proj_, sinks_, slopes_;
  std::vector<float> host_sinks_, host_slopes_;
};

// One layer's paged cache.
class PagedCache {
 public:
  // Random contents, or (random == false) NaN everywhere: what nobody wrote must not be read.
  static Result<PagedCache> make(Device& device, const KvCacheSpec& spec, bool random, uint64_t seed);
  KvCacheView view() const;
  const KvCacheSpec& spec() const { return spec_; }
  // Readable by the host: a copy in `host`, or the cache itself where it is host memory.
  struct HostCopy {
    std::vector<uint8_t> k, v, k_scale, v_scale;
  };
  Result<KvCacheView> read(const Device& device, HostCopy& host) const;

 private:
  KvCacheSpec spec_;
  DeviceBuffer k_, v_, k_scale_, v_scale_;  // scales of tokens and heads, where the format has them
};

// The arrays of a batch on the device.
class BatchOnDevice {
 public:
  Status upload(Device& device, const BatchArrays& batch);
  void bind(RunTensors& tensors) const;

 private:
  ReusedBuffer query_start_loc_, seq_lens_, block_table_, slot_mapping_;
  int64_t stride_ = 0;
};

}  // namespace sextant::cli
