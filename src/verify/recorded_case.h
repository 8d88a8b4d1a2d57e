// Turns recorded attention (queries, keys, values, outputs of one request each) into a case that run_case understands.
#pragma once

#include <functional>

#include "verify/run_case.h"
#include "verify/verify.h"

namespace sextant::verify {

// Adds one suite entry per backend that fits the case.
void run_recorded(Device& device, const VerifyOptions& options, const CaseData& data, SuiteResult& suite);

// Expected rows from a recording: out(token, head, dim). `error` is what the recording itself may be off by.
void expect_recorded(CaseData& data, double error,
                     const std::function<double(int64_t token, int32_t head, int32_t dim)>& out);

// Smallest allowed head size that holds `dim`: recordings of other sizes are padded with zeros, which changes no score.
int32_t padded_head_dim(int64_t dim);

}  // namespace sextant::verify
