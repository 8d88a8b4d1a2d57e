// MLA decode: 16 query rows a workgroup (portable), 32 (tuned: each latent row is loaded for twice the rows).
#include "devices/hip/kernels/kernel_set.h"
#include "devices/hip/kernels/mla_attention.h"

namespace sextant::hip {

SEXTANT_KERNEL(256, 1) mla_attention_bf16_16(const AttentionParams p) { mla_attention<bf16, 1>(p); }
SEXTANT_KERNEL(256, 1) mla_attention_f16_16(const AttentionParams p) { mla_attention<f16, 1>(p); }
SEXTANT_KERNEL(256, 1) mla_attention_f32_16(const AttentionParams p) { mla_attention<float, 1>(p); }
SEXTANT_KERNEL(256, 1) mla_attention_bf16_32(const AttentionParams p) { mla_attention<bf16, 2>(p); }
SEXTANT_KERNEL(256, 1) mla_attention_f16_32(const AttentionParams p) { mla_attention<f16, 2>(p); }

SEXTANT_KERNEL_SET(mla_kernels, SEXTANT_ENTRY(mla_attention_bf16_16, 256), SEXTANT_ENTRY(mla_attention_f16_16, 256),
                   SEXTANT_ENTRY(mla_attention_f32_16, 256), SEXTANT_ENTRY(mla_attention_bf16_32, 256),
                   SEXTANT_ENTRY(mla_attention_f16_32, 256))

}  // namespace sextant::hip
