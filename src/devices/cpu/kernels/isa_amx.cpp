// The kernels for AMX tiles.
#define SEXTANT_ISA isa_amx
#include "devices/cpu/kernels/isa_amx_table.h"

namespace sextant::cpu {
const IsaKernels& amx_kernels() {
  static constexpr IsaKernels kTable = isa_amx::amx_table("amx");
  return kTable;
}
}  // namespace sextant::cpu
