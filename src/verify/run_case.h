// Runs one backend on a prepared case and judges everything it wrote.
#pragma once

#include <string>

#include "verify/case.h"

namespace sextant::verify {

struct Verdict {
  enum class Kind { kPassed, kFailed, kSkipped } kind = Kind::kPassed;
  std::string message;   // why failed or skipped
  double max_error = 0;  // largest |out - oracle| of the sampled rows
  double allowed = 0;    // what was allowed there
};

Verdict run_case(Device& device, const Backend& backend, const CaseData& data, uint64_t seed);

// Runs and gives back the raw bytes of out, for bit-for-bit comparisons.
Result<std::vector<uint8_t>> run_for_bytes(Device& device, const Backend& backend, const CaseData& data, uint64_t seed);

}  // namespace sextant::verify
