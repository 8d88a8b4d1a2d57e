// Tuned forward attention by type, head sizes and cache width.
#include "devices/hip/kernels/forward_attention.h"
#include "devices/hip/kernels/kernel_set.h"

namespace sextant::hip {

#if defined(__AMDGCN__)
template <class T, int dk, int dv, int keys, int wide_keys, int waves, bool fp8>
SEXTANT_DEVICE void forward_by_chip(const AttentionParams& p) {
  forward_attention<ForwardShape<T, dk, dv, kHasWideMfma ? wide_keys : keys, waves, fp8, kHasWideMfma>>(p);
}
#else
template <class T, int dk, int dv, int keys, int wide_keys, int waves, bool fp8>
void forward_by_chip(const AttentionParams& p) {
  if (kHasWideMfma) {
    forward_attention<ForwardShape<T, dk, dv, wide_keys, waves, fp8, true>>(p);
  } else {
    forward_attention<ForwardShape<T, dk, dv, keys, waves, fp8, false>>(p);
  }
}
#endif

// `keys`: of a tile, by the shared memory that there is: 64 KiB, and 160 KiB on gfx950.
#define SEXTANT_FORWARD(type, dk, dv, width, fp8, keys, wide_keys, threads, waves)                 \
  SEXTANT_KERNEL(threads, waves) forward_##type##_##dk##_##dv##_##width(const AttentionParams p) { \
    forward_by_chip<type, dk, dv, keys, wide_keys, threads / 64, fp8>(p);                          \
  }
#define SEXTANT_FORWARD_SIZES(type, width, fp8)               \
  SEXTANT_FORWARD(type, 64, 64, width, fp8, 64, 64, 512, 2)   \
  SEXTANT_FORWARD(type, 96, 96, width, fp8, 64, 64, 512, 2)   \
  SEXTANT_FORWARD(type, 128, 128, width, fp8, 64, 64, 512, 2) \
  SEXTANT_FORWARD(type, 192, 128, width, fp8, 32, 32, 512, 2) \
  SEXTANT_FORWARD(type, 256, 256, width, fp8, 32, 32, 256, 1)
SEXTANT_FORWARD_SIZES(bf16, kv16, false)
SEXTANT_FORWARD_SIZES(f16, kv16, false)
SEXTANT_FORWARD_SIZES(bf16, kv8, true)
SEXTANT_FORWARD_SIZES(f16, kv8, true)

#define SEXTANT_FORWARD_ENTRIES(type, width)                                                                      \
  SEXTANT_ENTRY(forward_##type##_64_64_##width, 512), SEXTANT_ENTRY(forward_##type##_96_96_##width, 512),         \
      SEXTANT_ENTRY(forward_##type##_128_128_##width, 512), SEXTANT_ENTRY(forward_##type##_192_128_##width, 512), \
      SEXTANT_ENTRY(forward_##type##_256_256_##width, 256)
SEXTANT_KERNEL_SET(forward_kernels, SEXTANT_FORWARD_ENTRIES(bf16, kv16), SEXTANT_FORWARD_ENTRIES(f16, kv16),
                   SEXTANT_FORWARD_ENTRIES(bf16, kv8), SEXTANT_FORWARD_ENTRIES(f16, kv8))

}  // namespace sextant::hip
