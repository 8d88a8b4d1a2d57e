// Measured: extend by three paths against one unified call.
#pragma once

#include <cstdint>
#include <optional>

#include "sextant/device.h"

namespace sextant {

// How many times as long ROCM_AITER_FA takes as ROCM_AITER_UNIFIED_ATTN, where that was measured: the nearest measured
// query and context length. Empty for a device without measurements, and without a context.
std::optional<double> three_paths_over_unified(const DeviceInfo& device, int64_t query_len, int64_t context_len);

}  // namespace sextant
