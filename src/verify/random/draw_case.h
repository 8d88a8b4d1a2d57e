// Draws cases of `verify --random` from all that the backends claim to serve.
#pragma once

#include <string>
#include <vector>

#include "verify/random/random_case.h"

namespace sextant::verify {

// What a device can be asked for in a moment.
struct DrawLimits {
  DeviceKind device = DeviceKind::kCpu;
  std::string isa;  // of the CPU
  int32_t most_context = 32768;
  int64_t most_key_tokens = 1 << 18;  // of all requests
  double most_kv_elements = 4e6;      // keys, all heads and dims
  double most_row_elements = 1e18;    // queries, all heads and dims: a narrow window makes many of them cheap
  bool replays = true;                // planned for other lengths than those that run
  double most_work = 1e9;             // (dim + dim_v) * heads * pairs of query and key
  // small: for sanitizers, under which everything takes a hundred times as long.
  static DrawLimits of(DeviceKind device, const std::string& isa, bool small = false);
};

// The same for the same seed and backend. Not every drawn case is served: plan says so.
RandomCase draw_case(uint64_t seed, const Backend& backend, const DrawLimits& limits);
// One attention op of the backend's family and category, with the arguments that backends do not reach.
RandomCase draw_op_case(uint64_t seed, const Backend& backend, const DrawLimits& limits);
RandomCase draw_simple_op_case(uint64_t seed, KernelFamily family, const DrawLimits& limits);

// Cost in the units of DrawLimits::most_work.
double work_of(const RandomCase& test);

}  // namespace sextant::verify
