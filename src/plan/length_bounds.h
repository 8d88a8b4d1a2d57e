// What a device's planner may rely on: lengths of now, or the bounds that the caller gave for graph replays.
#pragma once

#include <cstdint>
#include <vector>

#include "sextant/ops.h"

namespace sextant {

// Largest lengths that a plan serves.
struct LengthBounds {
  int64_t tokens = 0, requests = 0;
  int64_t query_len = 0;            // of requests that may pass the filter
  int64_t keys = 0;                 // that one request may see
  std::vector<int32_t> query_lens;  // that occur and pass the filter; may change when `open`
  bool open = false;
};
LengthBounds find_bounds(const AttentionPlanArgs& args);

}  // namespace sextant
