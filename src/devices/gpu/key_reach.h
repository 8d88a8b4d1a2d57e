// Which keys a query sees, as kernels ask it: the rules of sextant/attention_mask.h.
#pragma once

#include <cstdint>

#include "devices/gpu/device_code.h"
#include "sextant/attention_mask.h"

namespace sextant::gpu {

// sextant::AttentionMask without spans: which keys around its position a query sees.
struct KeyReach {
  int32_t window = 0;  // keys up to the query's position, own included; 0: all
  int32_t right = 0;   // keys after it, where `causal` says that they are limited
  bool causal = true;
  int32_t chunk = 0;  // > 0: only the query's own chunk of so many positions
};

// A reach over more positions than memory holds keys of: kernels add it to a position in 32 bits.
constexpr int32_t kFar = 1 << 30;

constexpr KeyReach to_reach(const AttentionMask& mask) {
  const bool causal = mask.right != AttentionMask::kUnlimited;
  KeyReach reach;
  reach.window = mask.left >= kFar ? 0 : mask.left + 1;
  reach.right = !causal ? 0 : mask.right < kFar ? mask.right : kFar;
  reach.causal = causal;
  reach.chunk = mask.chunk;
  return reach;
}

struct SeenKeys {
  int32_t first, end;
};

// What a query sees of the keys [first, end), but for its span.
SEXTANT_DEVICE int32_t first_seen(const KeyReach& m, int32_t position, int32_t first) {
  if (m.window > 0) first = max(first, position - m.window + 1);
  if (m.chunk > 0) first = max(first, chunk_begin(position, m.chunk));
  return first;
}
SEXTANT_DEVICE int32_t end_seen(const KeyReach& m, int32_t position, int32_t end) {
  if (m.causal) end = static_cast<int32_t>(min(static_cast<int64_t>(end), int64_t{position} + 1 + m.right));
  if (m.chunk > 0)
    end = static_cast<int32_t>(min(static_cast<int64_t>(end), int64_t{chunk_begin(position, m.chunk)} + m.chunk));
  return end;
}

// The same with a query's `span` [begin, end), null: it has none; one that does not hold the query is none.
SEXTANT_DEVICE SeenKeys seen_keys(const KeyReach& m, const int32_t* span, int32_t position, int32_t first,
                                  int32_t end) {
  SeenKeys seen = {first_seen(m, position, first), end_seen(m, position, end)};
  if (span != nullptr) {
    const int32_t begin = read(span), behind = read(span + 1);
    if (position >= begin && position < behind)
      seen = {max(min(seen.first, begin), first), min(max(seen.end, behind), end)};
  }
  return seen;
}

}  // namespace sextant::gpu
