// Every backend against the oracle, over the conformance sweep.
#include <gtest/gtest.h>

#include "support/matchers.h"
#include "verify/verify.h"

namespace sextant {
namespace {

// All backends of a category share each case's data and its oracle, which take most of the time.
class Sweep : public ::testing::TestWithParam<BackendCategory> {};

TEST_P(Sweep, AgreesWithTheOracle) {
  auto device = open_device(DeviceKind::kCpu);
  ASSERT_OK(device);
  verify::VerifyOptions options;
  for (const Backend* backend : all_backends())
    if (backend->info().category == GetParam()) options.backends.push_back(backend);
  const auto backends = static_cast<int>(options.backends.size());
  ASSERT_EQ(backends, GetParam() == BackendCategory::kMla ? 2 : 4);
  options.seed = 20;
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the oracle, one thread, takes minutes; the other tests run every kernel by many";
#endif
#if defined(__SANITIZE_ADDRESS__)
  options.reduced = true;
#endif
  const verify::SuiteResult suite = verify::run_oracle_sweep(**device, options);
  EXPECT_GE(suite.passed, backends * (options.reduced ? 10 : 15));
  EXPECT_EQ(suite.failed, 0);
  EXPECT_EQ(suite.skipped, 0);
  for (const std::string& message : suite.messages) ADD_FAILURE() << message;
}

INSTANTIATE_TEST_SUITE_P(Backends, Sweep, ::testing::Values(BackendCategory::kMha, BackendCategory::kMla),
                         [](const auto& category) { return category.param == BackendCategory::kMla ? "Mla" : "Mha"; });

}  // namespace
}  // namespace sextant
