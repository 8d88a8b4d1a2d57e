// MLA decode over latents in 8 bits that are converted, on wgmma: 64 query rows x 576, tiles of 64 keys, O [64][512] in
// the registers of two warpgroups. (Latents in 16 bits: mla_halves.cuh; e4m3 multiplied as it is: mla_fp8.cuh.)
//
//   producer (1 warpgroup)   latent cache -> K ring of 2 tiles in fp16 (mla_convert.cuh)
//   consumer w in {0, 1}     tiles w, w + 2, ...: S = Q K^T of all 64 keys, P to shared memory, for both
//                            all tiles:           O_w += P V for columns 256w..256w+255
//
//   consumer 0:  S_0 | softmax | O += P_0 V_0 | S_2 | O += P_1 V_1 | softmax | O += P_2 V_2 | S_4 | ...
//   consumer 1:        S_1 | O += P_0 V_0 | softmax | O += P_1 V_1 | S_3 | O += P_2 V_2 | softmax | ...
//
// One consumer's softmax runs under the other's products. Tiles are added in order, so that a row's maximum goes from
// one consumer to the other and back with P. (FlashMLA's kernel, which adds the other's tile last and rescales it, has
// its two halves of the output from the same idea.) P takes the place of the tile's own rope columns, which nobody
// reads once S is there: so two tiles and Q are all that shared memory must hold.
//
// Q lies in blocks of 64 columns, 128 bytes a row; K as key_boxes.cuh says; all swizzled as wgmma wants them. V is the
// first 8 column blocks of K read MN-major, so that nothing is transposed. The work list is that of
// kernels/work_list.cuh; with p.list_group > 1 so many blocks next to each other share an entry of it, each with its
// own 64 rows: they read the same keys at the same time, once from memory.
#pragma once

#include "devices/cuda/hopper/mla_convert.cuh"
#include "devices/cuda/hopper/mla_rows.cuh"
#include "devices/cuda/hopper/wgmma_forward.cuh"

namespace sextant::cuda {

struct MlaWgmmaShape : MlaTile {
  static constexpr int kRows = 64, kBlockBytes = 64 * 128;  // of Q: 64 rows x 64 columns
  // Q (at the end of a segment: rows of O) | K ring | maxima, factors of two tiles, sums of both consumers, [2][64]
  // each, scales [64], last maxima [64] | barriers and scratch
  static constexpr int kRingAt = kBlocks * kBlockBytes, kStatAt = kRingAt + kStages * kTileBytes;
  static constexpr int kBarrierAt = kStatAt + 8 * 64 * 4, kScratchAt = kBarrierAt + 64;
  static constexpr int kSharedBytes = kScratchAt + 128 + 1024;  // the swizzle wants 1 KiB alignment
  static_assert(kConsumers / 32 * kMlaRoomBytes <= kRingAt);
  static constexpr int kProducerRegisters = 104, kConsumerRegisters = 200;
  // Named barriers; the last two: + consumer, or + tile modulo 2.
  static constexpr int kAllBarrier = 1, kOwnBarrier = 2, kReadyBarrier = 4;
};

// P [64 rows][64 keys], in a tile's last column block.
__device__ __forceinline__ uint32_t probability_offset(int row, int chunk) {
  return static_cast<uint32_t>((row >> 3) * MlaTile::kGroupBytes + (MlaTile::kBlocks - 1) * 1024 + (row & 7) * 128 +
                               ((chunk ^ (row & 7)) << 4));
}

// `inverses`: what turns dots of a row back, [64].
template <class T, class M>
__device__ __forceinline__ void mla_load_query_blocks(const AttentionParams& p, const Request& r, int row0,
                                                      char* q_tile, float* inverses) {
  using S = MlaWgmmaShape;
  const int num_rows = r.query_len * p.group_size, lane = threadIdx.x & 31;
#pragma unroll 4  // rows in flight
  for (int tile_row = threadIdx.x / 32; tile_row < S::kRows; tile_row += S::kConsumers / 32) {
    const int row = row0 + tile_row;
    const int32_t query = row / p.group_size;
    const T* from = static_cast<const T*>(p.q) + (r.query_start + query) * p.q_token_stride +
                    (row - query * p.group_size) * p.q_head_stride;
    uint4 x[3];
    const float inverse = load_query_row<T, M>(from, row < num_rows, x);
    if (lane == 0) inverses[tile_row] = inverse;
#pragma unroll
    for (int i = 0; i < 3; ++i)
      if (lane + i * 32 < S::DK / 8) *reinterpret_cast<uint4*>(q_tile + block_chunk(tile_row, lane + i * 32)) = x[i];
  }
}

// Rows lane / 4 and lane / 4 + 8 of a warp's 16. `max`: what the last added tile's P is relative to; `sum`: this
// thread's share, of its own tiles.
struct MlaRows {
  int32_t position[2];
  float slope[2], scale[2], max[2], sum[2];
};
struct MlaStats {
  float *maxima, *factors, *sums;  // [2][64] each
  float *scales, *last;            // [64] each
  __device__ __forceinline__ explicit MlaStats(char* stats)
      : maxima(reinterpret_cast<float*>(stats)),
        factors(maxima + 128),
        sums(maxima + 256),
        scales(maxima + 384),
        last(maxima + 448) {}
};

template <class T>  // of queries and output
struct MlaConsumer {
  using S = MlaWgmmaShape;
  using M = __half;  // what is multiplied
  const AttentionParams& p;
  const MlaRing<S>& ring;
  MlaStats stats;
  char* shared;
  int group, lane, warp;

  __device__ __forceinline__ int row(int half) const { return warp * 16 + half * 8 + lane / 4; }
  __device__ __forceinline__ void release(int n) const {
    if (lane == 0) barrier_arrive(ring.empty(n));
  }

  // S = Q K^T of tile n.
  __device__ __forceinline__ void compute_scores(float (&s)[32], int n) const {
    const uint64_t queries = matrix_descriptor(shared_address(shared), 16, 1024);
    const uint64_t keys = matrix_descriptor(ring.tile(n), 16, S::kGroupBytes);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < S::DK / 16; ++k)
      wgmma_scores<M, 64>(s, move_descriptor(queries, (k / 4) * S::kBlockBytes + (k % 4) * 32),
                          move_descriptor(keys, (k / 4) * 1024 + (k % 4) * 32), k > 0);
    wgmma_commit();
    wgmma_wait<0>();
  }

  // O *= factor; O += P V of tile n, which is then free.
  __device__ __forceinline__ void add_values(float (&o)[128], int n, const float (&factor)[2]) const {
    if (__any_sync(0xffffffffu, factor[0] != 1.0f || factor[1] != 1.0f)) {
#pragma unroll
      for (int i = 0; i < 128; ++i) o[i] *= factor[(i / 2) % 2];
    }
    const uint64_t prob = matrix_descriptor(ring.tile(n) + (S::kBlocks - 1) * 1024, 16, S::kGroupBytes);
    const uint64_t values = matrix_descriptor(ring.tile(n) + group * 4 * 1024, 1024, S::kGroupBytes);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < S::kKeys / 16; ++k)
      wgmma_m64n256k16<M>(o, move_descriptor(prob, k * 32), move_descriptor(values, k * 2 * S::kGroupBytes), true);
    wgmma_commit();
    wgmma_wait<0>();
    release(n);
  }

  // The other consumer's tile n: waits for its P.
  __device__ __forceinline__ void add_other(float (&o)[128], int n, MlaRows& rows) const {
    barrier_wait(ring.full(n), ring.full_parity(n));
    named_wait(S::kReadyBarrier + n % 2, S::kConsumers);
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      factor[half] = stats.factors[n % 2 * 64 + row(half)];
      rows.max[half] = stats.maxima[n % 2 * 64 + row(half)];
      rows.sum[half] *= factor[half];
    }
    add_values(o, n, factor);
  }

  // Dots of 64 rows x 64 keys to probabilities in the tile's rope columns; `factor` is what O must be scaled by.
  __device__ __forceinline__ void softmax(const Request& r, const ScoreRule& rule, bool masked, int32_t key0, int n,
                                          float (&s)[32], MlaRows& rows, float (&factor)[2]) const {
    const bool biased = rule.has_cap || p.alibi_slopes != nullptr;
    if (biased || masked) [[unlikely]]
      mla_adjust_scores(p, rule, rows.position, rows.slope, rows.scale, r.context_len, r.key_hi, masked, key0, s);
    char* tile = shared + S::kRingAt + n % 2 * S::kTileBytes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float scale = biased ? 1.0f : rule.scale_log2 * rows.scale[half];
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
      for (int j = 0; j < 8; ++j) {
        const float x = exp2_approx(fmaf(s[j * 4 + half * 2], scale, shift)),
                    y = exp2_approx(fmaf(s[j * 4 + half * 2 + 1], scale, shift));
        sum += x + y;
        *reinterpret_cast<uint32_t*>(tile + probability_offset(row(half), j) + (lane & 3) * 4) = pack_pair<M>(x, y);
      }
      rows.sum[half] = fmaf(rows.sum[half], factor[half], sum);
      if ((lane & 3) == 0) {
        stats.maxima[n % 2 * 64 + row(half)] = base;
        stats.factors[n % 2 * 64 + row(half)] = factor[half];
      }
    }
    fence_async_proxy();
    named_arrive(S::kReadyBarrier + n % 2, S::kConsumers);
    named_wait(S::kOwnBarrier + group, 128);
  }

  __device__ __forceinline__ void write_rows(const BlockWork& work, const MlaPlace& place, const TileCursor& c,
                                             int first_tile, bool ends, MlaRows& rows, const float (&o)[128]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = rows.sum[half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      if ((lane & 3) == 0) stats.sums[group * 64 + row(half)] = sum;
      if (group == 0 && (lane & 3) == 0) stats.last[row(half)] = rows.max[half];
    }
    named_wait(S::kAllBarrier, S::kConsumers);  // both are done with Q, too
    const int own = warp * 16 + lane % 16;
    const MlaRowTarget target = mla_end_row<T>(p, work, place, c, first_tile, ends, own, stats.last[own],
                                               stats.sums[own] + stats.sums[64 + own], group == 0 && lane < 16);
    mla_write_rows<T>(target, group * 256, o, reinterpret_cast<float*>(shared + (group * 4 + warp) * kMlaRoomBytes));
  }
};

template <class T>
__device__ __forceinline__ void mla_consume(const AttentionParams& p, const BlockWork& work, const MlaPlace& place,
                                            TileCursor done, char* shared, const MlaRing<MlaWgmmaShape>& ring) {
  using S = MlaWgmmaShape;
  const TileRange& range = work.range;
  const MlaConsumer<T> self = {p,
                               ring,
                               MlaStats(shared + S::kStatAt),
                               shared,
                               static_cast<int>(threadIdx.x) / 128,
                               static_cast<int>(threadIdx.x) & 31,
                               static_cast<int>(threadIdx.x) / 32 % 4};
  const ScoreRule rule = make_score_rule(p, key_scale(p, 0));
  float o[128];
  MlaRows rows;
  int32_t first_tile = done.tile, all_below = 0, all_from = 0;
  bool other_waits = false;  // the tile before is the other consumer's and not yet added to O
  for (int32_t x = range.begin; x < range.end; ++x) {
    const int n = x - range.begin;
    const Request& r = done.request;
    if (n == 0 || done.tile == 0) {
      first_tile = done.tile;
      const int row0 = done.row_tile * place.list_rows + place.sub * 64;
      named_wait(S::kAllBarrier, S::kConsumers);  // the other warpgroup may still write its rows
      mla_load_query_blocks<T, __half>(p, r, row0, shared, self.stats.scales);
      fence_async_proxy();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = row0 + self.row(half);
        rows.position[half] = r.context_len + row / p.group_size;
        rows.slope[half] = p.alibi_slopes == nullptr ? 0.0f : p.alibi_slopes[row % p.group_size] * kLog2E;
        rows.max[half] = -INFINITY;
        rows.sum[half] = 0;
      }
      // Keys that all rows see need no mask.
      all_below = p.causal ? min(r.key_hi, r.context_len + row0 / p.group_size + p.right + 1) : r.key_hi;
      all_from = p.window > 0 ? r.context_len + (row0 + 63) / p.group_size - p.window + 1 : 0;
#pragma unroll
      for (int i = 0; i < 128; ++i) o[i] = 0.0f;
      other_waits = false;
      named_wait(S::kAllBarrier, S::kConsumers);
#pragma unroll
      for (int half = 0; half < 2; ++half) rows.scale[half] = self.stats.scales[self.row(half)];
    }
    const bool ends = done.tile + 1 == done.counts.tiles, last = ends || x + 1 == range.end;
    if (n % 2 == self.group) {
      const int32_t key0 = r.key_lo + done.tile * S::kKeys;
      float s[32], factor[2];
      barrier_wait(ring.full(n), ring.full_parity(n));
      self.compute_scores(s, n);
      if (other_waits) self.add_other(o, n - 1, rows);
      self.softmax(r, rule, key0 + S::kKeys > all_below || key0 < all_from, key0, n, s, rows, factor);
      self.add_values(o, n, factor);
      other_waits = false;
    } else if (last) {
      self.add_other(o, n, rows);
    } else {
      other_waits = true;
    }
    if (last) self.write_rows(work, place, done, first_tile, ends, rows, o);
    if (x + 1 < range.end) done.advance(p, place.list_rows, S::kKeys);
  }
}

template <class T>
__global__ void __launch_bounds__(MlaTile::kThreads, 1)
    mla_wgmma(const __grid_constant__ AttentionParams p, const __grid_constant__ KeyMap) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  using S = MlaWgmmaShape;
  extern __shared__ char shared_bytes[];
  char* shared = shared_bytes + (1024 - shared_address(shared_bytes) % 1024) % 1024;
  const MlaRing<S> ring{shared_address(shared + S::kRingAt), shared_address(shared + S::kBarrierAt)};
  launch_dependents();
  if (threadIdx.x == 0) {
    ring.init(S::kConsumers / 32);
    fence_async_proxy();
  }
  const MlaPlace place = mla_place(p);
  TileCursor cursor;
  const BlockWork work =
      find_work<S::kThreads>(p, place.list_rows, S::kKeys, reinterpret_cast<int32_t*>(shared + S::kScratchAt), &cursor,
                             place.block, place.blocks);
  __syncthreads();
  if (work.range.begin == work.range.end) return;
  if (threadIdx.x >= S::kConsumers) {
    shrink_registers<S::kProducerRegisters>();
    mla_convert<S, 1>(p, work.range, cursor, place.list_rows, shared + S::kRingAt, ring);
  } else {
    grow_registers<S::kConsumerRegisters>();
    mla_consume<T>(p, work, place, cursor, shared, ring);
  }
#endif
}

}  // namespace sextant::cuda
