// The kernels in plain C++, for every processor.
#define SEXTANT_ISA isa_scalar
#include "devices/cpu/kernels/isa_fp32.h"

namespace sextant::cpu {
const IsaKernels& scalar_kernels() {
  static constexpr IsaKernels kTable = isa_scalar::fp32_table("scalar");
  return kTable;
}
}  // namespace sextant::cpu
