// A random case of `verify --random`, as a test.
#pragma once

#include <string>

#include "sextant/device.h"
#include "support/matchers.h"
#include "verify/random/random_case.h"
#include "verify/random/run_random.h"

namespace sextant::testing {

inline void expect_passes(Device& device, const std::string& text) {
  const auto test = verify::parse_random_case(text);
  ASSERT_OK(test);
  const verify::RandomVerdict verdict = verify::run_random_case(device, *test, {});
  EXPECT_EQ(verdict.kind, verify::RandomVerdict::Kind::kPassed) << verdict.message << " in " << text;
}

}  // namespace sextant::testing
