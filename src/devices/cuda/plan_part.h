// One part of a plan: a kernel, the requests that it takes, how their work is divided and where partial results lie.
#pragma once

#include <memory>
#include <optional>

#include "devices/cuda/chip_rates.h"
#include "devices/cuda/division.h"
#include "devices/cuda/kernels/launchers.h"
#include "devices/cuda/kernels/stage_cache.h"
#include "sextant/ops.h"

namespace sextant::cuda {

// What planning needs to know of the chip.
struct ChipLimits {
  int sms = 0;
  int compute_capability = 0;  // 90 for sm_90
  int64_t shared_bytes = 0;    // a block, at most
  ClusterLimits clusters_at_once{};
  ChipRates rates;

  SharedRoom room() const { return shared_room(shared_bytes); }
};

struct AttentionKernel;  // kernel_table.h

// Keys copied before the kernel runs (plan_staging.h); offsets in the part's workspace.
struct Staging {
  int64_t blocks = 0;          // room, of kStagedTokens
  int32_t request_blocks = 0;  // StagedCache::request_blocks
  int64_t table_stride = 0;    // entries of a request
  size_t k_offset = 0, v_offset = 0, table_offset = 0, end = 0;
  bool bytes = false;  // of an 8-bit cache, as they are
};

// One attention kernel and its reduce, over the requests whose query length lies in [min_query_len, max_query_len].
struct PlanPart {
  const AttentionKernel* kernel = nullptr;
  Division division;  // one of those that the kernel knows: set by the kernel's own planner
  int32_t min_query_len = 1, max_query_len = 0;
  int32_t rows = 0;       // of a row tile
  int32_t tile_keys = 0;  // of a key tile
  int64_t max_keys = 0;   // of a request
  double seconds = 0;     // an estimate; 0: none was made
  int front_sms = 0;      // of the forward kernel, where it serves decodes and prefills at once
  int sms = 0;            // that a persistent kernel's blocks should take
  bool whole = false;     // no request may be split, unless the caller asks for it
  bool reduces = false;   // partial results, merged by a second kernel
  std::optional<Staging> staging;
  std::shared_ptr<const RequestOrder> requests;  // of the forward kernel; null: the order of the batch
  size_t partial_lse_offset = 0, tile_starts_offset = 0, counters_offset = 0, workspace_bytes = 0;

  bool takes(int64_t query_len) const { return query_len >= min_query_len && query_len <= max_query_len; }
};

}  // namespace sextant::cuda
