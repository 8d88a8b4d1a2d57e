// Where the work of a block lies in the batch, and where its keys are. All of it is computed on the device from the
// current lengths, so that a captured graph stays right when lengths and block tables change.
#pragma once

#include <cstdint>

#include "devices/cuda/kernels/params.h"

namespace sextant::cuda {

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// One request: its queries, and the key positions [key_lo, key_hi) that some of its queries may see.
struct Request {
  int32_t index = 0;
  bool active = false;  // has queries and passes the filter
  int32_t query_start = 0, query_len = 0;
  int32_t context_len = 0;  // position of the first query
  int32_t key_lo = 0, key_hi = 0;
  int32_t first_packed = 0;  // position of the first packed key
  int32_t packed_start = 0;  // its row
};

__device__ __forceinline__ Request load_request(const AttentionParams& p, int b) {
  Request r;
  r.index = b;
  r.query_start = __ldg(p.query_start_loc + b);
  r.query_len = __ldg(p.query_start_loc + b + 1) - r.query_start;
  const int32_t seq_len = __ldg(p.seq_lens + b);
  r.context_len = seq_len - r.query_len;
  r.active = r.query_len > 0 && r.query_len >= p.min_query_len && r.query_len <= p.max_query_len &&
             (p.context_filter == 0 || (p.context_filter == 2) == (seq_len > r.query_len));
  int64_t lo = p.key_begin, hi = seq_len;
  if (p.origin == KeyOrigin::kPacked) {
    const int32_t start = __ldg(p.key_start_loc + b), count = __ldg(p.key_start_loc + b + 1) - start;
    r.first_packed = p.key_begin < 0 ? r.context_len : static_cast<int32_t>(p.key_begin);
    r.packed_start = start;
    lo = max(r.first_packed, 0);  // fewer keys than queries: rows of positions < 0 are nobody's keys
    hi = static_cast<int64_t>(r.first_packed) + count;
  } else if (p.origin == KeyOrigin::kCacheThenPacked) {
    r.first_packed = r.context_len;
    r.packed_start = r.query_start;
  }
  hi = min(hi, p.key_end);
  if (p.causal) hi = min(hi, static_cast<int64_t>(r.context_len) + r.query_len + p.right);
  if (p.window > 0) lo = max(lo, static_cast<int64_t>(r.context_len) - p.window + 1);
  lo &= -static_cast<int64_t>(p.key_align);
  r.key_lo = static_cast<int32_t>(lo);
  r.key_hi = static_cast<int32_t>(max(lo, hi));
  return r;
}

// Tiles of kRows query rows: row r of a request is query r / G, head r % G of the group. Tile `t` of the launch belongs
// to the last request whose first tile, query_start * G / kRows + b, is not after t: monotonic, so it needs no prefix
// sum.
__device__ __forceinline__ int find_request(const AttentionParams& p, int tile, int rows_per_tile) {
  const int lane = threadIdx.x & 31;
  int begin = 0, count = p.num_requests;  // the answer lies in [begin, begin + count)
  while (count > 1) {
    const int step = ceil_div(count, 32);
    const int b = begin + lane * step;
    const bool not_after =
        lane * step < count &&
        static_cast<int>(static_cast<int64_t>(__ldg(p.query_start_loc + b)) * p.group_size / rows_per_tile) + b <= tile;
    const int last = 31 - __clz(__ballot_sync(0xffffffffu, not_after) | 1u);
    count = min(step, count - last * step);
    begin += last * step;
  }
  return begin;
}

// Offset of a block's first element; ids outside the cache are clamped so that a bad table cannot reach other memory.
__device__ __forceinline__ int64_t clamp_block(const AttentionParams& p, int32_t block) {
  return min(static_cast<uint32_t>(block), static_cast<uint32_t>(p.num_blocks - 1));
}

struct BlockOffset {
  int32_t block;   // logical block
  int32_t offset;  // token inside it
};
__device__ __forceinline__ BlockOffset split_position(const AttentionParams& p, int32_t position) {
  if (p.block_shift >= 0) return {position >> p.block_shift, position & (p.block_size - 1)};
  const int32_t block = static_cast<uint32_t>(position) / static_cast<uint32_t>(p.block_size);
  return {block, position - block * p.block_size};
}
__device__ __forceinline__ int64_t token_offset(const KvAddressing& a, int64_t block, int32_t head, int32_t token) {
  const int64_t base = block * a.block_stride + head * a.head_stride;
  if (a.token_tile == 1) return base + token * a.token_outer_stride;
  return base + (token / a.token_tile) * a.token_outer_stride + (token % a.token_tile) * a.token_inner_stride;
}
__device__ __forceinline__ int64_t dim_offset(const KvAddressing& a, int32_t dim) {
  if (a.dim_tile == 1) return dim * a.dim_outer_stride;
  return (dim / a.dim_tile) * a.dim_outer_stride + (dim % a.dim_tile) * a.dim_inner_stride;
}

// Partition `index` of a request's keys under a fixed split. Relative to key_lo, so that a window's dead keys cost
// nothing.
struct Partition {
  int32_t begin, end;
  int32_t count;  // partitions of the request; 1: the result is final
};
__device__ __forceinline__ int32_t partition_count(const AttentionParams& p, const Request& r, int32_t* size) {
  const int32_t length = r.key_hi - r.key_lo;
  *size = length;
  if (r.query_len > p.split.max_query_len || length <= 0) return 1;
  *size = p.split.partition > 0 ? p.split.partition : ceil_div(length, p.split.segments);
  *size = ceil_div(*size, p.split.granule) * p.split.granule;
  return min(ceil_div(length, *size), p.split.max_partitions);
}
__device__ __forceinline__ Partition find_partition(const AttentionParams& p, const Request& r, int index) {
  int32_t size;
  const int32_t count = partition_count(p, r, &size);
  const int64_t begin = r.key_lo + static_cast<int64_t>(index) * size;
  const int64_t end = index + 1 == count ? r.key_hi : min(begin + size, static_cast<int64_t>(r.key_hi));
  return {static_cast<int32_t>(begin), static_cast<int32_t>(end), count};
}
// Row of the partial results that belongs to one (query, head) of a request: [row, max_partitions].
__device__ __forceinline__ int64_t partial_row(const AttentionParams& p, const Request& r, int32_t query,
                                               int32_t head) {
  const int64_t slot = p.split.compact_slots ? static_cast<int64_t>(r.index) * p.split.max_query_len + query
                                             : static_cast<int64_t>(r.query_start) + query;
  return (slot * p.num_heads + head) * p.split.max_partitions;
}

__device__ __forceinline__ float key_scale(const AttentionParams& p, int32_t kv_head) {
  return p.k_scale == nullptr ? 1.0f : __ldg(p.k_scale + (p.num_scales > 1 ? kv_head : 0));
}
__device__ __forceinline__ float value_scale(const AttentionParams& p, int32_t kv_head) {
  if (p.values_in_keys) return key_scale(p, kv_head);
  return p.v_scale == nullptr ? 1.0f : __ldg(p.v_scale + (p.num_scales > 1 ? kv_head : 0));
}

}  // namespace sextant::cuda
