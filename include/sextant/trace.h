// Recorded traffic: when requests came, how long they were, which prefixes they share.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
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
  std::string format;  // TraceFormat::name, or "built in"
  int32_t hash_block_size = 512;
  std::vector<TraceRequest> requests;  // by arrival
  std::vector<std::string> notes;      // what was assumed: lengths guessed from text, images that came along
};

// A format of trace files.
struct TraceFormat {
  std::string_view name;     // "azure", what --trace-format takes
  std::string_view summary;  // "CSV: TIMESTAMP,ContextTokens,GeneratedTokens"
};
std::span<const TraceFormat> trace_formats();

struct TraceOptions {
  int64_t max_requests = 0;     // 0: all; what comes after that is not read
  std::string format = "auto";  // by the first line that is not blank
  int32_t hash_block_size = 0;  // tokens a hash id; 0: what the format's publishers use
};

// Reads a recorded trace. Byte order marks, blank lines, quoted fields and carriage returns are taken as editors leave
// them. An error names file, line, field, value and what is allowed.
Result<Trace> read_trace(const std::string& path, const TraceOptions& options);
Result<Trace> read_trace(const std::string& path, int64_t max_requests = 0);

// Traffic with the distributions of the Mooncake conversation trace, the same for every machine: a system prompt that
// all requests share, new conversations, and next turns of earlier ones (synthetic_trace.cpp has the figures).
inline constexpr uint64_t kTypicalSeed = 227;  // its first 32 and 128 requests lie near the whole trace's figures, too
Trace make_synthetic_trace(int64_t num_requests, uint64_t seed = kTypicalSeed);

// Divides every length, and the hash blocks, by `divisor`: the same traffic shape and sharing for a smaller machine.
Status shrink_trace(Trace& trace, int32_t divisor);

}  // namespace sextant
