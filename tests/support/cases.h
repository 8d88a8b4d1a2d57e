// Short ways to write a case and to run it through backends on the CPU.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "support/matchers.h"
#include "verify/run_case.h"

namespace sextant::testing {

inline AttentionSpec mha_spec(int32_t heads, int32_t kv_heads, int32_t dim, DType dtype = DType::kBF16) {
  AttentionSpec spec;
  spec.num_heads = heads;
  spec.num_kv_heads = kv_heads;
  spec.head_dim = dim;
  spec.softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  spec.dtype = dtype;
  return spec;
}

inline AttentionSpec mla_spec(int32_t heads, DType dtype = DType::kBF16, int32_t rank = 128) {
  AttentionSpec spec = mha_spec(heads, heads, 192, dtype);
  spec.head_dim_v = 128;
  spec.mla = {rank, 128, 64, 128};
  return spec;
}

inline verify::Case make_case(const AttentionSpec& spec, std::vector<verify::RequestShape> requests) {
  verify::Case c;
  c.spec = spec;
  c.cache_dtype = spec.dtype;
  c.requests = std::move(requests);
  c.options.lse_out = true;
  return c;
}

inline std::shared_ptr<Device> cpu() {
  static const std::shared_ptr<Device> kDevice = open_device(DeviceKind::kCpu).value();
  return kDevice;
}

inline std::vector<const Backend*> backends_for(const AttentionSpec& spec) {
  std::vector<const Backend*> fitting;
  for (const Backend* backend : all_backends())
    if ((backend->info().category == BackendCategory::kMla) == spec.mla.enabled()) fitting.push_back(backend);
  return fitting;
}

// Runs the case through every backend of its category against the oracle.
inline void expect_right_everywhere(const verify::Case& test, uint64_t seed = 7) {
  const verify::CaseData data = verify::prepare(test, seed, 64);
  for (const Backend* backend : backends_for(test.spec)) {
    const verify::Verdict verdict = verify::run_case(*cpu(), *backend, data, seed);
    EXPECT_EQ(verdict.kind, verify::Verdict::Kind::kPassed) << backend->info().name << ": " << verdict.message;
  }
}

}  // namespace sextant::testing
