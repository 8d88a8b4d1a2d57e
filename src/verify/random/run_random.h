// Runs one random case on a device and says what is wrong with it.
#pragma once

#include <string>

#include "verify/random/judge.h"

namespace sextant::verify {

struct RandomVerdict {
  enum class Kind { kPassed, kFailed, kRefused } kind = Kind::kPassed;
  std::string message;  // of a failure, or why it was refused
  double worst = 0;     // largest error, in parts of what was allowed
};

RandomVerdict run_random_case(Device& device, const RandomCase& test, const JudgeLimits& limits);

}  // namespace sextant::verify
