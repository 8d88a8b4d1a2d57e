// Host entries of the cache, merge and copy kernels. The op structs are plain data and go to the kernels as they are.
#pragma once

#include <cuda_runtime.h>

#include "sextant/ops.h"

namespace sextant::cuda {

cudaError_t launch_reshape_and_cache(const ReshapeAndCacheArgs& args, cudaStream_t stream);
cudaError_t launch_concat_and_cache_mla(const ConcatAndCacheMlaArgs& args, cudaStream_t stream);
cudaError_t launch_context_chunk_offsets(const ContextChunkOffsetsArgs& args, cudaStream_t stream);
cudaError_t launch_gather_cache(const GatherCacheArgs& args, cudaStream_t stream);
cudaError_t launch_merge_attn_states(const MergeAttnStatesArgs& args, cudaStream_t stream);
cudaError_t launch_copy_blocks(const CopyBlocksArgs& args, cudaStream_t stream);
cudaError_t launch_copy_pad(const CopyPadArgs& args, cudaStream_t stream);

// Elements from 8 dims of a token to the next 8 where every 8 are contiguous and start on 8 elements' alignment; else
// 0.
int32_t chunk_stride(const KvAddressing& address, int32_t head_dim, const void* base, size_t element);
// Elements from `n` dims of a token to the next `n` where every n are contiguous and start on n elements' alignment,
// the base aside; else 0.
int32_t vector_stride(const KvAddressing& address, int32_t dims, int32_t n);
// True when a strided tensor's rows of 8 elements can be moved as vectors.
bool is_vector_aligned(const TensorView& view);

}  // namespace sextant::cuda
