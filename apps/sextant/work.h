// How much work a batch is: what TFLOP/s and GB/s count.
#pragma once

#include <vector>

#include "sextant/spec.h"
#include "sextant/workload.h"

namespace sextant::cli {

// Visible (query, key) pairs: q * context + q (q + 1) / 2 when causal, fewer with a window.
int64_t visible_pairs(const AttentionSpec& spec, const RequestLengths& request);
// Keys that at least one query of the request sees.
int64_t visible_keys(const AttentionSpec& spec, const RequestLengths& request);

// 2 (Dqk + Dv) heads pairs. MLA requests of one token count the absorbed form that they run in: Dqk = kv_lora_rank +
// rope, Dv = kv_lora_rank. Projections are not counted.
double attention_flops(const AttentionSpec& spec, const std::vector<RequestLengths>& requests);
// Each visible key's and value's bytes once.
double kv_bytes(const AttentionSpec& spec, KvFormat kv_format, const std::vector<RequestLengths>& requests);

}  // namespace sextant::cli
