// MLA decode over a latent cache: D = 576 = 512 latent + 64 rope, V = the first 512 columns of K, every head on one KV
// head.
//
//   block    8 warps, 16 * kRowTiles rows (heads x query tokens); tiles of 32 keys in a ring of kStages
//   S        4 column tiles of 8 keys x 2 halves of the 36 k steps: one (tile, half) a warp; halves meet in shared
//   memory softmax  a warp owns 2 * kRowTiles rows, a lane one key O        a warp owns 64 of the 512 columns, so that
//   the accumulators spread over the block and V is read once
//
// Each key is read from global memory once and serves both products. Any page size: rows are addressed one by one. The
// work list is that of kernels/work_list.cuh.
#pragma once

#include "devices/cuda/kernels/key_rows.cuh"
#include "devices/cuda/kernels/launchers.h"
#include "devices/cuda/kernels/softmax_tile.cuh"
#include "devices/cuda/kernels/work_list.cuh"

namespace sextant::cuda {

template <class T_, int kRowTiles_, int kStages_, bool kAsync_, SharedRoom kRoom_>
struct MlaShape {
  using T = T_;
  static constexpr int DK = 576, DV = 512, kRowTiles = kRowTiles_, kRows = 16 * kRowTiles, kKeys = 32;
  static constexpr bool kAsync = kAsync_;
  static constexpr int kThreads = 256, kWarps = 8, kChunks = DK / 8;
  static constexpr int kStages = kStages_;
  static constexpr SharedRoom kRoom = kRoom_;
  static constexpr int kQBytes = kRows * DK * 2, kStageBytes = kKeys * DK * 2;
  static constexpr int kScoreBytes = 2 * kRows * kKeys * 4, kProbBytes = kRows * kKeys * 2, kStatBytes = kRows * 3 * 4;
  static constexpr int kSharedBytes =
      kQBytes + kStages * kStageBytes + kScoreBytes + kProbBytes + kStatBytes + 2 * kKeys * 8 + 64;
  static_assert(kSharedBytes <= (kRoom == SharedRoom::kSmall    ? kSmallSharedBytes
                                 : kRoom == SharedRoom::kMiddle ? kMiddleSharedBytes
                                                                : kLargeSharedBytes));
};

// Probabilities [kRows][32]: four 16-byte chunks a row.
__device__ __forceinline__ uint32_t probability_offset(int row, int chunk) {
  return static_cast<uint32_t>(row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4));
}

template <class S>
__device__ __forceinline__ void mla_copy_tile(const AttentionParams& p, const Request& r, char* stage,
                                              const int64_t* rows, int32_t key0) {
#pragma unroll
  for (int i = threadIdx.x; i < S::kKeys * S::kChunks; i += S::kThreads) {
    const int row = i / S::kChunks, chunk = i % S::kChunks;
    const bool valid = key0 + row < r.key_hi;
    if constexpr (S::kAsync) {
      const typename S::T* base = static_cast<const typename S::T*>(p.cache_k);
      cp_async_16(shared_address(stage) + swizzled<S::DK>(row, chunk),
                  base + (valid ? rows[row] + chunk * p.k_chunk_stride : 0), valid);
    } else {
      uint4 x = make_uint4(0, 0, 0, 0);
      if (valid) x = read_chunk<typename S::T>(p, false, false, rows[row], chunk, 1.0f);
      *reinterpret_cast<uint4*>(stage + swizzled<S::DK>(row, chunk)) = x;
    }
  }
}

template <class S>
__device__ __forceinline__ void mla_load_queries(const AttentionParams& p, const TileCursor& c, char* q_tile) {
  using T = typename S::T;
  const int num_rows = c.request.query_len * p.group_size;
  for (int i = threadIdx.x; i < S::kRows * S::kChunks; i += S::kThreads) {
    const int tile_row = i / S::kChunks, chunk = i % S::kChunks, row = c.row_tile * S::kRows + tile_row;
    uint4 x = make_uint4(0, 0, 0, 0);
    if (row < num_rows) {
      const int64_t token = c.request.query_start + row / p.group_size;
      const int head = row % p.group_size;
      x = __ldg(reinterpret_cast<const uint4*>(static_cast<const T*>(p.q) + token * p.q_token_stride +
                                               head * p.q_head_stride + chunk * 8));
    }
    *reinterpret_cast<uint4*>(q_tile + swizzled<S::DK>(tile_row, chunk)) = x;
  }
}

// This warp's (column tile, half of k) of S into shared memory.
template <class S>
__device__ __forceinline__ void mla_scores(uint32_t q_tile, uint32_t k_tile, float* scores) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, column = warp % 4, half = warp / 4;
  constexpr int kSteps = S::DK / 32;  // of 16, in each half
  float s[S::kRowTiles][4] = {};
#pragma unroll
  for (int k2 = 0; k2 < kSteps / 2; ++k2) {
    const int k = half * kSteps + 2 * k2;
    uint32_t b[4];
    ldmatrix_x4(b, k_tile + swizzled<S::DK>(column * 8 + (lane & 7), k * 2 + (lane >> 3)));
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) {
        uint32_t a[4];
        ldmatrix_x4(a, q_tile + swizzled<S::DK>(m * 16 + (lane & 15), (k + j) * 2 + (lane >> 4)));
        mma_16816<typename S::T>(s[m], a, b[2 * j], b[2 * j + 1]);
      }
  }
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      const int row = m * 16 + (e / 2) * 8 + lane / 4;
      *reinterpret_cast<float2*>(scores + (half * S::kRows + row) * S::kKeys + column * 8 + (lane & 3) * 2) =
          make_float2(s[m][e], s[m][e + 1]);
    }
}

// Rows this warp owns in the softmax: kRows / 8 of them, every lane holding the same state.
template <class S>
struct MlaRowState {
  float max[S::kRows / 8], sum[S::kRows / 8];
};

template <class S>
__device__ __forceinline__ void mla_softmax(const AttentionParams& p, const TileCursor& c, const ScoreRule& rule,
                                            int32_t key0, const float* scores, char* probabilities, float* factors,
                                            MlaRowState<S>& state) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  const Request& r = c.request;
  const int32_t position = key0 + lane;
#pragma unroll
  for (int i = 0; i < S::kRows / 8; ++i) {
    const int tile_row = warp * (S::kRows / 8) + i, row = c.row_tile * S::kRows + tile_row;
    float s = score_log2(rule, scores[tile_row * S::kKeys + lane] + scores[(S::kRows + tile_row) * S::kKeys + lane]);
    if (p.alibi_slopes != nullptr)
      s += p.alibi_slopes[row % p.group_size] * kLog2E * static_cast<float>(position - r.context_len);
    if (position >= r.key_hi || !is_visible(p, r.context_len + row / p.group_size, position)) s = -INFINITY;
    float top = s;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
    const bool grows = top > state.max[i] + 8.0f;
    const float base = grows ? top : state.max[i];
    const float factor = grows ? exp2_approx(state.max[i] - base) : 1.0f;
    const float probability = exp2_approx(s - (base == -INFINITY ? 0.0f : base));
    state.sum[i] = state.sum[i] * factor + probability;  // this lane's share
    state.max[i] = base;
    *reinterpret_cast<typename S::T*>(probabilities + probability_offset(tile_row, lane / 8) + (lane % 8) * 2) =
        from_float<typename S::T>(probability);
    if (lane == 0) factors[tile_row] = factor;
  }
}

template <class S>
__device__ __forceinline__ void mla_values(uint32_t probabilities, uint32_t v_tile, const float* factors,
                                           float (&o)[S::kRowTiles][8][4]) {
  using T = typename S::T;
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float factor = factors[m * 16 + half * 8 + lane / 4];
      if (!__any_sync(0xffffffffu, factor != 1.0f)) continue;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        o[m][n][2 * half] *= factor;
        o[m][n][2 * half + 1] *= factor;
      }
    }
#pragma unroll
  for (int k = 0; k < S::kKeys / 16; ++k) {
    uint32_t a[S::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m)
      ldmatrix_x4(a[m], probabilities + probability_offset(m * 16 + (lane & 15), k * 2 + (lane >> 4)));
#pragma unroll
    for (int d = 0; d < 4; ++d) {
      uint32_t b[4];
      ldmatrix_x4_trans(
          b, v_tile + swizzled<S::DK>(k * 16 + ((lane >> 3) & 1) * 8 + (lane & 7), warp * 8 + d * 2 + (lane >> 4)));
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) {
        mma_16816<T>(o[m][2 * d], a[m], b[0], b[1]);
        mma_16816<T>(o[m][2 * d + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Ends a segment: the owners publish (max, sum), then every warp writes its 64 columns of all rows.
template <class S>
__device__ __forceinline__ void mla_end_segment(const AttentionParams& p, const TileCursor& c, const BlockWork& work,
                                                int first_tile, bool ends, MlaRowState<S>& state, float* stats,
                                                const float (&o)[S::kRowTiles][8][4]) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  const Request& r = c.request;
#pragma unroll
  for (int i = 0; i < S::kRows / 8; ++i) {
    float sum = state.sum[i];
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (lane == 0) {
      stats[(warp * (S::kRows / 8) + i) * 2] = state.max[i];
      stats[(warp * (S::kRows / 8) + i) * 2 + 1] = sum;
    }
  }
  __syncthreads();
  const float v_scale = value_scale(p, 0);
  const bool whole = is_whole(work, first_tile, ends);
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int tile_row = m * 16 + half * 8 + lane / 4, row = c.row_tile * S::kRows + tile_row;
      if (row >= r.query_len * p.group_size) continue;
      const int32_t token = r.query_start + row / p.group_size, head = row % p.group_size;
      const RowEnd end =
          finish_row(stats[tile_row * 2], stats[tile_row * 2 + 1], v_scale, whole ? p.sinks : nullptr, head);
      const bool writes_lse = warp == 0 && (lane & 3) == 0;
      RowSink<typename S::T> sink;
      if (whole) {
        sink = output_row<typename S::T>(p, token, head);
        if (writes_lse) store_lse(p, token, head, end.lse);
      } else {
        const int64_t partial = partial_index(p, work, r, first_tile, S::kRows, tile_row, row / p.group_size, head);
        sink.out_f32 = p.partial_out + partial * S::DV;
        if (writes_lse) p.partial_lse[partial] = end.lse;
      }
#pragma unroll
      for (int n = 0; n < 8; ++n)
        sink.store_pair(warp * 64 + n * 8 + (lane & 3) * 2, o[m][n][2 * half] * end.weight,
                        o[m][n][2 * half + 1] * end.weight);
    }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1) mla_attention(const AttentionParams p) {
  if constexpr (kOnlyLargeRoom && S::kRoom != SharedRoom::kLarge) return;
  extern __shared__ __align__(128) char shared_bytes[];
  char* q_tile = shared_bytes;                                                   // [kRows][576]
  char* ring = q_tile + S::kQBytes;                                              // [kStages][32][576]
  float* scores = reinterpret_cast<float*>(ring + S::kStages * S::kStageBytes);  // [2][kRows][32]
  char* probabilities = reinterpret_cast<char*>(scores) + S::kScoreBytes;        // [kRows][32]
  float* factors = reinterpret_cast<float*>(probabilities + S::kProbBytes);      // [kRows]
  float* stats = factors + S::kRows;                                             // [kRows][2]
  int64_t* key_rows = reinterpret_cast<int64_t*>(stats + 2 * S::kRows);          // [2][32]
  launch_dependents();
  TileCursor looked_up;  // runs kStages tiles ahead of `done`
  const BlockWork work = find_work<S::kThreads>(p, S::kRows, S::kKeys, reinterpret_cast<int32_t*>(scores), &looked_up);
  const TileRange& range = work.range;
  if (range.begin == range.end) return;
  TileCursor done = looked_up;

  auto look_up = [&]() -> int64_t {
    const int32_t position = looked_up.request.key_lo + looked_up.tile * S::kKeys + static_cast<int>(threadIdx.x);
    return threadIdx.x < S::kKeys ? find_key_row(p, looked_up.request, 0, position, looked_up.request.key_hi).k : 0;
  };
  int32_t next_copy = range.begin;
  // Copies tile next_copy, whose rows are published, and moves the cursor to the tile after it.
  auto copy_next = [&](int stage) {
    if (next_copy < range.end) {
      mla_copy_tile<S>(p, looked_up.request, ring + stage * S::kStageBytes, key_rows + (next_copy & 1) * S::kKeys,
                       looked_up.request.key_lo + looked_up.tile * S::kKeys);
      if (++next_copy < range.end) looked_up.advance(p, S::kRows, S::kKeys);
    }
    cp_async_commit();
  };
  auto publish = [&](int64_t row) {
    if (threadIdx.x < S::kKeys) key_rows[(next_copy & 1) * S::kKeys + threadIdx.x] = row;
  };
  publish(look_up());
#pragma unroll 1
  for (int stage = 0; stage < S::kStages - 1; ++stage) {
    __syncthreads();
    copy_next(stage);
    if (next_copy < range.end) publish(look_up());
  }

  float o[S::kRowTiles][8][4];
  MlaRowState<S> state;
  const ScoreRule rule = make_score_rule(p, key_scale(p, 0));
  int stage = 0;
  int32_t first_tile = done.tile;
  for (int32_t x = range.begin; x < range.end; ++x) {
    if (x == range.begin || done.tile == 0) {
      first_tile = done.tile;
      mla_load_queries<S>(p, done, q_tile);
#pragma unroll
      for (int i = 0; i < S::kRows / 8; ++i) {
        state.max[i] = -INFINITY;
        state.sum[i] = 0;
      }
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) o[m][n][e] = 0.0f;
    }
    cp_async_wait<S::kStages - 2>();
    __syncthreads();
    copy_next(stage == 0 ? S::kStages - 1 : stage - 1);
    int64_t next_row = 0;
    const bool more = next_copy < range.end;
    if (more) next_row = look_up();
    const int32_t key0 = done.request.key_lo + done.tile * S::kKeys;
    const uint32_t keys = shared_address(ring + stage * S::kStageBytes);
    mla_scores<S>(shared_address(q_tile), keys, scores);
    __syncthreads();
    mla_softmax<S>(p, done, rule, key0, scores, probabilities, factors, state);
    __syncthreads();
    mla_values<S>(shared_address(probabilities), keys, factors, o);
    if (more) publish(next_row);
    stage = stage + 1 == S::kStages ? 0 : stage + 1;
    const bool ends = done.tile + 1 == done.counts.tiles;
    if (ends || x + 1 == range.end) mla_end_segment<S>(p, done, work, first_tile, ends, state, stats, o);
    if (x + 1 < range.end) done.advance(p, S::kRows, S::kKeys);
  }
}

template <class S>
cudaError_t launch_mla(const AttentionParams& p, dim3 blocks, cudaStream_t stream) {
  const cudaError_t error =
      cudaFuncSetAttribute(mla_attention<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (error != cudaSuccess) return error;
  mla_attention<S><<<blocks, S::kThreads, S::kSharedBytes, stream>>>(p);
  return cudaGetLastError();
}

template <class T, int kRowTiles, int kStages, SharedRoom kRoom>
cudaError_t launch_mla_rows(const AttentionParams& p, dim3 blocks, cudaStream_t stream) {
  return p.cache_dtype == p.dtype && p.k_chunk_stride > 0
             ? launch_mla<MlaShape<T, kRowTiles, kStages, true, kRoom>>(p, blocks, stream)
             : launch_mla<MlaShape<T, kRowTiles, kStages, false, kRoom>>(p, blocks, stream);
}

template <class T>
cudaError_t launch_mla_typed(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  if (plan.room == SharedRoom::kSmall) return launch_mla_rows<T, 1, 2, SharedRoom::kSmall>(p, plan.grid, stream);
  if (plan.room == SharedRoom::kMiddle)
    return plan.rows == 16 ? launch_mla_rows<T, 1, 3, SharedRoom::kMiddle>(p, plan.grid, stream)
                           : launch_mla_rows<T, 2, 3, SharedRoom::kMiddle>(p, plan.grid, stream);
  if (plan.rows == 16) return launch_mla_rows<T, 1, 5, SharedRoom::kLarge>(p, plan.grid, stream);
  return plan.rows == 32 ? launch_mla_rows<T, 2, 4, SharedRoom::kLarge>(p, plan.grid, stream)
                         : launch_mla_rows<T, 4, 3, SharedRoom::kLarge>(p, plan.grid, stream);
}

}  // namespace sextant::cuda
