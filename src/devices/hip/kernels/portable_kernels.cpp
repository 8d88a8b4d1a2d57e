// The portable attention kernels. One source: a code object for each GPU architecture, and functions for the emulator.
#include "devices/hip/kernels/kernel_set.h"
#include "devices/hip/kernels/tile_attention.h"

namespace sextant::hip {

using f32 = float;
#define SEXTANT_TILE_ATTENTION(type, dk, dv)                                                 \
  SEXTANT_KERNEL(256, 1) tile_attention_##type##_##dk##_##dv(const AttentionParams params) { \
    tile_attention<type, dk, dv>(params);                                                    \
  }
SEXTANT_TILE_ATTENTION(bf16, 64, 64)
SEXTANT_TILE_ATTENTION(bf16, 128, 128)
SEXTANT_TILE_ATTENTION(bf16, 192, 128)
SEXTANT_TILE_ATTENTION(bf16, 256, 256)
SEXTANT_TILE_ATTENTION(bf16, 512, 512)
SEXTANT_TILE_ATTENTION(f16, 64, 64)
SEXTANT_TILE_ATTENTION(f16, 128, 128)
SEXTANT_TILE_ATTENTION(f16, 192, 128)
SEXTANT_TILE_ATTENTION(f16, 256, 256)
SEXTANT_TILE_ATTENTION(f16, 512, 512)
SEXTANT_TILE_ATTENTION(f32, 64, 64)
SEXTANT_TILE_ATTENTION(f32, 128, 128)
SEXTANT_TILE_ATTENTION(f32, 192, 128)
SEXTANT_TILE_ATTENTION(f32, 256, 256)
SEXTANT_TILE_ATTENTION(f32, 512, 512)

#define SEXTANT_WIDE_ATTENTION(type)                                                  \
  SEXTANT_KERNEL(256, 1) tile_attention_##type##_wide(const AttentionParams params) { \
    tile_attention<type, 256, kWideValueDims<sizeof(type)>, true>(params);            \
  }
SEXTANT_WIDE_ATTENTION(bf16)
SEXTANT_WIDE_ATTENTION(f16)
SEXTANT_WIDE_ATTENTION(f32)

SEXTANT_KERNEL_SET(portable_kernels, SEXTANT_ENTRY(tile_attention_bf16_64_64, 256),
                   SEXTANT_ENTRY(tile_attention_bf16_128_128, 256), SEXTANT_ENTRY(tile_attention_bf16_192_128, 256),
                   SEXTANT_ENTRY(tile_attention_bf16_256_256, 256), SEXTANT_ENTRY(tile_attention_f16_64_64, 256),
                   SEXTANT_ENTRY(tile_attention_f16_128_128, 256), SEXTANT_ENTRY(tile_attention_f16_192_128, 256),
                   SEXTANT_ENTRY(tile_attention_f16_256_256, 256), SEXTANT_ENTRY(tile_attention_f32_64_64, 256),
                   SEXTANT_ENTRY(tile_attention_f32_128_128, 256), SEXTANT_ENTRY(tile_attention_f32_192_128, 256),
                   SEXTANT_ENTRY(tile_attention_f32_256_256, 256), SEXTANT_ENTRY(tile_attention_bf16_512_512, 256),
                   SEXTANT_ENTRY(tile_attention_f16_512_512, 256), SEXTANT_ENTRY(tile_attention_f32_512_512, 256),
                   SEXTANT_ENTRY(tile_attention_bf16_wide, 256), SEXTANT_ENTRY(tile_attention_f16_wide, 256),
                   SEXTANT_ENTRY(tile_attention_f32_wide, 256))

}  // namespace sextant::hip
