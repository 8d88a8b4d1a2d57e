// The kernels for AVX-512.
#define SEXTANT_ISA isa_avx512
#include "devices/cpu/kernels/isa_fp32.h"

namespace sextant::cpu {
const IsaKernels& avx512_kernels() {
  static constexpr IsaKernels kTable = isa_avx512::fp32_table("avx512");
  return kTable;
}
}  // namespace sextant::cpu
