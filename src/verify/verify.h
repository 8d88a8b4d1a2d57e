// Conformance: every backend against the oracle and against other people's data. `sextant verify` and the tests run
// these.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "sextant/backend.h"

namespace sextant::verify {

struct SuiteResult {
  std::string name;
  int cases = 0;
  int passed = 0;
  int failed = 0;
  int skipped = 0;
  std::vector<std::string> messages;  // one line a failure, and one a reason to skip
};

using Progress = std::function<void(int done, int total)>;

struct VerifyOptions {
  std::vector<const Backend*> backends;  // empty: all
  uint64_t seed = 1;
  bool reduced = false;  // a smaller sweep, for sanitizers
  Progress progress;
};

// Own sweep: shapes, features, types, layouts, ragged batches; poisoned tails, outputs and workspaces.
SuiteResult run_oracle_sweep(Device& device, const VerifyOptions& options);
// The ONNX Attention node tests (a folder with cases.json and node/).
Result<SuiteResult> run_onnx_suite(Device& device, const std::string& folder, const VerifyOptions& options);
// Queries, keys, values and outputs recorded from Hugging Face transformers (*.safetensors).
Result<SuiteResult> run_goldens_suite(Device& device, const std::string& folder, const VerifyOptions& options);

}  // namespace sextant::verify
