// Recorded traffic: when requests came, how long they were, which prefixes they share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sextant/status.h"

namespace sextant {

struct TraceRequest {
  int64_t arrival_ms = 0;     // since the trace began
  int32_t input_length = 0;   // prompt tokens, >= 1
  int32_t output_length = 0;  // generated tokens, the first of them by the prefill
  // One id a block of Trace::hash_block_size prompt tokens (the last may be partial); equal ids are equal content after
  // equal prefixes. Empty: nothing is known to be shared.
  std::vector<int64_t> hash_ids;
};

struct Trace {
  std::string name;
  int32_t hash_block_size = 512;
  std::vector<TraceRequest> requests;  // by arrival
};

// Reads Azure's CSV (TIMESTAMP,ContextTokens,GeneratedTokens) or Mooncake's JSON lines (timestamp, input_length,
// output_length, hash_ids); the first line decides which. An error names file, line, field, value and what is allowed.
// max_requests 0: all; lines after that are not read.
Result<Trace> read_trace(const std::string& path, int64_t max_requests = 0);

// Traffic with the distributions of the Mooncake conversation trace, the same for every machine: a system prompt that
// all requests share, new conversations, and next turns of earlier ones (synthetic_trace.cpp has the figures).
inline constexpr uint64_t kTypicalSeed = 227;  // its first 32 and 128 requests lie near the whole trace's figures, too
Trace make_synthetic_trace(int64_t num_requests, uint64_t seed = kTypicalSeed);

// Divides every length, and the hash blocks, by `divisor`: the same traffic shape and sharing for a smaller machine.
Status shrink_trace(Trace& trace, int32_t divisor);

}  // namespace sextant
