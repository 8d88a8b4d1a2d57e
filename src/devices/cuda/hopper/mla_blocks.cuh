// Tiles of a 16-bit latent cache in two buffers of shared memory, by blocks of 64 columns: a product starts with the
// first columns that are there, and a half (blocks 0..3, blocks 4..7) is loaded anew as soon as its reader is done with
// it; block 8, the rope columns, once both are.
//
// A tile is [9 blocks][64 keys][128 bytes], swizzled by 128 bytes. Tensor-map boxes bring it, 64 columns of a page
// each, or cp.async by rows (page sizes that 8 does not divide, the ends of requests). Where two blocks, a cluster,
// read the same keys, by boxes each brings half of them for both.
#pragma once

#include "devices/cuda/hopper/mla_ring.cuh"
#include "devices/cuda/hopper/pair.cuh"

namespace sextant::cuda {

struct MlaBlocks : MlaTile {
  static constexpr int kBlockBytes = 64 * 128;  // of 64 rows or keys x 64 columns
  static constexpr int kParts = 5;              // that are announced alone: two blocks each, then block 8
};

// Byte offset of 16-byte chunk `chunk` of a row in a tile of such blocks.
__device__ __forceinline__ uint32_t block_chunk(int row, int chunk) {
  return static_cast<uint32_t>((chunk >> 3) * MlaBlocks::kBlockBytes + row * 128 + (((chunk & 7) ^ (row & 7)) << 4));
}

struct MlaBlockRing {
  uint32_t data, barriers;
  static constexpr int kBarriers = MlaBlocks::kStages * (MlaBlocks::kParts + 2);
  __device__ __forceinline__ uint32_t tile(int stage) const { return data + stage * MlaBlocks::kTileBytes; }
  __device__ __forceinline__ uint32_t full(int stage, int part) const {
    return barriers + 8 * (stage * MlaBlocks::kParts + part);
  }
  __device__ __forceinline__ uint32_t empty(int stage, int half) const {
    return barriers + 8 * (MlaBlocks::kStages * MlaBlocks::kParts + stage * 2 + half);
  }
  // `readers`: arrivals that empty a half.
  __device__ __forceinline__ void init(int readers) const {
    for (int stage = 0; stage < MlaBlocks::kStages; ++stage) {
      for (int part = 0; part < MlaBlocks::kParts; ++part) barrier_init(full(stage, part), 1);
      for (int half = 0; half < 2; ++half) barrier_init(empty(stage, half), readers);
    }
  }
};

// The keys of a tile to come, to L2: their loads then take less time than the products that hide them.
__device__ __forceinline__ void prefetch_keys(const AttentionParams& p, const Request& r, int32_t position,
                                              int tokens) {
  if (position + tokens > r.key_hi || p.k_addr.token_outer_stride != MlaTile::DK) return;
  const BlockOffset at = split_position(p, position);
  const int64_t block = clamp_block(p, __ldg(p.block_table + r.index * p.block_table_stride + at.block));
  prefetch_to_l2(static_cast<const char*>(p.cache_k) + token_offset(p.k_addr, block, 0, at.offset) * 2,
                 tokens * MlaTile::DK * 2);
}

// One producer warp: one half of one buffer. So the halves are loaded in whatever order they become free. A segment's
// first tile lies in buffer 0, the next in buffer 1 and so on.
template <class T, bool kPair>
struct MlaHalfLoader {
  using S = MlaBlocks;
  static constexpr int kManyTiles = 8;                            // fewer are over before a prefetch pays
  static constexpr int kShare = kPair ? S::kKeys / 2 : S::kKeys;  // keys of a tile that this block loads by boxes
  const AttentionParams& p;
  const KeyMap& map;
  const MlaBlockRing& ring;
  int stage, half, lane;
  uint32_t parity = 1;  // of the empty barriers

  // Blocks [first, last), this lane's box of each: keys from `key` of the tile on, tokens from `token` of a page on.
  __device__ __forceinline__ void copy(int first, int last, int boxes, int key, int32_t token, int32_t outer) const {
    const int part = first / 2, parts = (last - first + 1) / 2;
    if (lane < parts) barrier_arrive_expect(ring.full(stage, part + lane), (last - first) / parts * S::kBlockBytes);
    __syncwarp();
    for (int i = lane; i < (last - first) * boxes; i += 32) {
      const int block = first + i / boxes;
      const uint32_t to = ring.tile(stage) + block * S::kBlockBytes + key * 128, full = ring.full(stage, block / 2);
      if constexpr (kPair) {
        copy_box_to_pair(to, &map.k, 0, token, block, 0, outer, full);
      } else {
        copy_box(to, &map.k, 0, token, block, 0, outer, full);
      }
    }
  }

  // `goes_on`: this block has many tiles to come.
  __device__ __forceinline__ void load_boxes(const Request& r, int32_t key0, bool goes_on) const {
    const int boxes = kShare / map.tokens;
    const int rank = kPair ? static_cast<int>(blockIdx.x) % 2 : 0, key = rank * kShare + lane % boxes * map.tokens;
    // Looked up before the wait: its latency is hidden there.
    const BlockOffset at = split_position(p, key0 + key);
    const int32_t entry = __ldg(p.block_table + r.index * p.block_table_stride + at.block);
    // Of a pair only: one block alone takes what the memory gives, and asking twice costs it a fifth.
    if (kPair && goes_on && half == 0 && lane < boxes) prefetch_keys(p, r, key0 + S::kKeys + key, map.tokens);
    const int32_t outer = static_cast<int32_t>(clamp_block(p, entry)) * map.k_block_outer;
    barrier_wait(ring.empty(stage, half), parity);
    copy(half * 4, half * 4 + 4, boxes, key, at.offset, outer);
    if (half == 0) return;
    barrier_wait(ring.empty(stage, 0), parity);
    copy(8, 9, boxes, key, at.offset, outer);
  }

  // Lane i looks rows i and i + 32 up; eight lanes then bring a block's columns of four keys.
  __device__ __forceinline__ void load_rows(const Request& r, int32_t key0) const {
    int64_t rows[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) rows[i] = find_key_row(p, r, 0, key0 + lane + 32 * i, r.key_hi).k;
    barrier_wait(ring.empty(stage, half), parity);
    if (half == 1) barrier_wait(ring.empty(stage, 0), parity);
    const int sub = lane % 8;
#pragma unroll 1
    for (int i = 0; i < S::kKeys; i += 4) {
      const int key = i + lane / 8;
      const int64_t row = __shfl_sync(0xffffffffu, i < 32 ? rows[0] : rows[1], key % 32);
      const bool valid = key0 + key < r.key_hi;
      const T* from = static_cast<const T*>(p.cache_k) + row + half * 4 * 64 + sub * 8;
      const uint32_t to = ring.tile(stage) + half * 4 * S::kBlockBytes + block_chunk(key, sub);
#pragma unroll
      for (int block = 0; block < 5; ++block)
        if (block < 4 || half == 1) cp_async_16(to + block * S::kBlockBytes, from + block * 64, valid);
    }
    cp_async_commit();
    cp_async_wait<0>();
    fence_async_proxy();
    __syncwarp();
    if (lane < 2 + half) barrier_arrive(ring.full(stage, half * 2 + lane));
  }

  __device__ __forceinline__ void run(const TileRange& range, TileCursor cursor, int list_rows) {
    int turn = 0;
    for (int32_t x = range.begin; x < range.end; ++x) {
      if (turn == stage) {
        const Request& r = cursor.request;
        const int32_t key0 = r.key_lo + cursor.tile * S::kKeys;
        if (map.tokens > 0 && key0 + S::kKeys <= r.key_hi && key0 % map.tokens == 0) {
          load_boxes(r, key0, x + kManyTiles < range.end);
        } else {
          load_rows(r, key0);
        }
        parity ^= 1;
      }
      turn = cursor.tile + 1 == cursor.counts.tiles ? 0 : turn ^ 1;
      if (x + 1 < range.end) cursor.advance(p, list_rows, S::kKeys);
    }
  }
};

}  // namespace sextant::cuda
