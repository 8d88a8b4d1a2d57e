// Runs one backend on one batch: checks it against the oracle, then times it.
#pragma once

#include <optional>
#include <string>

#include "attention_data.h"
#include "work.h"

namespace sextant::cli {

struct Timing {
  int samples = 0;
  double ms_median = 0, ms_min = 0, ms_p10 = 0, ms_p90 = 0;
};

// Largest difference from the oracle over sampled rows, each relative to its row's root mean square.
struct OracleCheck {
  int rows = 0;
  double error = 0;
  double allowed = 0;
  bool passed() const { return error <= allowed; }
};

struct Measurement {
  OracleCheck check;
  std::optional<Timing> timing;  // absent when the check failed
  double plan_ms = 0;
  size_t workspace_bytes = 0;
  std::vector<std::string> steps;
};

struct MeasureOptions {
  int warm_up = 2;
  int repeats = 0;  // 0: as many as fit `seconds`, at least 5
  double seconds = 0.5;
  uint64_t seed = 1;
  bool check = true;
};

// One batch of one attention kind, ready to run.
struct BenchCase {
  AttentionSpec spec;
  KvFormat kv_format;
  int32_t block_size = 16;
  std::vector<RequestLengths> requests;
  BatchArrays batch;
  int64_t num_blocks = 0;
};
// Of its cache and its dense tensors, without workspace.
double bytes_needed(const AttentionSpec& spec, KvFormat kv_format, int32_t block_size,
                    const std::vector<RequestLengths>& requests);
Result<BenchCase> make_bench_case(const AttentionSpec& spec, KvFormat kv_format, int32_t block_size,
                                  const std::vector<RequestLengths>& requests);

// kUnsupported: the backend does not serve it.
Result<Measurement> measure(Device& device, const Backend& backend, const BenchCase& bench,
                            const AttentionInputs& inputs, const MeasureOptions& options);

// Rows of `out` (host memory, [T, Hq, Dv]) against the oracle, which reads the cache as the run left it.
Result<OracleCheck> check_against_oracle(const BenchCase& bench, const AttentionInputs& inputs, const PagedCache& cache,
                                         const RunTensors& tensors, const DeviceBuffer& out, Device& device,
                                         uint64_t seed);

// What a row may be off by, relative to its root mean square (docs/json.md gives the reasoning).
double allowed_row_error(const AttentionSpec& spec, KvFormat kv_format);

}  // namespace sextant::cli
