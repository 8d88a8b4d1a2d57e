// CUDA errors as Status values.
#pragma once

#include <cuda_runtime.h>

#include <string_view>

#include "sextant/status.h"

namespace sextant::cuda {

Status to_status(cudaError_t error, std::string_view what);

}  // namespace sextant::cuda
