// Tiles of an fp8 latent cache as they are, byte for byte, in a ring of four: 64 keys x 576.
//
// A tile, and a part of Q alike, is four blocks of 128 columns, [64 rows][128 bytes] swizzled by 128 bytes, and the 64
// rope columns, [64 rows][64 bytes] swizzled by 64. Tensor-map boxes bring it, or cp.async by rows (page sizes that 8
// does not divide, the ends of requests).
#pragma once

#include "devices/cuda/hopper/mla_ring.cuh"

namespace sextant::cuda {

struct MlaFp8Tile : MlaTile {
  static constexpr int kStages = 4;
  static constexpr int kBlockBytes = 64 * 128, kRopeAt = DV / 128 * kBlockBytes;
  static constexpr int kTileBytes = kRopeAt + 64 * 64;
};

// Byte offset of 16-byte chunk `chunk` of a row of 128 bytes, and of one of 64.
__device__ __forceinline__ uint32_t wide_row_chunk(int row, int chunk) {
  return static_cast<uint32_t>(row * 128 + ((chunk ^ (row & 7)) << 4));
}
__device__ __forceinline__ uint32_t narrow_row_chunk(int row, int chunk) {
  return static_cast<uint32_t>(row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4));
}
// Of chunk `chunk` of 36 in a tile.
__device__ __forceinline__ uint32_t byte_chunk(int row, int chunk) {
  return chunk < 32 ? chunk / 8 * MlaFp8Tile::kBlockBytes + wide_row_chunk(row, chunk % 8)
                    : MlaFp8Tile::kRopeAt + narrow_row_chunk(row, chunk % 4);
}

// Tiles of a range, the n-th into buffer n. map.k: the first 512 columns, boxes of 128 of them; map.v: the rope
// columns. Rows that came by cp.async are announced one tile late, so that the next tile's copies start before them,
// but never while this thread waits for a free buffer.
template <class S>
__device__ __forceinline__ void mla_produce_bytes(const AttentionParams& p, const KeyMap& map, const TileRange& range,
                                                  TileCursor cursor, int list_rows, const MlaRing<S>& ring) {
  constexpr int kChunks = S::DK / 16, kLanes = 4, kRowsAPass = S::kProducers / kLanes;
  const int thread = static_cast<int>(threadIdx.x) - S::kConsumers, sub = thread % kLanes, row0 = thread / kLanes;
  const int boxes = map.tokens > 0 ? S::kKeys / map.tokens : 0, box = thread / 5, part = thread % 5;
  int unannounced = -1;
  const auto announce = [&] {
    if (unannounced < 0) return;
    fence_async_proxy();
    barrier_arrive(ring.full(unannounced));
    unannounced = -1;
  };
  for (int n = 0; n < range.end - range.begin; ++n) {
    const Request& r = cursor.request;
    const int32_t key0 = r.key_lo + cursor.tile * S::kKeys;
    const uint32_t tile = ring.tile(n);
    if (boxes > 0 && key0 + S::kKeys <= r.key_hi && key0 % map.tokens == 0) {
      cp_async_wait<0>();
      announce();
      BlockOffset at{};
      int32_t entry = 0;
      if (box < boxes) {  // looked up before the wait: its latency is hidden there
        at = split_position(p, key0 + box * map.tokens);
        entry = __ldg(p.block_table + r.index * p.block_table_stride + at.block);
      }
      wait_together(ring.empty(n), ring.empty_parity(n), S::kProducerBarrier, S::kProducers);
      if (thread == 0) barrier_arrive_all(ring.full(n), S::kProducers, S::kTileBytes);
      if (box < boxes) {
        const int key = box * map.tokens;
        const uint32_t to = tile + (part < 4 ? part * S::kBlockBytes + key * 128 : S::kRopeAt + key * 64);
        copy_box(to, part < 4 ? &map.k : &map.v, part % 4 * 128, at.offset, static_cast<int32_t>(clamp_block(p, entry)),
                 0, ring.full(n));
      }
    } else {
      int64_t rows[2];
      bool valid[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int32_t position = key0 + row0 + kRowsAPass * i;
        valid[i] = position < r.key_hi;
        rows[i] = find_key_row(p, r, 0, position, r.key_hi).k;
      }
      if (!barrier_passed(ring.empty(n), ring.empty_parity(n))) {
        cp_async_wait<0>();
        announce();
        barrier_wait(ring.empty(n), ring.empty_parity(n));
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint8_t* from = static_cast<const uint8_t*>(p.cache_k) + (valid[i] ? rows[i] : 0);
#pragma unroll
        for (int j = 0; j < kChunks / kLanes; ++j)
          cp_async_16(tile + byte_chunk(row0 + kRowsAPass * i, sub + j * kLanes), from + (sub + j * kLanes) * 16,
                      valid[i]);
      }
      cp_async_commit();
      cp_async_wait<1>();
      announce();
      unannounced = n;
    }
    if (n + 1 < range.end - range.begin) cursor.advance(p, list_rows, S::kKeys);
  }
  cp_async_wait<0>();
  announce();
}

}  // namespace sextant::cuda
