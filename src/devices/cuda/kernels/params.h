// What the kernels get: plain structs, passed by value.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "devices/gpu/key_origin.h"
#include "devices/gpu/key_reach.h"
#include "sextant/kv_cache.h"
#include "sextant/request_filter.h"
#include "sextant/types.h"

namespace sextant::cuda {

// What the chip converts to fp16 by an instruction or by moving bytes.
constexpr bool is_native_fp8(DType dtype) { return dtype == DType::kF8E4M3FN || dtype == DType::kF8E5M2; }

using gpu::KeyOrigin;
using gpu::KeyReach;

// How the keys of a request are divided, decided on the device from its current lengths.
struct FixedSplit {
  int32_t partition = 0;       // keys a partition; 0: by segments
  int32_t segments = 1;        // equal segments a request, when partition == 0
  int32_t max_query_len = 0;   // requests with longer queries are not split; 0: nothing is split
  int32_t max_partitions = 1;  // bound; the partial results' innermost extent
  int32_t granule = 1;         // partitions are multiples of this
  bool compact_slots = false;  // partial rows by (request, query) instead of by token
};

struct AttentionParams {
  const void* q = nullptr;  // [T, Hq, D]
  void* out = nullptr;      // [T, Hq, Dv]
  float* lse = nullptr;     // [Hq, T]
  int64_t q_token_stride = 0, q_head_stride = 0;
  int64_t out_token_stride = 0, out_head_stride = 0;
  int64_t lse_head_stride = 0, lse_token_stride = 0;
  const int32_t* query_start_loc = nullptr;  // [B + 1]
  const int32_t* seq_lens = nullptr;         // [B]
  const int32_t* key_start_loc = nullptr;    // [B + 1]
  const int32_t* block_table = nullptr;      // [B, block_table_stride]
  int64_t block_table_stride = 0;            // 0: all requests share row 0 (shared prefix)

  const void* cache_k = nullptr;
  const void* cache_v = nullptr;
  KvAddressing k_addr, v_addr;
  int32_t k_chunk_stride = 0,
          v_chunk_stride = 0;  // elements from 8 dims to the next 8; 0: not 8 contiguous, aligned dims
  int32_t k_vector_stride = 0, v_vector_stride = 0;  // elements from 16 bytes of a token's dims to the next 16; 0: no
  int32_t v_run_stride = 0;                          // elements from 16 bytes of a dim's tokens to the next 16; 0: no
  const float* k_scale = nullptr;
  const float* v_scale = nullptr;
  int32_t num_scales = 1;
  const float* k_token_scales = nullptr;  // one a token and head, at scale_strides; null: none
  const float* v_token_scales = nullptr;
  KvScaleStrides scale_strides;
  bool has_token_scales = false;
  int32_t block_size = 1;
  int32_t block_shift = -1;  // log2(block_size) when it is a power of two
  int32_t num_blocks = 0;
  DType cache_dtype = DType::kBF16;
  DType dtype = DType::kBF16;

  const void* packed_k = nullptr;  // [Tk, Hkv, D]
  const void* packed_v = nullptr;  // [Tk, Hkv, Dv]
  int64_t packed_k_token_stride = 0, packed_k_head_stride = 0;
  int64_t packed_v_token_stride = 0, packed_v_head_stride = 0;
  int64_t packed_rows = 0;      // that both tensors have
  bool packed_aligned = false;  // rows start on 16 bytes
  bool q_aligned = false;

  const float* state_out = nullptr;  // [T, Hq, Dv]; the result is merged with this state; null: with none
  const float* state_lse = nullptr;  // [Hq, T]
  int64_t state_token_stride = 0, state_head_stride = 0;
  int64_t state_lse_head_stride = 0, state_lse_token_stride = 0;

  const float* sinks = nullptr;         // [Hq]
  const float* alibi_slopes = nullptr;  // [Hq]

  int32_t num_tokens = 0, num_requests = 0;
  int32_t num_heads = 0, num_kv_heads = 0, group_size = 1;
  int32_t group_shift = 0;  // group_size is this power of two; -1: it is none
  int32_t head_dim = 0, head_dim_v = 0;
  float softmax_scale = 0, soft_cap = 0;
  // The keys around a query's position that it sees at most, whatever its span; as in KeyReach.
  int32_t window = 0, right = 0;
  bool causal = true;
  bool out_f32 = false;
  bool values_in_keys = false;  // latent cache: V is the first head_dim_v columns of K
  KeyOrigin origin = KeyOrigin::kCache;
  int64_t key_begin = 0, key_end = 0;
  int32_t key_align = 1;  // a request's first key is rounded down to a multiple of this power of two

  RequestFilter filter;

  int32_t list_overhead = 0;  // tiles that a segment of the balanced list costs beside its own
  int32_t list_group = 1;     // blocks that share an entry of the balanced list, each with its own rows of it
  bool balanced = false;      // work comes from the balanced list (kernels/work_list.cuh), not from `split`
  FixedSplit split;
  float* partial_out = nullptr;    // fixed split: [slots, Hq, max_partitions, Dv]; balanced: [slots, rows, Dv]
  float* partial_lse = nullptr;    // fixed split: [slots, Hq, max_partitions];     balanced: [slots, rows]
  int32_t* tile_starts = nullptr;  // balanced: [B + 1] first work tile of each request

  // For the kernel that knows chunks and spans.
  KeyReach own;  // of a query without a span
  bool has_spans = false;
  const int32_t* token_spans = nullptr;  // [T, 2]
};

// A launch of one of several instantiations; null where there is none.
using AttentionLauncher = cudaError_t (*)(const AttentionParams& params, cudaStream_t stream);

}  // namespace sextant::cuda
