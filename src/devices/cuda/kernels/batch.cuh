// Where the work of a block lies in the batch, and where its keys are. All of it is computed on the device from the
// current lengths, so that a captured graph stays right when lengths and block tables change.
#pragma once

#include <cstdint>

#include "devices/cuda/kernels/params.h"
#include "devices/gpu/cache_places.h"
#include "devices/gpu/request.h"
#include "types/ceil_div.h"

namespace sextant::cuda {

using gpu::dim_offset;
using gpu::is_packed;
using gpu::key_scale;
using gpu::Request;
using gpu::token_offset;
using gpu::value_scale;

__device__ __forceinline__ Request load_request(const AttentionParams& p, int b) {
  Request r;
  auto [lo, hi] = gpu::load_lengths(p, b, r);
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

__device__ __forceinline__ int64_t clamp_block(const AttentionParams& p, int32_t block) {
  return gpu::clamp_block(block, p.num_blocks);
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

}  // namespace sextant::cuda
