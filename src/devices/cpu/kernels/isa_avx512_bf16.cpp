// The kernels for AVX-512 with `vdpbf16ps`.
#define SEXTANT_ISA isa_avx512_bf16
#include "devices/cpu/kernels/engine_bf16.h"
#include "devices/cpu/kernels/isa_fp32.h"
#include "devices/cpu/kernels/stream_bf16.h"

namespace sextant::cpu {
namespace isa_avx512_bf16 {
namespace {
constexpr IsaKernels table() {
  IsaKernels t = {};
  t.name = "avx512_bf16";
  t.bf16 = attention_kernels<DotEngine, DotStream>(384, 16);
  return t;
}
}  // namespace
}  // namespace isa_avx512_bf16

// Everything but the bf16 products comes from the AVX-512 unit (see cpu_isa.cpp).
const IsaKernels& avx512_bf16_kernels() {
  static constexpr IsaKernels kTable = isa_avx512_bf16::table();
  return kTable;
}
}  // namespace sextant::cpu
