// MLA decode on wgmma: 64 query rows x 576, tiles of 64 keys, O [64][512] in the registers of two warpgroups.
//
//   4 producer warps   latent cache -> two buffers of tiles, a half of a buffer each (mla_blocks.cuh)
//   consumer 0         even tiles of a segment: S = Q K^T, softmax; of all tiles: O += P V, columns 0..255
//   consumer 1         odd tiles: the same; of all tiles: O += P V, columns 256..511
//
//   consumer 0:  S_a | softmax_a | O += P_a V_a                 | O += P_b V_b | S_c ...
//   consumer 1:        S_b         | softmax_b under O += P_a V_a | O += P_b V_b | S_d ...
//
// Both tiles' probabilities go through shared memory, in the place of the tile's own rope columns, which nobody reads
// once S is there. A row's maximum goes from one consumer to the other and back with P. Tile a is free as soon as both
// have added it, so that its successor is loaded under the softmax and products of tile b. (FlashMLA's kernel, of two
// tiles in flight and two halves of the output, is where the idea comes from.)
//
// V is the first 8 column blocks of K read MN-major, so that nothing is transposed. The work list is that of
// kernels/work_list.cuh. A pair (kPair), two blocks next to each other in a cluster, shares an entry of it, each with
// its own 64 rows: every key crosses L2 once for both.
#pragma once

#include "devices/cuda/hopper/mla_rows.cuh"
#include "devices/cuda/hopper/wgmma_forward.cuh"

namespace sextant::cuda {

struct MlaHalvesShape : MlaBlocks {
  // Q (at the end of a segment: rows of O) | tiles | maxima, factors of two tiles, sums of both consumers, [2][64]
  // each, last maxima [64] | barriers | scratch
  static constexpr int kRingAt = kBlocks * kBlockBytes, kStatAt = kRingAt + kStages * kTileBytes;
  static constexpr int kBarrierAt = kStatAt + 7 * 64 * 4, kScratchAt = kBarrierAt + MlaBlockRing::kBarriers * 8;
  static constexpr int kSharedBytes = kScratchAt + 160;
  static_assert(kConsumers / 32 * kMlaRoomBytes <= kRingAt);
  static constexpr int kProducerRegisters = 72, kConsumerRegisters = 216;
  static_assert(kProducers * kProducerRegisters + kConsumers * kConsumerRegisters <= kThreads * 168);  // else no end
  // Named barriers; the last two: + consumer, or + tile.
  static constexpr int kAllBarrier = 1, kOwnBarrier = 2, kReadyBarrier = 4;
};

// Rows lane / 4 and lane / 4 + 8 of a warp's 16. `max`: what the last added tile's P is relative to; `sum`: this
// thread's share, of its own tiles.
struct MlaHalfRows {
  float max[2], sum[2];
};
// What a segment's tiles have in common. Keys [all_from, all_below) are seen by all rows and need no mask.
struct MlaSegment {
  int32_t row0, context_len, key_lo, key_hi, all_from, all_below;
};
struct MlaHalfStats {
  float *maxima, *factors, *sums;  // [2][64] each
  float* last;                     // [64]
  __device__ __forceinline__ explicit MlaHalfStats(char* stats)
      : maxima(reinterpret_cast<float*>(stats)), factors(maxima + 128), sums(maxima + 256), last(maxima + 384) {}
};

template <class T, bool kPair, int kGroup>
struct MlaHalfConsumer {
  using S = MlaHalvesShape;
  static constexpr int kOther = kGroup ^ 1;
  const AttentionParams& p;
  const MlaBlockRing& ring;
  MlaHalfStats stats;
  char* shared;
  int lane, warp;

  __device__ __forceinline__ int row(int half) const { return warp * 16 + half * 8 + lane / 4; }
  // This consumer's half of a buffer is free.
  __device__ __forceinline__ void release(int stage) const {
    if (lane == 0) {
      barrier_arrive(ring.empty(stage, kGroup));
      if constexpr (kPair) barrier_arrive_remote(ring.empty(stage, kGroup), (blockIdx.x & 1) ^ 1);
    }
  }

  // S (+)= Q K^T of a part's columns.
  template <int kPart, bool kFirst>
  __device__ __forceinline__ void add_part(float (&s)[32], uint32_t parity) const {
    const uint64_t queries = matrix_descriptor(shared_address(shared) + kPart * 2 * S::kBlockBytes, 16, 1024);
    const uint64_t keys = matrix_descriptor(ring.tile(kGroup) + kPart * 2 * S::kBlockBytes, 16, 1024);
    barrier_wait(ring.full(kGroup, kPart), parity);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < (kPart == 4 ? 4 : 8); ++k)
      wgmma_scores<T, 64>(s, move_descriptor(queries, k / 4 * S::kBlockBytes + k % 4 * 32),
                          move_descriptor(keys, k / 4 * S::kBlockBytes + k % 4 * 32), !kFirst || k > 0);
    wgmma_commit();
  }
  // S of this consumer's tile, part by part as they come: first the half that this consumer itself set free.
  __device__ __forceinline__ void compute_scores(float (&s)[32], uint32_t parity) const {
    constexpr int kOwn = kGroup * 2, kRest = kOther * 2;
    add_part<kOwn, true>(s, parity);
    add_part<kOwn + 1, false>(s, parity);
    add_part<kRest, false>(s, parity);
    add_part<kRest + 1, false>(s, parity);
    add_part<4, false>(s, parity);
    wgmma_wait<0>();
  }

  // O *= factor; O += P V of a tile begins.
  __device__ __forceinline__ void begin_values(float (&o)[128], int stage, const float (&factor)[2]) const {
    if (__any_sync(0xffffffffu, factor[0] != 1.0f || factor[1] != 1.0f)) {
#pragma unroll
      for (int i = 0; i < 128; ++i) o[i] *= factor[(i / 2) % 2];
    }
    const uint64_t prob = matrix_descriptor(ring.tile(stage) + (S::kBlocks - 1) * S::kBlockBytes, 16, 1024);
    const uint64_t values = matrix_descriptor(ring.tile(stage) + kGroup * 4 * S::kBlockBytes, S::kBlockBytes, 1024);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < S::kKeys / 16; ++k)
      wgmma_m64n256k16<T>(o, move_descriptor(prob, k * 32), move_descriptor(values, k * 2 * 1024), true);
    wgmma_commit();
  }
  // .. and ends; the tile's half is then free.
  __device__ __forceinline__ void end_values(int stage) const {
    wgmma_wait<0>();
    release(stage);
  }

  // The other consumer's tile: waits for its P.
  __device__ __forceinline__ void receive(uint32_t parity, MlaHalfRows& rows, float (&factor)[2]) const {
#pragma unroll
    for (int part = 0; part < 2; ++part) barrier_wait(ring.full(kOther, kGroup * 2 + part), parity);
    named_wait(S::kReadyBarrier + kOther, S::kConsumers);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      factor[half] = stats.factors[kOther * 64 + row(half)];
      rows.max[half] = stats.maxima[kOther * 64 + row(half)];
      rows.sum[half] *= factor[half];
    }
  }

  // Softcap, ALiBi, masks. Then scores are in log2 units if `biased`.
  __device__ __forceinline__ void adjust(const MlaSegment& at, const ScoreRule& rule, bool masked, int32_t key0,
                                         float (&s)[32]) const {
    int32_t positions[2];
    float slopes[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at_row = at.row0 + row(half);
      positions[half] = at.context_len + at_row / p.group_size;
      slopes[half] = p.alibi_slopes == nullptr ? 0.0f : p.alibi_slopes[at_row % p.group_size] * kLog2E;
    }
    mla_adjust_scores(p, rule, positions, slopes, {1.0f, 1.0f}, at.context_len, at.key_hi, masked, key0, s);
  }

  // Dots of 64 rows x 64 keys to probabilities; `factor` is what O must be scaled by.
  __device__ __forceinline__ void softmax(const MlaSegment& at, const ScoreRule& rule, int32_t key0, float (&s)[32],
                                          MlaHalfRows& rows, float (&factor)[2]) const {
    const bool biased = rule.has_cap || p.alibi_slopes != nullptr,
               masked = key0 + S::kKeys > at.all_below || key0 < at.all_from;
    if (biased || masked) [[unlikely]]
      adjust(at, rule, masked, key0, s);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float scale = biased ? 1.0f : rule.scale_log2;
      float top = -INFINITY;
#pragma unroll
      for (int j = 0; j < 8; ++j) top = fmaxf(top, fmaxf(s[j * 4 + half * 2], s[j * 4 + half * 2 + 1]));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2)) * scale;
      const bool grows = top > rows.max[half] + 8.0f;
      const float base = grows ? top : rows.max[half];
      factor[half] = grows ? exp2_approx(rows.max[half] - base) : 1.0f;
      rows.max[half] = base;
      const float shift = base == -INFINITY ? 0.0f : -base;
      float sum = 0;
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[j * 4 + half * 2 + e];
          x = exp2_approx(fmaf(x, scale, shift));
          sum += x;
        }
      rows.sum[half] = fmaf(rows.sum[half], factor[half], sum);
    }
  }

  // P to the tile's rope columns, for both consumers.
  __device__ __forceinline__ void publish(const float (&s)[32], const MlaHalfRows& rows,
                                          const float (&factor)[2]) const {
    char* prob = shared + S::kRingAt + kGroup * S::kTileBytes + (S::kBlocks - 1) * S::kBlockBytes;
    named_wait(S::kOwnBarrier + kGroup, 128);  // all four warps have read the rope columns
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int j = 0; j < 8; ++j)
        *reinterpret_cast<uint32_t*>(prob + block_chunk(row(half), j) + (lane & 3) * 4) =
            pack_pair<T>(s[j * 4 + half * 2], s[j * 4 + half * 2 + 1]);
      if ((lane & 3) == 0) {
        stats.maxima[kGroup * 64 + row(half)] = rows.max[half];
        stats.factors[kGroup * 64 + row(half)] = factor[half];
      }
    }
    fence_async_proxy();
    named_arrive(S::kReadyBarrier + kGroup, S::kConsumers);
    named_wait(S::kOwnBarrier + kGroup, 128);
  }
};

// The tiles of a segment.
template <class T, bool kPair, int kGroup>
__device__ __forceinline__ void mla_add_tiles(const MlaHalfConsumer<T, kPair, kGroup>& self, const MlaSegment& at,
                                              const ScoreRule& rule, int32_t first_tile, int32_t tiles,
                                              uint32_t (&parity)[2], MlaHalfRows& rows, float (&o)[128]) {
  using S = MlaHalvesShape;
#pragma unroll 1
  for (int32_t t = 0; t < tiles; t += 2) {
    const bool two = t + 1 < tiles;
    const int32_t key0 = at.key_lo + (first_tile + t) * S::kKeys;
    float s[32], factor[2];
    if constexpr (kGroup == 0) {
      self.compute_scores(s, parity[0]);
      self.softmax(at, rule, key0, s, rows, factor);
      self.publish(s, rows, factor);
      self.begin_values(o, 0, factor);
      self.end_values(0);
      if (two) {
        self.receive(parity[1], rows, factor);
        self.begin_values(o, 1, factor);
        self.end_values(1);
      }
    } else {
      float other[2];
      if (two) self.compute_scores(s, parity[1]);
      self.receive(parity[0], rows, other);
      self.begin_values(o, 0, other);
      if (two) self.softmax(at, rule, key0 + S::kKeys, s, rows, factor);
      self.end_values(0);
      if (two) {
        self.publish(s, rows, factor);
        self.begin_values(o, 1, factor);
        self.end_values(1);
      }
    }
    parity[0] ^= 1;
    parity[1] ^= two ? 1 : 0;
  }
}

// Rows of O, both consumers' columns, by the same code for both: it comes from memory, once.
template <class T>
__device__ __forceinline__ void mla_write_halves(const AttentionParams& p, const BlockWork& work, const MlaPlace& place,
                                                 const TileCursor& c, int first_tile, bool ends, int group,
                                                 const MlaHalfStats& stats, char* shared, MlaHalfRows& rows,
                                                 const float (&o)[128]) {
  using S = MlaHalvesShape;
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) / 32 % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * 16 + half * 8 + lane / 4;
    float sum = rows.sum[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if ((lane & 3) == 0) stats.sums[group * 64 + row] = sum;
    if (group == 0 && (lane & 3) == 0) stats.last[row] = rows.max[half];
  }
  named_wait(S::kAllBarrier, S::kConsumers);  // both are done with Q, too
  const int own = warp * 16 + lane % 16;
  const MlaRowTarget target = mla_end_row<T>(p, work, place, c, first_tile, ends, own, stats.last[own],
                                             stats.sums[own] + stats.sums[64 + own], group == 0 && lane < 16);
  mla_write_rows<T>(target, group * 256, o, reinterpret_cast<float*>(shared + (group * 4 + warp) * kMlaRoomBytes));
}

template <class T, bool kPair>
__device__ __forceinline__ void mla_consume_halves(const AttentionParams& p, const BlockWork& work,
                                                   const MlaPlace& place, TileCursor done, char* shared,
                                                   const MlaBlockRing& ring) {
  using S = MlaHalvesShape;
  const TileRange& range = work.range;
  const int group = static_cast<int>(uniform(threadIdx.x / 128)), lane = static_cast<int>(threadIdx.x) & 31,
            warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const MlaHalfStats stats(shared + S::kStatAt);
  const MlaHalfConsumer<T, kPair, 0> zero = {p, ring, stats, shared, lane, warp};
  const MlaHalfConsumer<T, kPair, 1> one = {p, ring, stats, shared, lane, warp};
  const ScoreRule rule = make_score_rule(p, key_scale(p, 0));
  float o[128];
  uint32_t parity[2] = {0, 0};  // of the two buffers' full barriers
  for (int32_t x = range.begin; x < range.end;) {
    const int32_t first_tile = done.tile, tiles = min(done.counts.tiles - first_tile, range.end - x);
    MlaSegment at;
    {
      const Request& r = done.request;
      at.row0 = done.row_tile * place.list_rows + place.sub * 64;
      at.context_len = r.context_len;
      at.key_lo = r.key_lo;
      at.key_hi = r.key_hi;
      at.all_below = p.causal ? min(r.key_hi, r.context_len + at.row0 / p.group_size + p.right + 1) : r.key_hi;
      at.all_from = p.window > 0 ? r.context_len + (at.row0 + 63) / p.group_size - p.window + 1 : 0;
    }
    if (x > range.begin) named_wait(S::kAllBarrier, S::kConsumers);  // the other warpgroup may still write its rows
    mla_copy_queries<T>(p, done.request, at.row0, shared);
    fence_async_proxy();
    MlaHalfRows rows = {{-INFINITY, -INFINITY}, {0, 0}};
#pragma unroll
    for (int i = 0; i < 128; ++i) o[i] = 0.0f;
    named_wait(S::kAllBarrier, S::kConsumers);
    if (group == 0) {
      mla_add_tiles(zero, at, rule, first_tile, tiles, parity, rows, o);
    } else {
      mla_add_tiles(one, at, rule, first_tile, tiles, parity, rows, o);
    }
    done.tile = first_tile + tiles - 1;
    mla_write_halves<T>(p, work, place, done, first_tile, done.tile + 1 == done.counts.tiles, group, stats, shared,
                        rows, o);
    x += tiles;
    if (x < range.end) done.advance(p, place.list_rows, S::kKeys);
  }
}

template <class T, bool kPair>
__global__ void __launch_bounds__(MlaTile::kThreads, 1)
    mla_halves(const __grid_constant__ AttentionParams p, const __grid_constant__ KeyMap map) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  using S = MlaHalvesShape;
  extern __shared__ __align__(1024) char shared[];  // as the swizzle wants it
  const MlaBlockRing ring{shared_address(shared + S::kRingAt), shared_address(shared + S::kBarrierAt)};
  launch_dependents();
  if (threadIdx.x == 0) {
    ring.init(kPair ? 8 : 4);  // a consumer's warps, of a pair both blocks'
    if (map.tokens > 0) prefetch_tensor_map(&map.k);
    fence_barrier_init();
    fence_async_proxy();
  }
  const MlaPlace place = mla_place(p);
  TileCursor cursor;
  const BlockWork work =
      find_work<S::kThreads>(p, place.list_rows, S::kKeys, reinterpret_cast<int32_t*>(shared + S::kScratchAt), &cursor,
                             place.block, place.blocks);
  if (work.range.begin == work.range.end) return;  // of a pair both
  const auto meet = [] {
    if constexpr (kPair) cluster_meet();
  };
  if (!kPair) __syncthreads();
  meet();
  if (threadIdx.x >= S::kConsumers) {
    shrink_registers<S::kProducerRegisters>();
    const int warp = (static_cast<int>(threadIdx.x) - S::kConsumers) / 32;
    MlaHalfLoader<T, kPair> loader{p, map, ring, warp / 2, warp % 2, static_cast<int>(threadIdx.x) % 32};
    loader.run(work.range, cursor, place.list_rows);
    meet();
  } else {
    grow_registers<S::kConsumerRegisters>();
    mla_consume_halves<T, kPair>(p, work, place, cursor, shared, ring);
    meet();  // no block ends while another's copies or arrivals are on their way to it
  }
#endif
}

}  // namespace sextant::cuda
