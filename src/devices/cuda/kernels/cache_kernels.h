// Host entries of the cache, merge and copy kernels. The op structs are plain data and go to the kernels as they are.
#pragma once

#include <cuda_runtime.h>

#include "devices/gpu/strides.h"
#include "sextant/ops.h"

namespace sextant::cuda {

using gpu::chunk_stride;
using gpu::is_vector_aligned;
using gpu::vector_stride;

cudaError_t launch_reshape_and_cache(const ReshapeAndCacheArgs& args, cudaStream_t stream);
cudaError_t launch_concat_and_cache_mla(const ConcatAndCacheMlaArgs& args, cudaStream_t stream);
cudaError_t launch_context_chunk_offsets(const ContextChunkOffsetsArgs& args, cudaStream_t stream);
cudaError_t launch_gather_cache(const GatherCacheArgs& args, cudaStream_t stream);
cudaError_t launch_merge_attn_states(const MergeAttnStatesArgs& args, cudaStream_t stream);
cudaError_t launch_copy_blocks(const CopyBlocksArgs& args, cudaStream_t stream);
cudaError_t launch_copy_pad(const CopyPadArgs& args, cudaStream_t stream);

}  // namespace sextant::cuda
