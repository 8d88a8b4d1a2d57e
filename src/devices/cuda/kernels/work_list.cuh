// The balanced work list of decode kernels, computed by every block for itself from the current lengths.
//
// All key tiles that one KV head has in the batch stand in one row: request by request, row tile by row tile, tile by
// tile. The row is cut into equal shares, and each share is taken by num_kv_heads blocks next to each other, a head
// each: so that the heads of a token, which lie side by side in most caches, are read at the same time. Block c has KV
// head c % H and share c / H: of n shares, tiles [c / H * total / n, (c / H + 1) * total / n). A run of tiles of one
// (request, row tile) inside a share is a segment. A segment that is whole writes its result; at most two a block are
// not: the first (slot 2c), whose head lies in an earlier share, and the last (slot 2c + 1), whose tail lies in a later
// one. The reduce kernel merges the rows whose first part is the last segment of a share.
#pragma once

#include "devices/cuda/kernels/batch.cuh"

namespace sextant::cuda {

struct TileCounts {
  int32_t tiles;      // of one row tile; at least 1, so that rows without keys are written too
  int32_t row_tiles;  // of 16 or 32 rows
};
__device__ __forceinline__ TileCounts count_tiles(const AttentionParams& p, const Request& r, int rows, int keys) {
  return {max(1, ceil_div(r.key_hi - r.key_lo, keys)), ceil_div(r.query_len * p.group_size, rows)};
}
__device__ __forceinline__ int32_t tiles_of_request(const AttentionParams& p, const Request& r, int rows, int keys) {
  if (!r.active) return 0;
  const TileCounts n = count_tiles(p, r, rows, keys);
  return n.tiles * n.row_tiles;
}

struct TileRange {
  int32_t begin, end;
};
// block * total / blocks and (block + 1) * total / blocks, without 64-bit divisions: `blocks` is below 2^15.
__device__ __forceinline__ TileRange block_range(int block, int blocks, int32_t total) {
  const int32_t each = total / blocks, rest = total - each * blocks;
  return {block * each + block * rest / blocks, (block + 1) * each + (block + 1) * rest / blocks};
}

// Walks the tiles of a range.
struct TileCursor {
  Request request;
  TileCounts counts;
  int32_t row_tile, kv_head, tile;

  __device__ __forceinline__ void enter(const AttentionParams& p, int b, int rows, int keys) {
    request = load_request(p, b);
    counts = count_tiles(p, request, rows, keys);
  }
  __device__ __forceinline__ void advance(const AttentionParams& p, int rows, int keys) {
    if (++tile < counts.tiles) return;
    tile = 0;
    if (++row_tile < counts.row_tiles) return;
    row_tile = 0;
    int b = request.index;
    do {
      enter(p, ++b, rows, keys);
    } while (!request.active && b + 1 < p.num_requests);
  }
};

// Finds the range of block `block` of `blocks` (a multiple of num_kv_heads) and its first tile. All threads call it;
// `scratch` is 40 ints of shared memory. Block 0 leaves the first tile of each request in p.tile_starts, if any, for
// the reduce kernel.
template <int kThreads>
__device__ __forceinline__ TileRange find_range(const AttentionParams& p, int rows, int keys, int32_t* scratch,
                                                TileCursor* cursor, int block, int blocks) {
  constexpr int kWarps = kThreads / 32;
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  const int per_thread = ceil_div(p.num_requests, kThreads);
  const int first = threadIdx.x * per_thread, last = min(first + per_thread, p.num_requests);
  int32_t sum = 0;
#pragma unroll 1  // here and below: what is executed once is fetched from memory, so less of it is faster
  for (int b = first; b < last; ++b) sum += tiles_of_request(p, load_request(p, b), rows, keys);
  int32_t inclusive = sum;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int32_t below = __shfl_up_sync(0xffffffffu, inclusive, offset);
    if (lane >= offset) inclusive += below;
  }
  if (lane == 31) scratch[warp] = inclusive;
  __syncthreads();
  int32_t before = 0, total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += scratch[w];
    total += scratch[w];
  }
  const int share = block / p.num_kv_heads;
  const TileRange range = block_range(share, blocks / p.num_kv_heads, total);
  int32_t start = before + inclusive - sum;  // first tile of this thread's requests
  const bool mine = range.begin >= start && range.begin < start + sum && range.begin < range.end;
  if (mine || block == 0) {
#pragma unroll 1
    for (int b = first; b < last; ++b) {
      const Request r = load_request(p, b);
      const int32_t tiles = tiles_of_request(p, r, rows, keys);
      if (block == 0 && p.tile_starts != nullptr) p.tile_starts[b] = start;
      if (mine && range.begin >= start && range.begin < start + tiles) {
        scratch[kWarps] = b;
        scratch[kWarps + 1] = range.begin - start;
      }
      start += tiles;
    }
    if (block == 0 && p.tile_starts != nullptr && last == p.num_requests && first < last)
      p.tile_starts[p.num_requests] = start;
  }
  __syncthreads();
  if (range.begin < range.end) {
    cursor->enter(p, scratch[kWarps], rows, keys);
    const int32_t offset = scratch[kWarps + 1];
    cursor->row_tile = offset / cursor->counts.tiles;
    cursor->tile = offset - cursor->row_tile * cursor->counts.tiles;
    cursor->kv_head = block - share * p.num_kv_heads;
  }
  return range;
}

// A block's work under either rule, and where its rows go.
struct BlockWork {
  TileRange range;     // only its length matters under a fixed split
  int32_t partitions;  // fixed split: of the request; balanced: 0
};
// Fixed split: grid (row tiles over all requests, KV heads, partitions).
__device__ __forceinline__ BlockWork find_partition_tiles(const AttentionParams& p, int rows, int keys,
                                                          TileCursor* cursor, int block) {
  const int b = find_request(p, block, rows);
  cursor->enter(p, b, rows, keys);
  const Request& r = cursor->request;
  cursor->row_tile = block - static_cast<int>(static_cast<int64_t>(r.query_start) * p.group_size / rows) - b;
  cursor->kv_head = blockIdx.y;
  cursor->tile = 0;
  if (!r.active || cursor->row_tile >= cursor->counts.row_tiles) return {{0, 0}, 1};
  const Partition part = find_partition(p, r, blockIdx.z);
  if (static_cast<int>(blockIdx.z) >= part.count) return {{0, 0}, 1};
  cursor->tile = (part.begin - r.key_lo) / keys;
  return {{cursor->tile, max(cursor->tile + 1, ceil_div(part.end - r.key_lo, keys))}, part.count};
}
template <int kThreads>
__device__ __forceinline__ BlockWork find_work(const AttentionParams& p, int rows, int keys, int32_t* scratch,
                                               TileCursor* cursor, int block, int blocks) {
  if (p.balanced) return {find_range<kThreads>(p, rows, keys, scratch, cursor, block, blocks), 0};
  return find_partition_tiles(p, rows, keys, cursor, block);
}
template <int kThreads>
__device__ __forceinline__ BlockWork find_work(const AttentionParams& p, int rows, int keys, int32_t* scratch,
                                               TileCursor* cursor) {
  return find_work<kThreads>(p, rows, keys, scratch, cursor, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
}
// True when a segment [first_tile, .. ends at the last tile) is the row's whole result.
__device__ __forceinline__ bool is_whole(const BlockWork& work, int first_tile, bool ends) {
  return work.partitions > 0 ? work.partitions == 1 : ends && first_tile == 0;
}
// Index of a row's partial result.
__device__ __forceinline__ int64_t partial_index(const AttentionParams& p, const BlockWork& work, const Request& r,
                                                 int first_tile, int rows, int tile_row, int32_t query, int32_t head,
                                                 int block) {
  if (work.partitions > 0) return partial_row(p, r, query, head) + blockIdx.z;
  return static_cast<int64_t>(2 * block + (first_tile == 0 ? 1 : 0)) * rows + tile_row;
}

__device__ __forceinline__ int64_t partial_index(const AttentionParams& p, const BlockWork& work, const Request& r,
                                                 int first_tile, int rows, int tile_row, int32_t query, int32_t head) {
  return partial_index(p, work, r, first_tile, rows, tile_row, query, head, static_cast<int>(blockIdx.x));
}

}  // namespace sextant::cuda
