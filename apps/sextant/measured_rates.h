// What `sextant bench --json` measured on a machine, as the two rates that a decode step depends on.
#pragma once

#include <string>

#include "sextant/status.h"

namespace sextant::cli {

struct MeasuredRates {
  std::string device, backend;
  double attention_gbs = 0;  // keys and values, by the best backend over batches of one token a request
  double memory_gbs = 0;     // the machine's own reading
};
Result<MeasuredRates> read_measured_rates(const std::string& path);

}  // namespace sextant::cli
