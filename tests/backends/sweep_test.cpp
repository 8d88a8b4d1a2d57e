// Every backend against the oracle, over the conformance sweep.
#include <gtest/gtest.h>

#include "support/matchers.h"
#include "verify/verify.h"

namespace sextant {
namespace {

class Sweep : public ::testing::TestWithParam<const Backend*> {};

TEST_P(Sweep, AgreesWithTheOracle) {
  auto device = open_device(DeviceKind::kCpu);
  ASSERT_OK(device);
  verify::VerifyOptions options;
  options.backends = {GetParam()};
  options.seed = 20;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  options.reduced = true;
#endif
  const verify::SuiteResult suite = verify::run_oracle_sweep(**device, options);
  EXPECT_GE(suite.passed, options.reduced ? 10 : 15);
  EXPECT_EQ(suite.failed, 0);
  EXPECT_EQ(suite.skipped, 0);
  for (const std::string& message : suite.messages) ADD_FAILURE() << message;
}

INSTANTIATE_TEST_SUITE_P(Backends, Sweep, ::testing::ValuesIn(all_backends().begin(), all_backends().end()),
                         [](const auto& backend) { return backend.param->info().name; });

}  // namespace
}  // namespace sextant
