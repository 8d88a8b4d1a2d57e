// The conformance sweep: every case on every backend of a device.
#include <fmt/format.h>

#include <algorithm>

#include "verify/run_case.h"
#include "verify/sweep_cases.h"
#include "verify/verify.h"

namespace sextant::verify {
namespace {

constexpr int kRowsOfACase = 48;

void record(SuiteResult& suite, const std::string& backend, const Case& test, const Verdict& verdict) {
  ++suite.cases;
  switch (verdict.kind) {
    case Verdict::Kind::kPassed:
      ++suite.passed;
      return;
    case Verdict::Kind::kSkipped:
      ++suite.skipped;
      break;
    case Verdict::Kind::kFailed:
      ++suite.failed;
      break;
  }
  suite.messages.push_back(fmt::format("{} {}, {}: {}", verdict.kind == Verdict::Kind::kSkipped ? "skipped" : "FAILED",
                                       backend, test.name, verdict.message));
}

}  // namespace

SuiteResult run_oracle_sweep(Device& device, const VerifyOptions& options) {
  SuiteResult suite;
  suite.name = "oracle sweep";
  std::vector<const Backend*> backends = options.backends;
  if (backends.empty()) backends.assign(all_backends().begin(), all_backends().end());
  std::vector<Case> cases = mha_cases(options.reduced);
  const std::vector<Case> mla = mla_cases(options.reduced);
  cases.insert(cases.end(), mla.begin(), mla.end());

  for (size_t i = 0; i < cases.size(); ++i) {
    const Case& test = cases[i];
    const uint64_t seed = options.seed * 1000003 + i;
    const auto takes = [&test](const Backend* backend) {
      return (backend->info().category == BackendCategory::kMla) == test.spec.mla.enabled();
    };
    if (std::any_of(backends.begin(), backends.end(), takes)) {  // the data and its oracle are most of the time
      const CaseData data = prepare(test, seed, kRowsOfACase);
      for (const Backend* backend : backends)
        if (takes(backend)) record(suite, backend->info().name, test, run_case(device, *backend, data, seed));
    }
    if (options.progress) options.progress(static_cast<int>(i + 1), static_cast<int>(cases.size()));
  }
  return suite;
}

}  // namespace sextant::verify
