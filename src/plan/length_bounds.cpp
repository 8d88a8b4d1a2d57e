// Finds the largest lengths that a plan serves.
#include "plan/length_bounds.h"

#include <algorithm>

namespace sextant {

LengthBounds find_bounds(const AttentionPlanArgs& a) {
  LengthBounds n;
  n.requests = static_cast<int64_t>(a.seq_lens.size());
  n.tokens = a.query_start_loc.empty() ? 0 : a.query_start_loc.back();
  int64_t seq_len = a.bounds.max_seq_len, packed = 0;
  for (size_t b = 0; b < a.seq_lens.size(); ++b) {
    const int32_t query_len = a.query_start_loc[b + 1] - a.query_start_loc[b];
    if (!a.key_start_loc.empty()) packed = std::max<int64_t>(packed, a.key_start_loc[b + 1] - a.key_start_loc[b]);
    seq_len = std::max<int64_t>(seq_len, a.seq_lens[b]);
    n.query_len = std::max<int64_t>(n.query_len, query_len);
    if (query_len >= a.filter.min_query_len && query_len <= a.filter.max_query_len && query_len > 0)
      n.query_lens.push_back(query_len);
  }
  n.open = a.bounds.open();
  n.query_len = std::min<int64_t>(std::max<int64_t>(n.query_len, a.bounds.max_query_len), a.filter.max_query_len);
  if (a.op == AttentionOp::kVarlen) {
    const bool bounded = !a.key_start_loc.empty() && !n.open;
    n.keys = bounded ? packed : (a.max_packed_keys > 0 ? a.max_packed_keys : seq_len);
  } else {
    n.keys = std::max<int64_t>(0, std::min(seq_len, a.key_end) - a.key_begin);
  }
  // A request's queries together see their own positions, and what the first sees before and the last after itself.
  const int64_t left = a.spec.mask().most_left(), right = a.spec.mask().most_right();
  if (left != AttentionMask::kUnlimited && right != AttentionMask::kUnlimited)
    n.keys = std::min(n.keys, left + n.query_len + right + 1);
  return n;
}

}  // namespace sextant
