// The balanced work list of decode kernels, computed by every block for itself from the current lengths.
//
// All key tiles that one KV head has in the batch stand in one row: request by request, row tile by row tile, tile by
// tile. The row is cut into equal shares, and each share is taken by num_kv_heads blocks next to each other, a head
// each: so that the heads of a token, which lie side by side in most caches, are read at the same time. Block c has KV
// head c % H and share c / H: of n shares, tiles [c / H * total / n, (c / H + 1) * total / n). A run of tiles of one
// (request, row tile) inside a share is a segment. A segment that is whole writes its result; at most two a block are
// not: the first (slot 2c), whose head lies in an earlier share, and the last (slot 2c + 1), whose tail lies in a later
// one. The reduce kernel merges the rows whose first part is the last segment of a share.
//
// A segment costs more than its tiles: so p.list_overhead tiles that nobody works on stand in the row before each (as
// FlashMLA's metadata counts blocks for each request). "Place" is a tile's index in the row with these.
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
// Places of a request in the row.
__device__ __forceinline__ int32_t places_of_request(const AttentionParams& p, const Request& r, int rows, int keys) {
  if (!r.active) return 0;
  const TileCounts n = count_tiles(p, r, rows, keys);
  return (n.tiles + p.list_overhead) * n.row_tiles;
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

// Places and tiles, of which there are fewer.
struct PlaceCount {
  int32_t places = 0, tiles = 0;
  __device__ __forceinline__ PlaceCount operator+(const PlaceCount& o) const {
    return {places + o.places, tiles + o.tiles};
  }
};

// Finds the range of block `block` of `blocks` (a multiple of num_kv_heads) and its first tile. All threads call it;
// `scratch` is 32 ints of shared memory. Block 0 leaves the first place of each request in p.tile_starts, if any, for
// the reduce kernel.
template <int kThreads>
__device__ __forceinline__ TileRange find_range(const AttentionParams& p, int rows, int keys, int32_t* scratch,
                                                TileCursor* cursor, int block, int blocks) {
  constexpr int kWarps = kThreads / 32, kFound = 2 * kWarps;  // request, row tile, tile; first tile, end of the range
  static_assert(kFound + 5 <= 32);
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  const int per_thread = ceil_div(p.num_requests, kThreads);
  const int first = threadIdx.x * per_thread, last = min(first + per_thread, p.num_requests);
  const auto count = [&](int b) -> PlaceCount {
    const Request r = load_request(p, b);
    if (!r.active) return {};
    const TileCounts n = count_tiles(p, r, rows, keys);
    return {(n.tiles + p.list_overhead) * n.row_tiles, n.tiles * n.row_tiles};
  };
  PlaceCount sum;
#pragma unroll 1  // here and below: what is executed once is fetched from memory, so less of it is faster
  for (int b = first; b < last; ++b) sum = sum + count(b);
  PlaceCount inclusive = sum;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const PlaceCount below = {__shfl_up_sync(0xffffffffu, inclusive.places, offset),
                              __shfl_up_sync(0xffffffffu, inclusive.tiles, offset)};
    if (lane >= offset) inclusive = inclusive + below;
  }
  if (lane == 31) {
    scratch[2 * warp] = inclusive.places;
    scratch[2 * warp + 1] = inclusive.tiles;
  }
  __syncthreads();
  PlaceCount before, total;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    const PlaceCount of_warp = {scratch[2 * w], scratch[2 * w + 1]};
    if (w < warp) before = before + of_warp;
    total = total + of_warp;
  }
  const int share = block / p.num_kv_heads;
  const TileRange range = block_range(share, blocks / p.num_kv_heads, total.places);
  if (threadIdx.x == 0) {
    scratch[kFound + 3] = 0;
    scratch[kFound + 4] = total.tiles;  // where no request holds the end
  }
  __syncthreads();
  PlaceCount start = before + PlaceCount{inclusive.places - sum.places, inclusive.tiles - sum.tiles};
  const auto is_mine = [&](int32_t place) {
    return range.begin < range.end && place >= start.places && place < start.places + sum.places;
  };
  if (is_mine(range.begin) || is_mine(range.end) || (block == 0 && p.tile_starts != nullptr)) {
#pragma unroll 1
    for (int b = first; b < last; ++b) {
      const PlaceCount own = count(b);
      if (block == 0 && p.tile_starts != nullptr) p.tile_starts[b] = start.places;
#pragma unroll 1
      for (int end = 0; end < 2; ++end) {
        const int32_t place = (end ? range.end : range.begin) - start.places;
        if (range.begin == range.end || place < 0 || place >= own.places) continue;
        const int32_t tiles = count_tiles(p, load_request(p, b), rows, keys).tiles;
        const int32_t row_tile = place / (tiles + p.list_overhead);
        const int32_t tile = max(0, place - row_tile * (tiles + p.list_overhead) - p.list_overhead);
        scratch[kFound + 3 + end] = start.tiles + row_tile * tiles + tile;
        if (end) continue;
        scratch[kFound] = b;
        scratch[kFound + 1] = row_tile;
        scratch[kFound + 2] = tile;
      }
      start = start + own;
    }
    if (block == 0 && p.tile_starts != nullptr && last == p.num_requests && first < last)
      p.tile_starts[p.num_requests] = start.places;
  }
  __syncthreads();
  if (range.begin == range.end) return {0, 0};
  const TileRange tiles = {scratch[kFound + 3], scratch[kFound + 4]};
  if (tiles.begin < tiles.end) {
    cursor->enter(p, scratch[kFound], rows, keys);
    cursor->row_tile = scratch[kFound + 1];
    cursor->tile = scratch[kFound + 2];
    cursor->kv_head = block - share * p.num_kv_heads;
  }
  return tiles;
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
