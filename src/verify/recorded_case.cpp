// Makes cases of recorded attention.
#include "verify/recorded_case.h"

#include <fmt/format.h>

#include <algorithm>

namespace sextant::verify {

void run_recorded(Device& device, const VerifyOptions& options, const CaseData& data, SuiteResult& suite) {
  for (const Backend* backend : all_backends()) {
    if (!options.backends.empty() &&
        std::find(options.backends.begin(), options.backends.end(), backend) == options.backends.end())
      continue;
    if ((backend->info().category == BackendCategory::kMla) != data.test.spec.mla.enabled()) continue;
    const Verdict verdict = run_case(device, *backend, data, options.seed);
    ++suite.cases;
    if (verdict.kind == Verdict::Kind::kPassed) {
      ++suite.passed;
      continue;
    }
    const bool skipped = verdict.kind == Verdict::Kind::kSkipped;
    ++(skipped ? suite.skipped : suite.failed);
    suite.messages.push_back(fmt::format("{} {}, {}: {}", skipped ? "skipped" : "FAILED", backend->info().name,
                                         data.test.name, verdict.message));
  }
}

void expect_recorded(CaseData& data, double error, const std::function<double(int64_t, int32_t, int32_t)>& out) {
  for (int64_t token = 0; token < data.query_start_loc.back(); ++token)
    for (int32_t head = 0; head < data.test.spec.num_heads; ++head) {
      CaseData::Expected expected{token, head, {}, error, error, 0};
      for (int32_t d = 0; d < data.test.spec.value_head_dim(); ++d) expected.row.out.push_back(out(token, head, d));
      data.expected.push_back(std::move(expected));
    }
}

int32_t padded_head_dim(int64_t dim) { return static_cast<int32_t>((dim + 7) / 8 * 8); }

}  // namespace sextant::verify
