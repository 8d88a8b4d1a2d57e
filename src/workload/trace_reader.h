// One line of each trace format.
#pragma once

#include <string>
#include <string_view>

#include "sextant/trace.h"

namespace sextant {

inline constexpr std::string_view kAzureHeader = "TIMESTAMP,ContextTokens,GeneratedTokens";
inline constexpr int64_t kMaxTraceTokens = 1 << 30;  // a request longer than that is a broken line

// `where` is "file:line". `last` says that no line follows, so a broken one may be a cut one.
struct TraceLine {
  std::string_view text;
  std::string where;
  bool last = false;
};

// "file:line: field is value; allowed: ...".
Status trace_error(const TraceLine& line, std::string_view field, std::string_view value, std::string_view allowed);

// arrival_ms is absolute here; the caller subtracts the first one.
Result<TraceRequest> parse_azure_line(const TraceLine& line);
Result<TraceRequest> parse_mooncake_line(const TraceLine& line, int32_t hash_block_size);

}  // namespace sextant
