// What planning an attention op on CUDA needs to know of a batch, and the ways to divide keys over blocks.
#pragma once

#include "devices/cuda/plan_part.h"
#include "ops/checks.h"
#include "plan/length_bounds.h"
#include "types/ceil_div.h"

namespace sextant::cuda {

constexpr int32_t kDeterministicKeys = 1024;  // keys of a partition when bits must not depend on the machine

// Requests that are short enough for the decode kernels, and the others.
struct Bounds : LengthBounds {
  int64_t active = 1;           // requests that pass the filter now; 1 at least
  int64_t short_query_len = 0;  // of those no longer than a decode kernel takes
  bool any_short = false, any_long = false;
};

Bounds find_bounds(const AttentionPlanArgs& a, int32_t short_len);

// Keys that the requests of one part see, all heads alike.
struct PartKeys {
  double requests = 0, sum = 0, longest = 0;
};
// K and V of one head.
inline double bytes_of_key(const AttentionParams& p) {
  return static_cast<double>(p.head_dim + p.head_dim_v) * static_cast<double>(size_of(p.cache_dtype));
}
PartKeys count_keys(const AttentionPlanArgs& a, const Bounds& n, int64_t min_query_len, int64_t max_query_len);

// A fixed split of the keys, and room in the part's workspace for its partial results. `num_slots`: of partial rows.
FixedSplit make_fixed_split(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int32_t partition,
                            int32_t segments, int64_t max_query_len, int32_t granule, int64_t* num_slots);

// Row-tile kernels: split only where the rows alone do not fill the chip.
void set_row_tiles(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int32_t short_len,
                   int64_t wanted_blocks);

// The same, split into partitions of so many keys.
void split_row_tiles(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int32_t partition,
                     int64_t max_query_len);

// Decode kernels: the balanced list, or a fixed split when one is asked for. `overhead`: tiles that a request more
// costs a block.
void set_decode_split(PlanPart& part, const AttentionPlanArgs& a, const Bounds& n, int32_t short_len, int blocks_per_sm,
                      int32_t overhead, const ChipLimits& chip);

}  // namespace sextant::cuda
