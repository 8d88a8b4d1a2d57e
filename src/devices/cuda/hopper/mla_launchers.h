// Instantiations of the MLA decode kernels on wgmma, by element type.
#pragma once

#include "devices/cuda/kernels/launchers.h"

namespace sextant::cuda {

StreamLauncher mla_wgmma_bf16, mla_wgmma_f16, mla_wgmma_bf16_fp8, mla_wgmma_f16_fp8;

}  // namespace sextant::cuda
