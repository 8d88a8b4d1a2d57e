// Tuned paged decode by type, head size, cache width and what lies together in V.
#include "devices/hip/kernels/decode_attention.h"
#include "devices/hip/kernels/kernel_set.h"

namespace sextant::hip {

#define SEXTANT_DECODE(type, dim, width, fp8, order, tokens)                                  \
  SEXTANT_KERNEL(256, 2) decode_##type##_##dim##_##width##_##order(const AttentionParams p) { \
    decode_attention<type, dim, fp8, tokens>(p);                                              \
  }
#define SEXTANT_DECODE_LAYOUTS(type, dim)              \
  SEXTANT_DECODE(type, dim, kv16, false, dims, false)  \
  SEXTANT_DECODE(type, dim, kv16, false, tokens, true) \
  SEXTANT_DECODE(type, dim, kv8, true, dims, false)    \
  SEXTANT_DECODE(type, dim, kv8, true, tokens, true)
SEXTANT_DECODE_LAYOUTS(bf16, 128)
SEXTANT_DECODE_LAYOUTS(f16, 128)

SEXTANT_KERNEL_SET(decode_kernels, SEXTANT_ENTRY(decode_bf16_128_kv16_dims, 256),
                   SEXTANT_ENTRY(decode_bf16_128_kv16_tokens, 256), SEXTANT_ENTRY(decode_bf16_128_kv8_dims, 256),
                   SEXTANT_ENTRY(decode_bf16_128_kv8_tokens, 256), SEXTANT_ENTRY(decode_f16_128_kv16_dims, 256),
                   SEXTANT_ENTRY(decode_f16_128_kv16_tokens, 256), SEXTANT_ENTRY(decode_f16_128_kv8_dims, 256),
                   SEXTANT_ENTRY(decode_f16_128_kv8_tokens, 256))

}  // namespace sextant::hip
