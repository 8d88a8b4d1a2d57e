// Whether the planner chooses well: a case by every plan that the planner could have made.
#pragma once

#include <string>
#include <vector>

#include "cuda_bench_cases.h"

namespace sextant::cuda_bench {

// Times each case by the chosen plan and by all others, prints the time of the best over that of the chosen one, the
// geometric mean and the worst. `json`: a file for all times, or empty. Stops after `seconds`. The number of wrong
// results.
int run_choices(const std::vector<Case>& cases, int replays, double seconds, const std::string& json);

}  // namespace sextant::cuda_bench
