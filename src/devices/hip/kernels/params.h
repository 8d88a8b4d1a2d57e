// What kernels get: plain structs, passed by value. Shared by host and kernels, so they name no type of either.
#pragma once

#include <cstdint>

#include "devices/gpu/key_origin.h"
#include "devices/gpu/key_reach.h"
#include "sextant/kv_addressing.h"
#include "sextant/request_filter.h"

namespace sextant::hip {

using gpu::KeyOrigin;
using gpu::KeyReach;

// sextant::DType's floating-point values, in its order, and int8.
enum class Format : int32_t { kF32, kF16, kBF16, kE4M3FN, kE4M3FNUZ, kE5M2, kI8 };

// Scales of a cache with one a token and head; data null: it has none.
struct TokenScales {
  float* data;
  int64_t block_stride, token_stride, head_stride;
};

// Division of a position by the block size, of a row by the group size: high half of 2 n * factor, shifted right. Exact
// for 0 <= n < 2^31.
struct BlockDivisor {
  uint32_t factor, shift;
};

// How the keys of requests are divided into work items. The sizes are found on the device from the current lengths.
struct SplitRule {
  int32_t partition;      // keys a partition; 0: see segments
  int32_t segments;       // equal segments a request; 0: see target_items
  int32_t target_items;   // partitions such that about this many items come out; 0: no split
  int32_t max_query_len;  // longer requests are not split
  int32_t granule;        // partitions are multiples of this
};

// The work list in the workspace: item w belongs to the request b with first_item[b] <= w < first_item[b + 1]; within
// a request items count KV heads, row tiles, partitions, the last fastest.
struct WorkList {
  int32_t* first_item;  // [B + 1]
  int32_t* partition;   // [B] keys a partition
  int32_t rows;         // query rows a tile
  int32_t max_items;    // workgroups that are launched
  int32_t num_xcds;     // chiplets that take workgroups in turns; 1: none
};

// Dims of V that one launch over wide latents makes, by the size of an element: what the registers hold.
template <int kElement>
constexpr int32_t kWideValueDims = kElement == 4 ? 256 : 512;

struct AttentionParams {
  const void* q;  // [T, Hq, D]
  void* out;      // [T, Hq, Dv]
  float* lse;     // [Hq, T]
  int64_t q_token_stride, q_head_stride;
  int64_t out_token_stride, out_head_stride;
  int64_t lse_head_stride, lse_token_stride;
  const int32_t* query_start_loc;  // [B + 1]
  const int32_t* seq_lens;         // [B]
  const int32_t* key_start_loc;    // [B + 1]
  const int32_t* block_table;      // [B, block_table_stride]
  int64_t block_table_stride;      // 0: all requests share row 0 (shared prefix)

  const void* cache_k;
  const void* cache_v;
  KvAddressing k_addr, v_addr;
  int32_t k_chunk_stride, v_chunk_stride;  // elements from 8 dims to the next 8; 0: not 8 contiguous, aligned dims
  // Keys by tiles of 8 << k_tile_shift contiguous dims, k_tile_stride elements apart; 0: not so.
  int32_t k_tile_stride, k_tile_shift;
  const float* k_scale;
  const float* v_scale;
  TokenScales k_token_scales, v_token_scales;
  int32_t num_scales;
  int32_t block_size;
  BlockDivisor block_divisor;
  int32_t num_blocks;
  Format cache_format, format;

  const void* packed_k;  // [Tk, Hkv, D]
  const void* packed_v;  // [Tk, Hkv, Dv]
  int64_t packed_k_token_stride, packed_k_head_stride;
  int64_t packed_v_token_stride, packed_v_head_stride;
  int32_t packed_aligned, q_aligned, out_aligned;  // rows start on 16 bytes

  const float* sinks;         // [Hq]
  const float* alibi_slopes;  // [Hq]

  int32_t num_requests, num_heads, num_kv_heads, group_size;
  BlockDivisor group_divisor;  // by group_size
  int32_t head_dim, head_dim_v;
  float softmax_scale, soft_cap;
  KeyReach reach;              // of a query without a span
  const int32_t* token_spans;  // [T, 2]; null: none
  int32_t out_f32, values_in_keys;
  int32_t value_begin;  // the first dim of V that a launch makes, where several share them (wide latents)
  KeyOrigin origin;
  int64_t key_begin, key_end;

  RequestFilter filter;

  SplitRule split;
  WorkList work;
  float* partial_out;  // [items, rows, Dv]
  float* partial_lse;  // [items, rows]
};

// The work lists of all parts of an attention op, each by a workgroup of its own.
struct PlanWorkParams {
  struct Part {
    int32_t min_query_len, max_query_len;
    SplitRule split;
    WorkList work;
  };
  // Short queries, and the others; and those for tensors that are not aligned, which a later layer may bring.
  static constexpr int kMostParts = 4;
  AttentionParams attention;  // without what the parts say
  Part parts[kMostParts];
};

// A strided tensor.
struct Tensor3 {
  void* data;
  int64_t shape[3], stride[3];
  Format format;
  int32_t aligned;  // rows of 8 elements start on 16 bytes
};

// One tensor of a cache write or a gather: dims [dim_begin, dim_begin + dim) of each head.
struct CachePart {
  void* rows;  // packed side
  int64_t token_stride, head_stride;
  void* cache;
  KvAddressing address;
  const float* scale;
  TokenScales token_scales;
  int32_t heads, dim, dim_begin;
  int32_t chunks;  // of a head: dim / 8 when `vectors`, else dim
  int32_t vectors;
};
struct CacheWriteParams {
  CachePart parts[2];  // keys, values
  const int64_t* slot_mapping;
  int64_t num_tokens, num_slots;
  int32_t block_size, num_scales;
  float largest_stored, smallest_scale;  // of scales that are found here
  Format cache_format, row_format;
};
struct GatherParams {
  CachePart parts[2];  // keys, values
  const int32_t* block_table;
  int64_t block_table_stride;
  const int32_t* key_start_loc;
  const int32_t* seq_lens;  // null: chunk_begin counts
  int64_t chunk_begin, max_rows;
  int32_t num_requests, num_blocks, block_size, num_scales;
  Format cache_format, row_format;
};
struct ChunkOffsetsParams {
  const int32_t* query_start_loc;
  const int32_t* seq_lens;
  int32_t* key_start_loc;
  int32_t num_requests;
  RequestFilter filter;
  int64_t chunk_begin, chunk_len;
};
struct MergeParams {
  Tensor3 prefix_out, suffix_out, out;
  const float *prefix_lse, *suffix_lse;
  float* lse;
  int64_t prefix_lse_stride[2], suffix_lse_stride[2], lse_stride[2];
  const int32_t* query_start_loc;
  const int32_t* seq_lens;
  int32_t num_requests;
  RequestFilter filter;
};
struct CopyBlocksParams {
  void* k;
  void* v;
  KvAddressing k_addr, v_addr;
  const int64_t* mapping;  // [num_pairs, 2]
  int64_t num_blocks;
  int32_t element_bytes, block_size, num_kv_heads, head_dim, head_dim_v;
  int32_t groups_a_pair;  // workgroups that share a pair
};
struct CopyPadParams {
  Tensor3 src, dst;
  const float* src_scale;  // of an fp8 source; null: 1
  int32_t heads_per_scale;
};
struct GemmParams {
  Tensor3 a, b, c;  // [batch, M, K], [batch, K, N], [batch, M, N]
  int32_t m_tiles, n_tiles;
};

}  // namespace sextant::hip
