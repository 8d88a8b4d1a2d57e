// What this machine can do at most, measured: the figures that `sextant bench` divides by.
#pragma once

#include "sextant/executor.h"

namespace sextant::cpu {

struct Ceilings {
  double matrix_tflops = 0;  // products of bf16 pairs (AMX or vdpbf16ps); equal to fma_tflops where there are none
  double fma_tflops = 0;     // fp32
  double read_gbs = 0;       // memory read, a working set far beyond the caches
};

// All workers of the executor at once; takes about half a second.
Ceilings cpu_ceilings(Executor& executor);

}  // namespace sextant::cpu
