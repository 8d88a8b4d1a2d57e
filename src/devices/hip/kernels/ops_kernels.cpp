// Kernels of the ops around attention, and the planner and the reduction of attention itself.
#include "devices/hip/kernels/cache_kernels.h"
#include "devices/hip/kernels/gemm_kernel.h"
#include "devices/hip/kernels/kernel_set.h"
#include "devices/hip/kernels/plan_work.h"

namespace sextant::hip {

SEXTANT_KERNEL(256, 1) sextant_plan_work(const PlanWorkParams p) { plan_work(p); }
SEXTANT_KERNEL(256, 1) sextant_reduce_partials(const AttentionParams p) { reduce_partials(p); }
SEXTANT_KERNEL(256, 1) sextant_cache_write(const CacheWriteParams a) { cache_write(a); }
SEXTANT_KERNEL(256, 1) sextant_gather_rows(const GatherParams a) { gather_rows(a); }
SEXTANT_KERNEL(256, 1) sextant_chunk_offsets(const ChunkOffsetsParams a) { chunk_offsets(a); }
SEXTANT_KERNEL(256, 1) sextant_merge_states(const MergeParams a) { merge_states(a); }
SEXTANT_KERNEL(256, 1) sextant_copy_blocks(const CopyBlocksParams a) { copy_blocks(a); }
SEXTANT_KERNEL(256, 1) sextant_copy_pad(const CopyPadParams a) { copy_pad(a); }
SEXTANT_KERNEL(256, 1) sextant_gemm_bf16(const GemmParams g) { gemm<bf16>(g); }
SEXTANT_KERNEL(256, 1) sextant_gemm_f16(const GemmParams g) { gemm<f16>(g); }
SEXTANT_KERNEL(256, 1) sextant_gemm_f32(const GemmParams g) { gemm<float>(g); }

SEXTANT_KERNEL_SET(ops_kernels, SEXTANT_ENTRY(sextant_plan_work, 256), SEXTANT_ENTRY(sextant_reduce_partials, 256),
                   SEXTANT_ENTRY(sextant_cache_write, 256), SEXTANT_ENTRY(sextant_gather_rows, 256),
                   SEXTANT_ENTRY(sextant_chunk_offsets, 256), SEXTANT_ENTRY(sextant_merge_states, 256),
                   SEXTANT_ENTRY(sextant_copy_blocks, 256), SEXTANT_ENTRY(sextant_copy_pad, 256),
                   SEXTANT_ENTRY(sextant_gemm_bf16, 256), SEXTANT_ENTRY(sextant_gemm_f16, 256),
                   SEXTANT_ENTRY(sextant_gemm_f32, 256))

}  // namespace sextant::hip
