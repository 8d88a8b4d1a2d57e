// MLA decode on wgmma: 64 query rows x 576, tiles of 64 keys, O [64][512] in the registers of two warpgroups.
//
//   producer (1 warpgroup)   rows of the latent cache -> K ring of 2 tiles: a tensor-map box a page, or rows by
//   cp.async
//                            (page sizes that 8 does not divide, the ends of requests)
//   consumer w in {0, 1}     S_w = Q K^T for keys 32w..32w+31 | row maxima meet in shared memory | P_w to shared memory
//                            O_w += P V for columns 256w..256w+255
//
//   tile t:   full[t] --> S_w --> maxima --bar--> P_w --bar--> O_w --> empty[t]
//   ring:     tile t + 1 arrives while tile t is computed
//
// Q and P lie in blocks of 64 columns, 128 bytes a row; K as key_boxes.cuh says; all swizzled as wgmma wants them. V is
// the first 8 column blocks of K read MN-major, so that nothing is transposed. The work list is that of
// kernels/work_list.cuh.
#pragma once

#include "devices/cuda/hopper/mla_ring.cuh"
#include "devices/cuda/kernels/softmax.cuh"

namespace sextant::cuda {

struct MlaWgmmaShape : MlaTile {
  static constexpr int kRows = 64, kBlockBytes = 64 * 128;  // of Q and P: 64 rows x 64 columns
  // Q | K ring | P | maxima, sums [2][64] each | barriers and scratch
  static constexpr int kRingAt = kBlocks * kBlockBytes, kProbAt = kRingAt + kStages * kTileBytes,
                       kStatAt = kProbAt + kBlockBytes;
  static constexpr int kBarrierAt = kStatAt + 4 * 64 * 4, kScratchAt = kBarrierAt + 64;
  static constexpr int kSharedBytes = kScratchAt + 128 + 1024;  // the swizzle wants 1 KiB alignment
};

__device__ __forceinline__ uint32_t block_offset(int row, int chunk) {
  return static_cast<uint32_t>((chunk >> 3) * MlaWgmmaShape::kBlockBytes + row * 128 +
                               (((chunk & 7) ^ (row & 7)) << 4));
}

template <class T>
__device__ __forceinline__ void mla_load_query_blocks(const AttentionParams& p, const TileCursor& c, char* q_tile) {
  using S = MlaWgmmaShape;
  const int num_rows = c.request.query_len * p.group_size;
  constexpr int kChunks = S::DK / 8, kWarps = S::kConsumers / 32;
  const int lane = threadIdx.x & 31;
#pragma unroll 4
  for (int tile_row = threadIdx.x / 32; tile_row < S::kRows; tile_row += kWarps) {
    const int row = c.row_tile * S::kRows + tile_row;
    const int32_t query = row / p.group_size;
    const T* from = static_cast<const T*>(p.q) + (c.request.query_start + query) * p.q_token_stride +
                    (row - query * p.group_size) * p.q_head_stride;
#pragma unroll
    for (int chunk = lane; chunk < kChunks; chunk += 32) {
      uint4 x = make_uint4(0, 0, 0, 0);
      if (row < num_rows) x = __ldg(reinterpret_cast<const uint4*>(from + chunk * 8));
      *reinterpret_cast<uint4*>(q_tile + block_offset(tile_row, chunk)) = x;
    }
  }
}

// Rows lane / 4 and lane / 4 + 8 of a warp's 16.
struct MlaRows {
  int32_t position[2];
  float slope[2], max[2], sum[2];
};

// Dots of 64 rows x this warpgroup's 32 keys to probabilities in shared memory; returns the factors O must be scaled
// by.
template <class T>
__device__ __forceinline__ void mla_probabilities(const AttentionParams& p, const Request& r, const ScoreRule& rule,
                                                  int32_t key0, float (&s)[16], MlaRows& rows, float* maxima,
                                                  char* prob_tile, float (&factor)[2]) {
  const int group = threadIdx.x / 128, lane = threadIdx.x & 31, warp = threadIdx.x / 32 % 4;
  const bool biased = rule.has_cap || p.alibi_slopes != nullptr;
  const float scale = biased ? 1.0f : rule.scale_log2;
  const bool masked = key0 + 32 > r.key_hi || (r.query_len > 1 && (p.causal || p.window > 0));
  if (biased || masked) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int half = (i / 2) % 2;
      const int32_t position = key0 + (i / 4) * 8 + (lane & 3) * 2 + (i & 1);
      if (biased) s[i] = score_log2(rule, s[i]) + rows.slope[half] * static_cast<float>(position - r.context_len);
      if (masked && (position >= r.key_hi || !is_visible(p, rows.position[half], position))) s[i] = -INFINITY;
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = -INFINITY;
#pragma unroll
    for (int n = 0; n < 4; ++n) top = fmaxf(top, fmaxf(s[n * 4 + half * 2], s[n * 4 + half * 2 + 1]));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2)) * scale;
    if ((lane & 3) == 0) maxima[group * 64 + warp * 16 + half * 8 + lane / 4] = top;
  }
  named_wait(1, MlaWgmmaShape::kConsumers);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * 16 + half * 8 + lane / 4;
    const float top = fmaxf(maxima[row], maxima[64 + row]);
    const bool grows = top > rows.max[half] + 8.0f;
    const float base = grows ? top : rows.max[half];
    factor[half] = grows ? exp2_approx(rows.max[half] - base) : 1.0f;
    rows.max[half] = base;
    rows.sum[half] *= factor[half];
    const float shift = base == -INFINITY ? 0.0f : -base;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const float x = exp2_approx(fmaf(s[n * 4 + half * 2], scale, shift)),
                  y = exp2_approx(fmaf(s[n * 4 + half * 2 + 1], scale, shift));
      rows.sum[half] += x + y;
      *reinterpret_cast<uint32_t*>(prob_tile + block_offset(row, group * 4 + n) + (lane & 3) * 4) = pack_pair<T>(x, y);
    }
  }
  fence_async_proxy();
  named_wait(1, MlaWgmmaShape::kConsumers);
}

template <class T>
__device__ __forceinline__ void mla_write_rows(const AttentionParams& p, const BlockWork& work, const TileCursor& c,
                                               int first_tile, bool ends, MlaRows& rows, float* sums,
                                               const float (&o)[128]) {
  const int group = threadIdx.x / 128, lane = threadIdx.x & 31, warp = threadIdx.x / 32 % 4;
  const Request& r = c.request;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = rows.sum[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if ((lane & 3) == 0) sums[group * 64 + warp * 16 + half * 8 + lane / 4] = sum;
  }
  named_wait(1, MlaWgmmaShape::kConsumers);
  const float v_scale = value_scale(p, 0);
  const bool whole = is_whole(work, first_tile, ends);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int tile_row = warp * 16 + half * 8 + lane / 4, row = c.row_tile * 64 + tile_row;
    if (row >= r.query_len * p.group_size) continue;
    const int32_t query = row / p.group_size, token = r.query_start + query, head = row % p.group_size;
    const RowEnd end =
        finish_row(rows.max[half], sums[tile_row] + sums[64 + tile_row], v_scale, whole ? p.sinks : nullptr, head);
    const bool writes_lse = group == 0 && (lane & 3) == 0;
    RowSink<T> sink;
    if (whole) {
      sink = output_row<T>(p, token, head);
      if (writes_lse) store_lse(p, token, head, end.lse);
    } else {
      const int64_t partial = partial_index(p, work, r, first_tile, 64, tile_row, query, head);
      sink.out_f32 = p.partial_out + partial * MlaWgmmaShape::DV;
      if (writes_lse) p.partial_lse[partial] = end.lse;
    }
    sink.template store_pairs<32, 8>(group * 256 + (lane & 3) * 2, end.weight,
                                     [&](int n, int e) { return o[n * 4 + half * 2 + e]; });
  }
}

template <class T>
__device__ __forceinline__ void mla_consume(const AttentionParams& p, const BlockWork& work, TileCursor done,
                                            char* shared, const MlaRing<MlaWgmmaShape>& ring) {
  using S = MlaWgmmaShape;
  const TileRange& range = work.range;
  const int group = threadIdx.x / 128, lane = threadIdx.x & 31, warp = threadIdx.x / 32 % 4;
  const uint32_t q_tile = shared_address(shared), prob_tile = q_tile + S::kProbAt;
  float* maxima = reinterpret_cast<float*>(shared + S::kStatAt);  // [2][64]
  float* sums = maxima + 128;                                     // [2][64]
  const ScoreRule rule = make_score_rule(p, key_scale(p, 0));
  float o[128];
  MlaRows rows;
  int32_t first_tile = done.tile;
  for (int32_t x = range.begin; x < range.end; ++x) {
    const int n = x - range.begin;
    if (n == 0 || done.tile == 0) {
      first_tile = done.tile;
      named_wait(1, S::kConsumers);  // the other warpgroup may still read Q and the sums
      mla_load_query_blocks<T>(p, done, shared);
      fence_async_proxy();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = done.row_tile * 64 + warp * 16 + half * 8 + lane / 4;
        rows.position[half] = done.request.context_len + row / p.group_size;
        rows.slope[half] = p.alibi_slopes == nullptr ? 0.0f : p.alibi_slopes[row % p.group_size] * kLog2E;
        rows.max[half] = -INFINITY;
        rows.sum[half] = 0;
      }
#pragma unroll
      for (int i = 0; i < 128; ++i) o[i] = 0.0f;
      named_wait(1, S::kConsumers);
    }
    barrier_wait(ring.full(n), ring.full_parity(n));
    const uint32_t tile = ring.tile(n);
    float s[16];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < S::DK / 16; ++k) {
      const uint32_t column = (k % 4) * 32;
      wgmma_m64n32k16<T>(
          s, matrix_descriptor(q_tile + (k / 4) * S::kBlockBytes + column, 16, 1024),
          matrix_descriptor(tile + group * 4 * S::kGroupBytes + (k / 4) * 1024 + column, 16, S::kGroupBytes), k > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    float factor[2];
    mla_probabilities<T>(p, done.request, rule, done.request.key_lo + done.tile * S::kKeys + group * 32, s, rows,
                         maxima, shared + S::kProbAt, factor);
    if (__any_sync(0xffffffffu, factor[0] != 1.0f || factor[1] != 1.0f)) {
#pragma unroll
      for (int i = 0; i < 128; ++i) o[i] *= factor[(i / 2) % 2];
    }
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < S::kKeys / 16; ++k)
      wgmma_m64n256k16<T>(o, matrix_descriptor(prob_tile + k * 32, 16, 1024),
                          matrix_descriptor(tile + group * 4 * 1024 + k * 2 * S::kGroupBytes, 1024, S::kGroupBytes),
                          true);
    wgmma_commit();
    wgmma_wait<0>();
    if (lane == 0) barrier_arrive(ring.empty(n));
    const bool ends = done.tile + 1 == done.counts.tiles;
    if (ends || x + 1 == range.end) mla_write_rows<T>(p, work, done, first_tile, ends, rows, sums, o);
    if (x + 1 < range.end) done.advance(p, S::kRows, S::kKeys);
  }
}

template <class T>
__global__ void __launch_bounds__(MlaWgmmaShape::kThreads, 1)
    mla_wgmma(const __grid_constant__ AttentionParams p, const __grid_constant__ KeyMap map) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  using S = MlaWgmmaShape;
  extern __shared__ char shared_bytes[];
  char* shared = shared_bytes + (1024 - shared_address(shared_bytes) % 1024) % 1024;
  const MlaRing<S> ring{shared_address(shared + S::kRingAt), shared_address(shared + S::kBarrierAt)};
  launch_dependents();
  if (threadIdx.x == 0) {
    ring.init(S::kConsumers / 32);
    if (map.tokens > 0) prefetch_tensor_map(&map.k);
    fence_async_proxy();
  }
  TileCursor cursor;
  const BlockWork work =
      find_work<S::kThreads>(p, S::kRows, S::kKeys, reinterpret_cast<int32_t*>(shared + S::kScratchAt), &cursor);
  __syncthreads();
  if (work.range.begin == work.range.end) return;
  if (threadIdx.x >= S::kConsumers) {
    shrink_registers<104>();
    mla_produce<S, T>(p, map, work.range, cursor, ring);
  } else {
    grow_registers<200>();
    mla_consume<T>(p, work, cursor, shared, ring);
  }
#endif
}

}  // namespace sextant::cuda
