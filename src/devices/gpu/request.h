// One request of a batch, as kernels load it from the current lengths.
#pragma once

#include <cstdint>

#include "devices/gpu/device_code.h"
#include "devices/gpu/key_origin.h"

namespace sextant::gpu {

// Its queries, and the key positions [key_lo, key_hi) that some of its queries may see.
struct Request {
  int32_t index = 0;
  bool active = false;  // has queries and passes the filter
  int32_t query_start = 0, query_len = 0;
  int32_t context_len = 0;  // position of the first query
  int32_t key_lo = 0, key_hi = 0;
  int32_t first_packed = 0;  // position of the first packed key
  int32_t packed_start = 0;  // its row
};

// Key positions that there are, in 64 bits: an op's range may be wider than any request.
struct KeyRange {
  int64_t lo, hi;
};

// Fills in all of `r` but key_lo and key_hi, and finds the keys of the request that the op's range [key_begin, key_end)
// and the origin leave: what queries see of them is the caller's to find.
template <class Params>
SEXTANT_DEVICE KeyRange load_lengths(const Params& p, int b, Request& r) {
  r.index = b;
  r.query_start = read(p.query_start_loc + b);
  r.query_len = read(p.query_start_loc + b + 1) - r.query_start;
  const int32_t seq_len = read(p.seq_lens + b);
  r.context_len = seq_len - r.query_len;
  r.active = r.query_len > 0 && p.filter.matches(r.query_len, seq_len);
  KeyRange keys = {p.key_begin, seq_len};
  if (p.origin == KeyOrigin::kPacked) {
    const int32_t start = read(p.key_start_loc + b), count = read(p.key_start_loc + b + 1) - start;
    r.first_packed = p.key_begin < 0 ? r.context_len : static_cast<int32_t>(p.key_begin);
    r.packed_start = start;
    keys.lo = max(r.first_packed, 0);  // fewer keys than queries: rows of positions < 0 are nobody's keys
    keys.hi = static_cast<int64_t>(r.first_packed) + count;
  } else if (p.origin == KeyOrigin::kCacheThenPacked) {
    r.first_packed = r.context_len;
    r.packed_start = r.query_start;
  }
  keys.hi = min(keys.hi, p.key_end);
  return keys;
}

template <class Params>
SEXTANT_DEVICE bool is_packed(const Params& p, const Request& r, int32_t position) {
  return p.origin == KeyOrigin::kPacked || (p.origin == KeyOrigin::kCacheThenPacked && position >= r.context_len);
}

}  // namespace sextant::gpu
