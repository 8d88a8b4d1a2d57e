// Says whether what a backend wrote is right: sampled rows against plain attention in double precision on the device
// itself, and every element against never having been written.
#pragma once

#include <string>
#include <vector>

#include "verify/random/case_memory.h"

namespace sextant::verify {

struct JudgeLimits {
  int64_t most_rows = 512;
  double most_work = 2e7;  // keys times (dim + dim_v) of all sampled rows
};

struct PlainRows {
  std::vector<SampledRow> rows;
  int32_t dim_v = 0;
  std::vector<double> out, allowed;      // [rows, dim_v]
  std::vector<double> lse, allowed_lse;  // [rows]
};

// The keys that query `query` of a request sees, as [begin, end): straight from the definition of the mask.
struct VisibleKeys {
  int32_t begin = 0, end = 0;
};
VisibleKeys visible_keys(const RandomCase& test, const RequestShape& request, int32_t query, TokenSpan span = {});

// First and last query of every request, and others at random, each of a random head.
std::vector<SampledRow> sample_rows(const CaseMemory& memory, const JudgeLimits& limits, uint64_t seed);

// What plain attention makes of the rows, and how far from it a kernel of the case's types may be.
Result<PlainRows> attend_plainly(const CaseMemory& memory, std::vector<SampledRow> rows, bool fp8_products);

// Empty, or the first thing that is wrong.
std::string compare(const CaseMemory& memory, const PlainRows& plain, const std::vector<uint8_t>& out,
                    const std::vector<float>& lse, double* worst);
std::string unwritten(const CaseMemory& memory, const std::vector<uint8_t>& out, const std::vector<float>& lse);

}  // namespace sextant::verify
