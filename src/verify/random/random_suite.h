// `sextant verify --random`: draws cases until the time is up.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "verify/random/random_case.h"

namespace sextant::verify {

struct RandomOptions {
  std::vector<const Backend*> backends;  // empty: all
  std::vector<std::string> isas;         // of the CPU, taken in turns; empty: the device as it is
  bool small = false;                    // DrawLimits::of
  uint64_t seed = 1;
  double seconds = 60;
  int64_t most_cases = 0;  // 0: as many as the time allows
  int most_failures = 8;   // then it stops
  double shrink_seconds = 20;
  std::function<void(double seconds, int64_t cases, int failures)> progress;
  std::function<void(const std::string& text)> begins;  // before a case runs: what to print if the process dies
};

struct RandomFailure {
  std::string message, text;  // of the shrunk case: repeats it with --case
  uint64_t draw = 0;          // which of the seed's cases it was
  double seconds = 0;         // after which it was found
};

struct RandomReport {
  int64_t cases = 0, passed = 0, refused = 0;
  std::map<std::string, int64_t> cases_of;  // by backend, and by ISA on the CPU
  std::map<std::string, int64_t> refusals;  // by reason
  double worst = 0;                         // largest error of the passed, in parts of what was allowed
  std::string worst_text;
  double seconds = 0;
  std::vector<RandomFailure> failures;
};

RandomReport run_random_suite(Device& device, const RandomOptions& options);

// One case by its text.
RandomReport run_random_text(Device& device, const RandomCase& test);

}  // namespace sextant::verify
