// Tuned forward attention by type and head sizes.
#include "devices/hip/kernels/forward_attention.h"
#include "devices/hip/kernels/kernel_set.h"

namespace sextant::hip {

// Keys of a tile at head size 128: 64 fill the 64 KiB of gfx942. gfx950's instructions hold operands twice as wide, and
// 64 would spill a register.
#ifdef __gfx950__
constexpr int kKeys128 = 32;
#else
constexpr int kKeys128 = 64;
#endif

#define SEXTANT_FORWARD(type, dk, dv, keys)                                      \
  SEXTANT_KERNEL(512, 2) forward_##type##_##dk##_##dv(const AttentionParams p) { \
    forward_attention<ForwardShape<type, dk, dv, keys>>(p);                      \
  }
SEXTANT_FORWARD(bf16, 64, 64, 64)
SEXTANT_FORWARD(bf16, 128, 128, kKeys128)
SEXTANT_FORWARD(bf16, 192, 128, 32)
SEXTANT_FORWARD(f16, 64, 64, 64)
SEXTANT_FORWARD(f16, 128, 128, kKeys128)
SEXTANT_FORWARD(f16, 192, 128, 32)

SEXTANT_KERNEL_SET(forward_kernels, SEXTANT_ENTRY(forward_bf16_64_64, 512), SEXTANT_ENTRY(forward_bf16_128_128, 512),
                   SEXTANT_ENTRY(forward_bf16_192_128, 512), SEXTANT_ENTRY(forward_f16_64_64, 512),
                   SEXTANT_ENTRY(forward_f16_128_128, 512), SEXTANT_ENTRY(forward_f16_192_128, 512))

}  // namespace sextant::hip
