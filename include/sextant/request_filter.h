// Which requests of a batch an op works on. Evaluated where the op runs, on the current lengths, so that a captured
// graph stays right when lengths change. Rows of other requests are not touched. GPU kernels call it too.
#pragma once

#include <cstdint>
#include <limits>

namespace sextant {

struct RequestFilter {
  enum class Context : uint8_t { kAny, kNone /* context_len == 0 */, kSome /* context_len > 0 */ };
  int32_t min_query_len = 1;
  int32_t max_query_len = std::numeric_limits<int32_t>::max();
  Context context = Context::kAny;

  constexpr bool matches(int32_t query_len, int32_t seq_len) const {
    return query_len >= min_query_len && query_len <= max_query_len &&
           (context == Context::kAny || (context == Context::kSome) == (seq_len > query_len));
  }
};

}  // namespace sextant
