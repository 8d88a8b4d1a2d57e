// One part of a plan: a kernel, the requests that it takes, how their keys are divided and where its lists lie.
#pragma once

#include <string>

#include "devices/hip/launcher.h"

namespace sextant::hip {

// One attention kernel over the requests whose query length lies in [min_query_len, max_query_len].
struct PlanPart {
  std::string kernel;
  int threads = 256;
  int32_t min_query_len = 1, max_query_len = 0;
  int32_t rows = 0;  // query rows a tile
  SplitRule split{};
  int64_t max_items = 0;
  int32_t value_dims = 0;  // of V in a launch; 0: all
  bool reduces = false;
  // In the workspace: work lists of all parts of both kinds, then partial results, whose place the parts use in turn.
  size_t list_offset = 0, partial_out_offset = 0, partial_lse_offset = 0, workspace_bytes = 0;
};

}  // namespace sextant::hip
