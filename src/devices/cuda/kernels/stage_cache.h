// Copies the keys that a launch will see to blocks of its own, as the forward kernel reads them fastest.
#pragma once

#include "devices/cuda/kernels/params.h"

namespace sextant::cuda {

constexpr int32_t kStagedTokens = 128;  // of a staged block: a key tile of the forward kernel

// Where the copies go: K [blocks, num_kv_heads, kStagedTokens, head_dim] in AttentionParams::dtype, or the cache's
// bytes as they are, whose rows are vectors of 16; V likewise.
struct StagedCache {
  void* k = nullptr;
  void* v = nullptr;
  int32_t* block_table = nullptr;  // [num_requests, block_table_stride]; blocks that no query sees have no entry
  int64_t block_table_stride = 0;
  int64_t blocks = 0;          // room
  int32_t request_blocks = 0;  // > 0: each request has room for so many, one request's after the other's; 0: no gaps
  bool bytes = false;
};

// Of the requests that pass p's filter: the keys of the cache that some query sees. Values of scales that belong to
// single tokens, or to a cache beside packed keys, are applied; others are left to the kernel that reads the copy.
// p's vector strides are set (vector_strides.h).
cudaError_t launch_stage_cache(const AttentionParams& p, const StagedCache& to, cudaStream_t stream);

}  // namespace sextant::cuda
