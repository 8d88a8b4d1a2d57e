// How the MLA decode kernels divide their work.
#pragma once

#include "devices/cuda/kernel_table.h"

namespace sextant::cuda {

bool plan_mla_transposed(PlanPart& part, const PlanInput& input);      // false: too many rows for its tile
bool plan_mla_bytes_clusters(PlanPart& part, const PlanInput& input);  // the same; or not by clusters
bool plan_mla_bytes(PlanPart& part, const PlanInput& input);           // the same
bool plan_mla_wgmma(PlanPart& part, const PlanInput& input);
bool plan_mla(PlanPart& part, const PlanInput& input);

}  // namespace sextant::cuda
