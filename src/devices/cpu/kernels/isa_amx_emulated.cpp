// The kernels for AMX with tiles in software, so that machines without AMX test them.
#define SEXTANT_AMX_EMULATED
#define SEXTANT_ISA isa_amx_emulated
#include "devices/cpu/kernels/isa_amx_table.h"

namespace sextant::cpu {
const IsaKernels& amx_emulated_kernels() {
  static constexpr IsaKernels kTable = isa_amx_emulated::amx_table("amx_emulated");
  return kTable;
}
}  // namespace sextant::cpu
