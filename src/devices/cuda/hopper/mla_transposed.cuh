// MLA decode for up to 16 query rows (heads x tokens) on wgmma, operands swapped: keys, then output columns, take the
// long side of the matrix tile, so that nothing is padded from 16 rows to 64.
//
//   producer (1 warpgroup)   latent cache -> K ring of 2 tiles (mla_ring.cuh; fp8: mla_convert.cuh)
//   consumer w in {0, 1}     tiles w, w + 2, ... of the block's range, alone:
//                            S^T [64 keys][16] = K Q^T | column maxima meet in shared memory | P^T to shared memory
//                            O^T [512][16] += V^T P^T, in 8 blocks of 64 output columns
//
// The two consumers share nothing until a segment ends; then their states merge in shared memory. In a cluster
// (kCluster) the blocks of a request divide its tiles evenly, and their merged states meet there too: no partial
// results in memory, no second kernel. Memory decides: a tile takes 2.9 us to load at an SM's share of 3.35 TB/s and
// about 0.8 us of matrix work. The idea of swapping A and B is from NVIDIA's XQA kernels (TensorRT-LLM).
#pragma once

#include "devices/cuda/hopper/mla_cluster.cuh"
#include "devices/cuda/hopper/mla_convert.cuh"
#include "devices/cuda/kernels/softmax.cuh"
#include "devices/cuda/kernels/visible_keys.cuh"

namespace sextant::cuda {

struct MlaTransposedShape : MlaTile {
  static constexpr int kRows = 16, kColumnBlocks = DV / 64;
  static constexpr int kQBlockBytes = kRows * 128;  // 16 rows x 64 columns
  // K ring | Q | P^T of each consumer | merged rows | maxima [2][4][16], sums [2][4][16], row ends [16] x 2, scales
  // [16] | barriers
  static constexpr int kQAt = kStages * kTileBytes, kProbAt = kQAt + kBlocks * kQBlockBytes, kProbBytes = kRows * 128;
  static constexpr int kMergeAt = kProbAt + 2 * kProbBytes, kStatAt = kMergeAt + kRows * kMlaMergeColumns * 4;
  static constexpr int kBarrierAt = kStatAt + (2 * 2 * 4 * kRows + 3 * kRows) * 4, kScratchAt = kBarrierAt + 64;
  static constexpr int kSharedBytes = kScratchAt + 128 + 1024;  // the swizzle wants 1 KiB alignment
  static constexpr int kAllBarrier = 1, kOwnBarrier = 2;        // the second: + consumer
  // Producers that convert hold two tiles' keys in their registers.
  static constexpr int kProducerRegisters = 104, kConsumerRegisters = 200, kConverterRegisters = 192,
                       kFewConsumerRegisters = 152;
};

// What a consumer knows of its columns (query rows) 8 * j + 2 * (lane % 4) + e; index 2 * j + e.
struct MlaColumns {
  int32_t position[4];
  float slope[4], scale[4], max[4], sum[4];
};

// `inverses`: what turns dots of a row back, [16].
template <class T, class M>
__device__ __forceinline__ void mla_load_query_rows(const AttentionParams& p, const TileCursor& c, char* q_tile,
                                                    float* inverses) {
  using S = MlaTransposedShape;
  const int num_rows = c.request.query_len * p.group_size, lane = threadIdx.x & 31;
#pragma unroll
  for (int row = threadIdx.x / 32; row < S::kRows; row += S::kConsumers / 32) {
    const int32_t query = row / p.group_size;
    const T* from = static_cast<const T*>(p.q) + (c.request.query_start + query) * p.q_token_stride +
                    (row - query * p.group_size) * p.q_head_stride;
    uint4 x[3];
    const float inverse = load_query_row<T, M>(from, row < num_rows, x);
    if (lane == 0) inverses[row] = inverse;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const int chunk = lane + i * 32;
      if (chunk < S::DK / 8)
        *reinterpret_cast<uint4*>(q_tile + (chunk >> 3) * S::kQBlockBytes + row * 128 +
                                  (((chunk & 7) ^ (row & 7)) << 4)) = x[i];
    }
  }
}

// Dots of this warp's 16 keys x 16 rows to probabilities in shared memory, [16 rows][64 keys]; `factor` is what O's
// columns must be scaled by.
template <class T>
__device__ __forceinline__ void mla_transposed_softmax(const AttentionParams& p, const Request& r,
                                                       const ScoreRule& rule, int32_t key0, float (&s)[8],
                                                       MlaColumns& columns, float* maxima, char* prob_tile,
                                                       float (&factor)[4]) {
  using S = MlaTransposedShape;
  const int group = threadIdx.x / 128, lane = threadIdx.x & 31, warp = threadIdx.x / 32 % 4;
  const bool biased = rule.has_cap || p.alibi_slopes != nullptr;
  const bool masked = key0 + S::kKeys > (p.causal ? min(r.key_hi, r.context_len + p.right + 1) : r.key_hi) ||
                      (p.window > 0 && key0 < r.context_len + r.query_len - p.window);
  const int32_t first = key0 + warp * 16 + lane / 4;  // and 8 further on
  if (biased) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int column = i / 4 * 2 + (i & 1);
      s[i] = score_log2(rule, s[i] * columns.scale[column]) +
             columns.slope[column] * static_cast<float>(first + (i / 2) % 2 * 8 - r.context_len);
    }
  }
  if (masked) {
#pragma unroll
    for (int column = 0; column < 4; ++column) {
      const VisibleKeys visible = visible_keys(p, r.key_hi, columns.position[column]);
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (!visible.has(first + half * 8)) s[column / 2 * 4 + half * 2 + (column & 1)] = -INFINITY;
    }
  }
  float* own_maxima = maxima + group * 4 * S::kRows;
#pragma unroll
  for (int column = 0; column < 4; ++column) {
    const float scale = biased ? 1.0f : rule.scale_log2 * columns.scale[column];
    const int i = column / 2 * 4 + (column & 1);
    float top = fmaxf(s[i], s[i + 2]);
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
    if (lane < 4) own_maxima[warp * S::kRows + column / 2 * 8 + lane * 2 + (column & 1)] = top * scale;
  }
  named_wait(S::kOwnBarrier + group, 128);
#pragma unroll
  for (int column = 0; column < 4; ++column) {
    const float scale = biased ? 1.0f : rule.scale_log2 * columns.scale[column];
    const int row = column / 2 * 8 + (lane & 3) * 2 + (column & 1), i = column / 2 * 4 + (column & 1);
    const float top = fmaxf(fmaxf(own_maxima[row], own_maxima[S::kRows + row]),
                            fmaxf(own_maxima[2 * S::kRows + row], own_maxima[3 * S::kRows + row]));
    const bool grows = top > columns.max[column] + 8.0f;
    const float base = grows ? top : columns.max[column];
    factor[column] = grows ? exp2_approx(columns.max[column] - base) : 1.0f;
    columns.max[column] = base;
    const float shift = base == -INFINITY ? 0.0f : -base;
    const float x = exp2_approx(fmaf(s[i], scale, shift)), y = exp2_approx(fmaf(s[i + 2], scale, shift));
    columns.sum[column] = fmaf(columns.sum[column], factor[column], x + y);
    char* to = prob_tile + row * 128 + lane / 4 * 2;  // keys warp * 16 + lane / 4 and 8 further on: the next chunk
    *reinterpret_cast<T*>(to + (((warp * 2) ^ (row & 7)) << 4)) = from_float<T>(x);
    *reinterpret_cast<T*>(to + (((warp * 2 + 1) ^ (row & 7)) << 4)) = from_float<T>(y);
  }
  fence_async_proxy();
  named_wait(S::kOwnBarrier + group, 128);
}

// Where a block's rows meet.
struct MlaMergeRoom {
  float* merged;   // [16][kMlaMergeColumns], relative to the row's maximum
  float* maxima;   // [2][4][16]; at the end of a segment [consumer][16] of each
  float* sums;     // [2][4][16]
  float2* states;  // [16]: a row's maximum (log2 units) and sum

  explicit __device__ __forceinline__ MlaMergeRoom(char* shared) {
    using S = MlaTransposedShape;
    merged = reinterpret_cast<float*>(shared + S::kMergeAt);
    maxima = reinterpret_cast<float*>(shared + S::kStatAt);
    sums = maxima + 2 * 4 * S::kRows;
    states = reinterpret_cast<float2*>(sums + 2 * 4 * S::kRows);
  }
};

// The two consumers' states meet.
__device__ __forceinline__ void mla_merge_consumers(const MlaColumns& columns, const MlaMergeRoom& room,
                                                    const float (&o)[8][8]) {
  using S = MlaTransposedShape;
  const int group = threadIdx.x / 128, lane = threadIdx.x & 31, warp = threadIdx.x / 32 % 4;
  const auto& [merged, maxima, sums, states] = room;
  named_wait(S::kAllBarrier, S::kConsumers);  // the other may still read its maxima
#pragma unroll
  for (int column = 0; column < 4; ++column) {
    const int row = column / 2 * 8 + (lane & 3) * 2 + (column & 1);
    float sum = columns.sum[column];
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (lane < 4) sums[(group * 4 + warp) * S::kRows + row] = sum;
    if (lane < 4 && warp == 0) maxima[group * S::kRows + row] = columns.max[column];
  }
  named_wait(S::kAllBarrier, S::kConsumers);
  float factor[4];
#pragma unroll
  for (int column = 0; column < 4; ++column) {
    const int row = column / 2 * 8 + (lane & 3) * 2 + (column & 1);
    const float top = fmaxf(maxima[row], maxima[S::kRows + row]);
    factor[column] = exp2_approx(columns.max[column] - (top == -INFINITY ? 0.0f : top));
  }
  const auto at = [&](int block, int i) {
    const int row = i / 4 * 8 + (lane & 3) * 2 + (i & 1);
    return merged + row * kMlaMergeColumns + block * 64 + warp * 16 + (i / 2) % 2 * 8 + lane / 4;
  };
  if (group == 1) {
#pragma unroll
    for (int block = 0; block < S::kColumnBlocks; ++block)
#pragma unroll
      for (int i = 0; i < 8; ++i) *at(block, i) = o[block][i] * factor[i / 4 * 2 + (i & 1)];
  }
  named_wait(S::kAllBarrier, S::kConsumers);
  if (group == 0) {
#pragma unroll
    for (int block = 0; block < S::kColumnBlocks; ++block)
#pragma unroll
      for (int i = 0; i < 8; ++i) *at(block, i) += o[block][i] * factor[i / 4 * 2 + (i & 1)];
  } else if (threadIdx.x < 128 + S::kRows) {  // meanwhile, a thread a row
    const int row = static_cast<int>(threadIdx.x) - 128;
    const float top = fmaxf(maxima[row], maxima[S::kRows + row]), base = top == -INFINITY ? 0.0f : top;
    float total = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) total += sums[i * S::kRows + row] * exp2_approx(maxima[i / 4 * S::kRows + row] - base);
    states[row] = make_float2(top, total);
  }
  named_wait(S::kAllBarrier, S::kConsumers);
}

// All consumers write the rows of a segment.
template <class T>
__device__ __forceinline__ void mla_write_merged(const AttentionParams& p, const BlockWork& work, const TileCursor& c,
                                                 int first_tile, bool ends, const MlaMergeRoom& room) {
  using S = MlaTransposedShape;
  const Request& r = c.request;
  const bool whole = is_whole(work, first_tile, ends);
  const float v_scale = value_scale(p, 0);
  constexpr int kUnits = S::DV / 4;
#pragma unroll 2
  for (int u = threadIdx.x; u < r.query_len * p.group_size * kUnits; u += S::kConsumers) {
    const int row = u / kUnits, column = u % kUnits * 4, query = row / p.group_size, head = row - query * p.group_size;
    const float4 x = *reinterpret_cast<const float4*>(room.merged + row * kMlaMergeColumns + column);
    const RowEnd end = finish_row(room.states[row].x, room.states[row].y, v_scale, whole ? p.sinks : nullptr, head);
    RowSink<T> sink;
    if (whole) {
      sink = output_row<T>(p, r.query_start + query, head);
      if (column == 0) store_lse(p, r.query_start + query, head, end.lse);
    } else {
      const int64_t partial = partial_index(p, work, r, first_tile, S::kRows, row, query, head);
      sink.out_f32 = p.partial_out + partial * S::DV;
      if (column == 0) p.partial_lse[partial] = end.lse;
    }
    sink.store_pair(column, x.x * end.weight, x.y * end.weight);
    sink.store_pair(column + 2, x.z * end.weight, x.w * end.weight);
  }
}

template <class T, class M, bool kCluster>
__device__ __forceinline__ void mla_consume_transposed(const AttentionParams& p, const BlockWork& work, TileCursor done,
                                                       char* shared, const MlaRing<MlaTransposedShape>& ring) {
  using S = MlaTransposedShape;
  const TileRange& range = work.range;
  const int group = threadIdx.x / 128, lane = threadIdx.x & 31;
  char* probabilities = shared + S::kProbAt + group * S::kProbBytes;
  float* maxima = reinterpret_cast<float*>(shared + S::kStatAt);
  float* scales = reinterpret_cast<float*>(shared + S::kBarrierAt) - S::kRows;
  const uint64_t queries = matrix_descriptor(shared_address(shared + S::kQAt), 16, 1024);
  const uint64_t prob_rows = matrix_descriptor(shared_address(probabilities), 16, 1024);
  const ScoreRule rule = make_score_rule(p, key_scale(p, 0));
  float o[S::kColumnBlocks][8];
  MlaColumns columns;
  int32_t first_tile = done.tile;
  for (int32_t x = range.begin; x < range.end; ++x) {
    const int n = x - range.begin;
    if (n == 0 || done.tile == 0) {
      first_tile = done.tile;
      named_wait(S::kAllBarrier, S::kConsumers);  // the other may still write the rows of the segment before
      mla_load_query_rows<T, M>(p, done, shared + S::kQAt, scales);
      fence_async_proxy();
#pragma unroll
      for (int column = 0; column < 4; ++column) {
        const int row = column / 2 * 8 + (lane & 3) * 2 + (column & 1);
        columns.position[column] = done.request.context_len + row / p.group_size;
        columns.slope[column] = p.alibi_slopes == nullptr ? 0.0f : p.alibi_slopes[row % p.group_size] * kLog2E;
        columns.max[column] = -INFINITY;
        columns.sum[column] = 0;
      }
#pragma unroll
      for (int block = 0; block < S::kColumnBlocks; ++block)
#pragma unroll
        for (int i = 0; i < 8; ++i) o[block][i] = 0.0f;
      named_wait(S::kAllBarrier, S::kConsumers);
#pragma unroll
      for (int column = 0; column < 4; ++column)
        columns.scale[column] = std::is_same_v<T, M> ? 1.0f : scales[column / 2 * 8 + (lane & 3) * 2 + (column & 1)];
    }
    if (n % 2 == group) {
      barrier_wait(ring.full(n), ring.full_parity(n));
      const uint64_t keys = matrix_descriptor(ring.tile(n), 16, S::kGroupBytes);
      const uint64_t values = matrix_descriptor(ring.tile(n), 1024, S::kGroupBytes);
      float s[8];
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < S::DK / 16; ++k)
        wgmma_m64n16k16<M, false>(s, move_descriptor(keys, (k / 4) * 1024 + (k % 4) * 32),
                                  move_descriptor(queries, (k / 4) * S::kQBlockBytes + (k % 4) * 32), k > 0);
      wgmma_commit();
      wgmma_wait<0>();
      float factor[4];
      mla_transposed_softmax<M>(p, done.request, rule, done.request.key_lo + done.tile * S::kKeys, s, columns, maxima,
                                probabilities, factor);
      if (__any_sync(0xffffffffu, factor[0] != 1.0f || factor[1] != 1.0f || factor[2] != 1.0f || factor[3] != 1.0f)) {
#pragma unroll
        for (int block = 0; block < S::kColumnBlocks; ++block)
#pragma unroll
          for (int i = 0; i < 8; ++i) o[block][i] *= factor[i / 4 * 2 + (i & 1)];
      }
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < S::kKeys / 16; ++k)
#pragma unroll
        for (int block = 0; block < S::kColumnBlocks; ++block)
          wgmma_m64n16k16<M, true>(o[block], move_descriptor(values, block * 1024 + k * 2 * S::kGroupBytes),
                                   move_descriptor(prob_rows, k * 32), true);
      wgmma_commit();
      wgmma_wait<0>();
      if (lane == 0) barrier_arrive(ring.empty(n));
    }
    const bool ends = done.tile + 1 == done.counts.tiles;
    if (ends || x + 1 == range.end) {
      const MlaMergeRoom room(shared);
      mla_merge_consumers(columns, room, o);
      if constexpr (!kCluster) mla_write_merged<T>(p, work, done, first_tile, ends, room);
    }
    if (x + 1 < range.end) done.advance(p, S::kRows, S::kKeys);
  }
}

template <class T, bool kCluster, bool kFp8>
__global__ void __launch_bounds__(MlaTransposedShape::kThreads, 1)
    mla_transposed(const __grid_constant__ AttentionParams p, const __grid_constant__ KeyMap map) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  using S = MlaTransposedShape;
  extern __shared__ char shared_bytes[];
  char* shared = shared_bytes + (1024 - shared_address(shared_bytes) % 1024) % 1024;
  const MlaRing<S> ring{shared_address(shared), shared_address(shared + S::kBarrierAt)};
  launch_dependents();
  if (threadIdx.x == 0) {
    ring.init(S::kConsumers / 32 / 2);
    if (map.tokens > 0) prefetch_tensor_map(&map.k);
    fence_async_proxy();
  }
  TileCursor cursor;
  BlockWork work;
  Partition part;
  if constexpr (kCluster) {
    work = find_cluster_share<S>(p, &cursor, &part);
  } else {
    work = find_work<S::kThreads>(p, S::kRows, S::kKeys, reinterpret_cast<int32_t*>(shared + S::kScratchAt), &cursor);
  }
  const bool idle = work.range.begin == work.range.end;
  const MlaMergeRoom room(shared);
  if (kCluster && idle && threadIdx.x < S::kRows) room.states[threadIdx.x] = make_float2(-INFINITY, 0.0f);
  if (kCluster && idle)  // 0 * NaN must not reach the others' sums
    for (int i = threadIdx.x; i < S::kRows * kMlaMergeColumns; i += S::kThreads) room.merged[i] = 0.0f;
  __syncthreads();
  if (!kCluster && idle) return;
  if (kCluster && !cursor.request.active) return;  // the whole cluster
  if (threadIdx.x >= S::kConsumers) {
    if constexpr (kFp8) {
      grow_registers<S::kConverterRegisters>();
      if (!idle) mla_convert<S, 2>(p, work.range, cursor, S::kRows, shared, ring);
    } else {
      shrink_registers<S::kProducerRegisters>();
      if (!idle) mla_produce<S, T>(p, map, work.range, cursor, S::kRows, ring);
    }
    if constexpr (kCluster) cluster_barrier();
  } else {
    if constexpr (kFp8) {
      shrink_registers<S::kFewConsumerRegisters>();
    } else {
      grow_registers<S::kConsumerRegisters>();
    }
    if (!idle) mla_consume_transposed<T, std::conditional_t<kFp8, __half, T>, kCluster>(p, work, cursor, shared, ring);
    if constexpr (kCluster) {
      cluster_barrier();
      mla_write_cluster<T>(p, cursor.request, part, room.merged, room.states, S::kConsumers);
    }
  }
  if constexpr (kCluster) cluster_barrier();  // no block ends while another reads its shared memory
#endif
}

}  // namespace sextant::cuda
