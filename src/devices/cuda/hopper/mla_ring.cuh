// Tiles of the latent cache in a ring of shared memory, for both MLA decode kernels: 64 keys x 576, as key_boxes.cuh
// says. One warpgroup brings them: a tensor-map box a page, or rows by cp.async (page sizes that 8 does not divide, the
// ends of requests).
#pragma once

#include "devices/cuda/hopper/key_boxes.cuh"
#include "devices/cuda/hopper/wgmma.cuh"
#include "devices/cuda/kernels/key_rows.cuh"
#include "devices/cuda/kernels/work_list.cuh"

namespace sextant::cuda {

// What the kernels' shapes have in common.
struct MlaTile {
  static constexpr int kKeys = 64, DK = 576, DV = 512, kBlocks = DK / 64;
  static constexpr int kGroupBytes = kBlocks * 1024;  // of 8 keys
  static constexpr int kTileBytes = kKeys * DK * 2, kStages = 2;
  static constexpr int kConsumers = 256, kThreads = 384, kProducers = kThreads - kConsumers;
  static constexpr int kProducerBarrier = 8;  // consumers have those below
};

// This block's place: of its rows in a list entry, and of the entry.
struct MlaPlace {
  int sub, block, blocks, list_rows;
};
__device__ __forceinline__ MlaPlace mla_place(const AttentionParams& p) {
  const int group = p.list_group, block = static_cast<int>(blockIdx.x);
  return {block % group, block / group, static_cast<int>(gridDim.x) / group, 64 * group};
}

template <class S>
struct MlaRing {
  uint32_t data, barriers;
  __device__ __forceinline__ uint32_t tile(int n) const { return data + n % S::kStages * S::kTileBytes; }
  __device__ __forceinline__ uint32_t full(int n) const { return barriers + 8 * (n % S::kStages); }
  __device__ __forceinline__ uint32_t empty(int n) const { return barriers + 8 * (S::kStages + n % S::kStages); }
  static __device__ __forceinline__ uint32_t full_parity(int n) { return (n / S::kStages) & 1; }
  static __device__ __forceinline__ uint32_t empty_parity(int n) { return full_parity(n) ^ 1; }
  // `consumer_warps`: how many read each tile.
  __device__ __forceinline__ void init(int consumer_warps) const {
    for (int stage = 0; stage < S::kStages; ++stage) {
      barrier_init(full(stage), S::kProducers);
      barrier_init(empty(stage), consumer_warps);
    }
  }
};

// Tiles of a range, the n-th into buffer n. Rows that came by cp.async are announced one tile late, so that the next
// tile's copies start before them, but never while this thread waits for a free buffer.
template <class S, class T>
__device__ __forceinline__ void mla_produce(const AttentionParams& p, const KeyMap& map, const TileRange& range,
                                            TileCursor cursor, int list_rows, const MlaRing<S>& ring) {
  const int thread = static_cast<int>(threadIdx.x) - S::kConsumers, sub = thread % 8, row0 = thread / 8;
  const int boxes = map.tokens > 0 ? S::kKeys / map.tokens : 0;
  const T* base = static_cast<const T*>(p.cache_k) + sub * 8;
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
    const bool boxed = boxes > 0 && key0 + S::kKeys <= r.key_hi && key0 % map.tokens == 0;
    const uint32_t tile = ring.tile(n);
    if (boxed) {
      cp_async_wait<0>();
      announce();
      BlockOffset at{};
      int32_t entry = 0;
      if (thread < boxes) {  // looked up before the wait: its latency is hidden there
        at = split_position(p, key0 + thread * map.tokens);
        entry = __ldg(p.block_table + r.index * p.block_table_stride + at.block);
      }
      wait_together(ring.empty(n), ring.empty_parity(n), S::kProducerBarrier, S::kProducers);
      if (thread == 0) barrier_arrive_all(ring.full(n), S::kProducers, S::kTileBytes);
      if (thread < boxes)
        copy_key_box<false>(map, tile + thread * map.tokens * (S::DK * 2), at.offset, 0,
                            static_cast<int32_t>(clamp_block(p, entry)), ring.full(n));
    } else {
      int64_t rows[4];
      bool valid[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int32_t position = key0 + row0 + 16 * i;
        valid[i] = position < r.key_hi;
        rows[i] = find_key_row(p, r, 0, position, r.key_hi).k;
      }
      if (!barrier_passed(ring.empty(n), ring.empty_parity(n))) {
        cp_async_wait<0>();
        announce();
        barrier_wait(ring.empty(n), ring.empty_parity(n));
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int block = 0; block < S::kBlocks; ++block)
          cp_async_16(tile + key_chunk<S::DK>(row0 + 16 * i, block * 8 + sub),
                      base + (valid[i] ? rows[i] + block * 64 : 0), valid[i]);
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
