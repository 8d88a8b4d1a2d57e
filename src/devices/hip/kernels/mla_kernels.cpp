// MLA decode: 16 query rows a workgroup (portable), 32 (tuned: each latent row is loaded for twice the rows), and with
// tiles that come ahead (tuned, caches whose blocks hold 8 rows from a multiple of 8 on).
#include "devices/hip/kernels/kernel_set.h"
#include "devices/hip/kernels/mla_attention.h"

// gfx950, and the emulator, which may be any chip.
#if defined(__gfx950__) || !defined(__AMDGCN__)
#define SEXTANT_LOADS_TO_SHARED
#include "devices/hip/kernels/mla_direct.h"
#endif

namespace sextant::hip {

#define SEXTANT_MLA(type, T, rows)                                                \
  SEXTANT_KERNEL(256, 1) mla_attention_##type##_##rows(const AttentionParams p) { \
    mla_attention<T, MlaShape<T, rows / 16>>(p);                                  \
  }
SEXTANT_MLA(bf16, bf16, 16)
SEXTANT_MLA(f16, f16, 16)
SEXTANT_MLA(f32, float, 16)
SEXTANT_MLA(bf16, bf16, 32)
SEXTANT_MLA(f16, f16, 32)

#ifdef SEXTANT_LOADS_TO_SHARED
template <class T, int kRowTiles, MlaTiles kTiles>
SEXTANT_DEVICE void mla_ahead_wide(const AttentionParams& p) {
  if constexpr (kTiles == MlaTiles::k16Ahead) {
    mla_direct<T, MlaDirectShape<kRowTiles>>(p);
  } else {
    mla_attention<T, MlaShape<T, kRowTiles, kTiles, true>>(p);
  }
}
#endif
template <class T, int kRowTiles, MlaTiles kTiles>
SEXTANT_DEVICE void mla_ahead_by_chip(const AttentionParams& p) {
#ifdef __gfx950__
  mla_ahead_wide<T, kRowTiles, kTiles>(p);
#elif defined(__AMDGCN__)
  mla_attention<T, MlaShape<T, kRowTiles, kTiles>>(p);
#else
  if (kHasWideMfma) {
    mla_ahead_wide<T, kRowTiles, kTiles>(p);
  } else {
    mla_attention<T, MlaShape<T, kRowTiles, kTiles>>(p);
  }
#endif
}
#define SEXTANT_MLA_AHEAD(type, rows, width, tiles)                                     \
  SEXTANT_KERNEL(256, 1) mla_ahead_##type##_##rows##_##width(const AttentionParams p) { \
    mla_ahead_by_chip<type, rows / 16, tiles>(p);                                       \
  }
SEXTANT_MLA_AHEAD(bf16, 16, kv16, MlaTiles::k16Ahead)
SEXTANT_MLA_AHEAD(bf16, 32, kv16, MlaTiles::k16Ahead)
SEXTANT_MLA_AHEAD(bf16, 16, kv8, MlaTiles::kFp8Ahead)
SEXTANT_MLA_AHEAD(bf16, 32, kv8, MlaTiles::kFp8Ahead)
SEXTANT_MLA_AHEAD(f16, 16, kv16, MlaTiles::k16Ahead)
SEXTANT_MLA_AHEAD(f16, 32, kv16, MlaTiles::k16Ahead)
SEXTANT_MLA_AHEAD(f16, 16, kv8, MlaTiles::kFp8Ahead)
SEXTANT_MLA_AHEAD(f16, 32, kv8, MlaTiles::kFp8Ahead)

SEXTANT_KERNEL_SET(mla_kernels, SEXTANT_ENTRY(mla_attention_bf16_16, 256), SEXTANT_ENTRY(mla_attention_f16_16, 256),
                   SEXTANT_ENTRY(mla_attention_f32_16, 256), SEXTANT_ENTRY(mla_attention_bf16_32, 256),
                   SEXTANT_ENTRY(mla_attention_f16_32, 256), SEXTANT_ENTRY(mla_ahead_bf16_16_kv16, 256),
                   SEXTANT_ENTRY(mla_ahead_bf16_32_kv16, 256), SEXTANT_ENTRY(mla_ahead_bf16_16_kv8, 256),
                   SEXTANT_ENTRY(mla_ahead_bf16_32_kv8, 256), SEXTANT_ENTRY(mla_ahead_f16_16_kv16, 256),
                   SEXTANT_ENTRY(mla_ahead_f16_32_kv16, 256), SEXTANT_ENTRY(mla_ahead_f16_16_kv8, 256),
                   SEXTANT_ENTRY(mla_ahead_f16_32_kv8, 256))

}  // namespace sextant::hip
