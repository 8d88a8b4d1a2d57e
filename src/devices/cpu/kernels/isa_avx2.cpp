// The kernels for AVX2 with FMA.
#define SEXTANT_ISA isa_avx2
#include "devices/cpu/kernels/isa_fp32.h"

namespace sextant::cpu {
const IsaKernels& avx2_kernels() {
  static constexpr IsaKernels kTable = isa_avx2::fp32_table("avx2");
  return kTable;
}
}  // namespace sextant::cpu
