// Which keys a query sees, whatever computes it. Every mask here shows a query one interval of positions, and neither
// end of it falls as queries advance; so a tile of queries sees from its first query's first key to its last one's end.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace sextant {

// First position of the chunk that holds `position`. Positions before a sequence's start (more queries than keys)
// belong to chunks of their own. GPU kernels call it too.
template <class Int>
constexpr Int chunk_begin(Int position, int32_t chunk) {
  const Int inside = position % chunk;
  return position - inside - (inside < 0 ? chunk : 0);
}

// Positions [begin, end) of a request whose tokens see one another whatever the mask says, as an image's do; begin >=
// end: none. A query lies in its own span, and in what the mask shows it, so that both together are one interval.
struct TokenSpan {
  int32_t begin = 0, end = 0;
  constexpr bool holds(int64_t position) const { return position >= begin && position < end; }
  friend constexpr bool operator==(const TokenSpan&, const TokenSpan&) = default;
};

struct AttentionMask {
  static constexpr int32_t kUnlimited = std::numeric_limits<int32_t>::max();
  int32_t left = kUnlimited;   // keys before a query's position that it sees at most
  int32_t right = kUnlimited;  // and after it
  int32_t chunk = 0;           // > 0: only those of its own chunk of so many positions
  int32_t max_span_len = 0;    // > 0: tokens may have a span, of so many positions at most

  // [first_key, end_key) of a query at `position`, before a sequence's ends cut it.
  constexpr int64_t first_key(int64_t position, TokenSpan span = {}) const {
    int64_t first = left == kUnlimited ? std::numeric_limits<int64_t>::min() : position - left;
    if (chunk > 0) first = std::max(first, chunk_begin(position, chunk));
    return span.holds(position) ? std::min<int64_t>(first, span.begin) : first;
  }
  constexpr int64_t end_key(int64_t position, TokenSpan span = {}) const {
    int64_t end = right == kUnlimited ? std::numeric_limits<int64_t>::max() : position + right + 1;
    if (chunk > 0) end = std::min(end, chunk_begin(position, chunk) + chunk);
    return span.holds(position) ? std::max<int64_t>(end, span.end) : end;
  }
  constexpr bool visible(int64_t query, int64_t key, TokenSpan span = {}) const {
    return key >= first_key(query, span) && key < end_key(query, span);
  }

  // The most keys before, and after, its own position that any query sees.
  constexpr int32_t most_left() const { return with_span(chunk > 0 ? std::min(left, chunk - 1) : left); }
  constexpr int32_t most_right() const { return with_span(chunk > 0 ? std::min(right, chunk - 1) : right); }
  // Without spans: what a query sees, whatever its span. For kernels that look at a query's span where they mask.
  constexpr AttentionMask widest() const {
    return max_span_len > 0 ? AttentionMask{most_left(), most_right()} : AttentionMask{left, right, chunk};
  }

  friend constexpr bool operator==(const AttentionMask&, const AttentionMask&) = default;

 private:
  constexpr int32_t with_span(int32_t keys) const {
    return max_span_len == kUnlimited ? kUnlimited : std::max(keys, max_span_len - 1);
  }
};

}  // namespace sextant
