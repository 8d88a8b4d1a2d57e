// MLA decode over fp8 latents for few query rows: D = 576 = 512 latent + 64 rope, V = the first 512 columns of K, every
// head on one KV head.
//
//   block    8 warps, 16 * kRowTiles rows (heads x query tokens); tiles of 64 keys in a ring of kStages, as bytes:
//            half of what 16-bit tiles take, so that two blocks share an SM and hide each other's waits
//   S        a warp: 32 keys x 144 columns (a quarter of the row), from its own columns of Q, which stay in registers;
//            the quarters meet in shared memory
//   softmax  16 threads a row, four keys each; it knows the quarters' scales
//   O        a warp owns 64 of the 512 columns, so that the accumulators spread over the block and V is read once
//
// Bytes become fp16, which holds fp8 exactly, in registers. ldmatrix moves pairs of bytes as if they were 16-bit
// numbers: for S a lane gets four columns of a key, and Q lies in its registers in the same order; for O, transposed, a
// lane gets two columns of two keys, and a permutation puts the keys side by side. Rows of shared memory are 592
// bytes: then the eight rows of a matrix lie in different banks. Queries are scaled to fp16 by powers of two, each
// quarter of a row by its own. Any page size: rows are addressed one by one. The work list is that of
// kernels/work_list.cuh; on Hopper a cluster of blocks may share a request (hopper/mla_cluster.cuh).
#pragma once

#include "devices/cuda/hopper/mla_cluster.cuh"
#include "devices/cuda/kernels/fp8_vectors.cuh"
#include "devices/cuda/kernels/launchers.h"
#include "devices/cuda/kernels/softmax.cuh"
#include "devices/cuda/kernels/visible_keys.cuh"
#include "devices/cuda/kernels/work_list.cuh"
#include "devices/cuda/portable/mla_launchers.h"

namespace sextant::cuda {

template <class T_, DType kFormat_, int kRowTiles_>
struct MlaBytesShape {
  using T = T_;  // of queries and output
  static constexpr DType kFormat = kFormat_;
  static constexpr int DK = 576, DV = 512, kRowTiles = kRowTiles_, kRows = 16 * kRowTiles, kKeys = 64;
  static constexpr int kThreads = 256, kWarps = 8, kQuarters = 4, kSteps = DK / kQuarters / 16;  // of 16 columns
  static constexpr int kBlocksPerSm = kRowTiles == 1 ? 2 : 1, kStages = kRowTiles == 1 ? 2 : 4;
  static constexpr int kRowBytes = DK + 16, kStageBytes = kKeys * kRowBytes;
  static constexpr int kScoreStride = kKeys + 8, kProbStride = kKeys + 8;  // elements a row: different banks
  // ring (at the end of a cluster: the rows that meet) | scores of the quarters | P | factors, scales of the quarters |
  // states | what is to be copied | where the block is
  static constexpr int kScoreAt = kStages * kStageBytes, kProbAt = kScoreAt + kQuarters * kRows * kScoreStride * 4;
  static constexpr int kFactorAt = kProbAt + kRows * kProbStride * 2, kScaleAt = kFactorAt + kRows * 4;
  static constexpr int kStateAt = kScaleAt + kQuarters * kRows * 4;
  static constexpr int kSlotAt = kStateAt + kRows * 8, kSlotBytes = kKeys * 4 + 16;
  static constexpr int kWalkAt = kSlotAt + kStages * kSlotBytes, kCursorAt = kWalkAt + 32;
  static constexpr int kSharedBytes = kCursorAt + sizeof(TileCursor);
  static_assert(kRows * kMlaMergeColumns * 4 <= kScoreAt);
  static_assert(kSharedBytes <= (kRowTiles == 1 ? kMlaBytesFewSharedBytes : kMlaBytesSharedBytes));
};

// Four bytes as fp16: of the low two, of the high two.
template <DType kFormat>
__device__ __forceinline__ uint2 mla_halves_of(uint32_t word) {
  uint2 halves = fp8_word_to_f16<kFormat>(word);
  if constexpr (kFormat == DType::kF8E4M3FNUZ)
    if (has_fnuz_nan(word)) set_fnuz_nans(word, halves);
  return halves;
}

// Q of this warp's quarter as A operands.
template <class S>
struct MlaBytesQuery {
  uint32_t a[S::kRowTiles][S::kSteps][4];

  // `scales`: what turns a quarter's dots back, [quarter][row].
  __device__ __forceinline__ void load(const AttentionParams& p, const TileCursor& c, int quarter, float* scales) {
    using T = typename S::T;
    const int num_rows = c.request.query_len * p.group_size, lane = threadIdx.x & 31;
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = c.row_tile * S::kRows + m * 16 + half * 8 + lane / 4;
        const int32_t query = row / p.group_size;
        const T* from = static_cast<const T*>(p.q) + (c.request.query_start + query) * p.q_token_stride +
                        (row - query * p.group_size) * p.q_head_stride + quarter * (S::DK / S::kQuarters) +
                        (lane & 3) * 4;
        uint2 x[S::kSteps];
#pragma unroll
        for (int k = 0; k < S::kSteps; ++k)
          x[k] = row < num_rows ? __ldg(reinterpret_cast<const uint2*>(from + k * 16)) : make_uint2(0, 0);
        const float inverse = to_halves(x);
        if ((lane & 3) == 0 && threadIdx.x < S::kThreads / 2)
          scales[quarter * S::kRows + m * 16 + half * 8 + lane / 4] = inverse;
#pragma unroll
        for (int k = 0; k < S::kSteps; ++k) {
          a[m][k][half] = x[k].x;
          a[m][k][2 + half] = x[k].y;
        }
      }
  }

 private:
  static __device__ __forceinline__ float to_halves(uint2 (&x)[S::kSteps]) {
    using T = typename S::T;
    if constexpr (std::is_same_v<T, __half>) return 1.0f;
    float largest = 0;
#pragma unroll
    for (int k = 0; k < S::kSteps; k += 2)
      largest = fmaxf(largest, largest_magnitude<T>(make_uint4(x[k].x, x[k].y, k + 1 < S::kSteps ? x[k + 1].x : 0,
                                                               k + 1 < S::kSteps ? x[k + 1].y : 0)));
#pragma unroll
    for (int offset = 1; offset < 4; offset *= 2)
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
    const float factor = row_factor(largest);
#pragma unroll
    for (int k = 0; k < S::kSteps; ++k) {
      const uint4 scaled = to_scaled_halves<T>(make_uint4(x[k].x, x[k].y, 0, 0), factor);
      x[k] = make_uint2(scaled.x, scaled.y);
    }
    return 1.0f / factor;
  }
};

// This warp's quarter of S to shared memory.
template <class S>
__device__ __forceinline__ void mla_bytes_scores(const MlaBytesQuery<S>& q, uint32_t keys, float* scores) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, quarter = warp % 4, first_key = warp / 4 * 32;
  float s[S::kRowTiles][4][4] = {};
  const uint32_t from = keys + (first_key + lane) * S::kRowBytes + quarter * (S::DK / S::kQuarters);
#pragma unroll
  for (int k = 0; k < S::kSteps; ++k) {
    uint32_t words[4];
    ldmatrix_x4(words, from + k * 16);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const uint2 b = mla_halves_of<S::kFormat>(words[n]);
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) mma_16816<__half>(s[m][n], q.a[m][k], b.x, b.y);
    }
  }
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<float2*>(scores + (quarter * S::kRows + m * 16 + half * 8 + lane / 4) * S::kScoreStride +
                                   first_key + n * 8 + (lane & 3) * 2) =
            make_float2(s[m][n][half * 2], s[m][n][half * 2 + 1]);
}

// Row threadIdx.x / 16 of each row tile; `sum` is this thread's share.
template <class S>
struct MlaBytesRows {
  float max[S::kRowTiles], sum[S::kRowTiles];
  VisibleKeys visible[S::kRowTiles];
  float scale[S::kRowTiles][S::kQuarters];

  __device__ __forceinline__ void begin(const AttentionParams& p, const TileCursor& c) {
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) {
      const int row = c.row_tile * S::kRows + m * 16 + static_cast<int>(threadIdx.x) / 16;
      visible[m] = visible_keys(p, c.request.key_hi, c.request.context_len + row / p.group_size);
      max[m] = -INFINITY;
      sum[m] = 0;
    }
  }
  __device__ __forceinline__ void read_scales(const float* scales) {
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
      for (int quarter = 0; quarter < S::kQuarters; ++quarter)
        scale[m][quarter] = scales[quarter * S::kRows + m * 16 + static_cast<int>(threadIdx.x) / 16];
  }
};

template <class S>
__device__ __forceinline__ void mla_bytes_softmax(const AttentionParams& p, const TileCursor& c, const ScoreRule& rule,
                                                  int32_t key0, const float* scores, __half* probabilities,
                                                  float* factors, MlaBytesRows<S>& rows) {
  const int key = static_cast<int>(threadIdx.x) % 16 * 4;
  const bool biased = rule.has_cap || p.alibi_slopes != nullptr;
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
    const int tile_row = m * 16 + static_cast<int>(threadIdx.x) / 16;
    float s[4] = {};
#pragma unroll
    for (int quarter = 0; quarter < S::kQuarters; ++quarter) {
      const float4 x =
          *reinterpret_cast<const float4*>(scores + (quarter * S::kRows + tile_row) * S::kScoreStride + key);
      const float scale = rows.scale[m][quarter];
      s[0] = fmaf(x.x, scale, s[0]);
      s[1] = fmaf(x.y, scale, s[1]);
      s[2] = fmaf(x.z, scale, s[2]);
      s[3] = fmaf(x.w, scale, s[3]);
    }
    if (biased) {
      const int row = c.row_tile * S::kRows + tile_row;
      const float slope = p.alibi_slopes == nullptr ? 0.0f : p.alibi_slopes[row % p.group_size] * kLog2E;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        s[i] = score_log2(rule, s[i]) + slope * static_cast<float>(key0 + key + i - c.request.context_len);
    }
    if (key0 + S::kKeys > rows.visible[m].end || key0 < rows.visible[m].begin) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (!rows.visible[m].has(key0 + key + i)) s[i] = -INFINITY;
    }
    const float scale = biased ? 1.0f : rule.scale_log2;
    float top = fmaxf(fmaxf(s[0], s[1]), fmaxf(s[2], s[3]));
#pragma unroll
    for (int offset = 1; offset < 16; offset *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
    top *= scale;
    const bool grows = top > rows.max[m] + 8.0f;
    const float base = grows ? top : rows.max[m], shift = base == -INFINITY ? 0.0f : -base;
    const float factor = grows ? exp2_approx(rows.max[m] - base) : 1.0f;
    rows.max[m] = base;
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i] = exp2_approx(fmaf(s[i], scale, shift));
    rows.sum[m] = fmaf(rows.sum[m], factor, (s[0] + s[1]) + (s[2] + s[3]));
    *reinterpret_cast<uint2*>(probabilities + tile_row * S::kProbStride + key) =
        make_uint2(pack_pair<__half>(s[0], s[1]), pack_pair<__half>(s[2], s[3]));
    if (key == 0) factors[tile_row] = factor;
  }
}

// This warp's 64 columns of O += P V: [16-column chunk][even columns, odd columns][mma accumulators].
template <class S>
using MlaBytesOutput = float[S::kRowTiles][4][2][4];

template <class S>
__device__ __forceinline__ void mla_bytes_values(uint32_t probabilities, uint32_t keys, const float* factors,
                                                 MlaBytesOutput<S>& o) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float factor = factors[m * 16 + half * 8 + lane / 4];
      if (!__any_sync(0xffffffffu, factor != 1.0f)) continue;
#pragma unroll
      for (int d = 0; d < 4; ++d)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          o[m][d][odd][half * 2] *= factor;
          o[m][d][odd][half * 2 + 1] *= factor;
        }
    }
  const uint32_t from = keys + (lane & 15) * S::kRowBytes + warp * 64 + (lane >> 4) * 16;
#pragma unroll
  for (int k = 0; k < S::kKeys / 16; ++k) {
    uint32_t a[S::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m)
      ldmatrix_x4(a[m], probabilities + ((m * 16 + (lane & 15)) * S::kProbStride + k * 16 + (lane >> 4) * 8) * 2);
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {  // of chunks
      uint32_t words[4];                    // keys 0..7 and 8..15 of each
      ldmatrix_x4_trans(words, from + k * 16 * S::kRowBytes + pair * 32);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        // Keys side by side: the even column's two, then the odd column's.
        const uint2 low = mla_halves_of<S::kFormat>(__byte_perm(words[2 * i], 0, 0x3120)),
                    high = mla_halves_of<S::kFormat>(__byte_perm(words[2 * i + 1], 0, 0x3120));
#pragma unroll
        for (int m = 0; m < S::kRowTiles; ++m) {
          mma_16816<__half>(o[m][pair * 2 + i][0], a[m], low.x, high.x);
          mma_16816<__half>(o[m][pair * 2 + i][1], a[m], low.y, high.y);
        }
      }
    }
  }
}

// The owners of rows leave (maximum, sum) for all warps.
template <class S>
__device__ __forceinline__ void mla_bytes_states(const MlaBytesRows<S>& rows, float2* states) {
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
    float sum = rows.sum[m];
#pragma unroll
    for (int offset = 1; offset < 16; offset *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (threadIdx.x % 16 == 0) states[m * 16 + threadIdx.x / 16] = make_float2(rows.max[m], sum);
  }
}

// Ends a segment: every warp writes its 64 columns of all rows.
template <class S>
__device__ __forceinline__ void mla_bytes_write(const AttentionParams& p, const TileCursor& c, const BlockWork& work,
                                                int first_tile, bool ends, const float2* states,
                                                const MlaBytesOutput<S>& o) {
  using T = typename S::T;
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  const Request& r = c.request;
  const float v_scale = value_scale(p, 0);
  const bool whole = is_whole(work, first_tile, ends);
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int tile_row = m * 16 + half * 8 + lane / 4, row = c.row_tile * S::kRows + tile_row;
      if (row >= r.query_len * p.group_size) continue;
      const int32_t query = row / p.group_size, token = r.query_start + query, head = row - query * p.group_size;
      const RowEnd end = finish_row(states[tile_row].x, states[tile_row].y, v_scale, whole ? p.sinks : nullptr, head);
      const bool writes_lse = warp == 0 && (lane & 3) == 0;
      RowSink<T> sink;
      if (whole) {
        sink = output_row<T>(p, token, head);
        if (writes_lse) store_lse(p, token, head, end.lse);
      } else {
        const int64_t partial = partial_index(p, work, r, first_tile, S::kRows, tile_row, query, head);
        sink.out_f32 = p.partial_out + partial * S::DV;
        if (writes_lse) p.partial_lse[partial] = end.lse;
      }
#pragma unroll
      for (int i = 0; i < 2; ++i)  // four columns next to each other: two pairs
        sink.template store_pairs<4, 16>(warp * 64 + (lane & 3) * 4 + i * 2, end.weight,
                                         [&](int d, int odd) { return o[m][d][odd][half * 2 + i]; });
    }
}

// This block's rows for its cluster, relative to their maxima.
template <class S>
__device__ __forceinline__ void mla_bytes_leave(float* merged, const MlaBytesOutput<S>& o) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int d = 0; d < 4; ++d)
        *reinterpret_cast<float4*>(merged + (m * 16 + half * 8 + lane / 4) * kMlaMergeColumns + warp * 64 + d * 16 +
                                   (lane & 3) * 4) =
            make_float4(o[m][d][0][half * 2], o[m][d][1][half * 2], o[m][d][0][half * 2 + 1], o[m][d][1][half * 2 + 1]);
}

// Copies of tiles to the ring, as bytes: eight threads bring two keys, 72 chunks of 16 bytes, so that what a warp asks
// for is whole lines. With each tile's copies go the requests for the block ids of the tile that takes its place in the
// ring, by warp 0 and straight to shared memory: no thread waits for them, and none holds them.
struct MlaBytesWalk {  // in shared memory: the tile that is looked up next
  int32_t request, row_tile, position, key_hi, left_here, left;
};
template <class S>
struct MlaBytesLoader {
  const AttentionParams& p;
  char* slots;  // one a stage: block ids of 64 keys, position of the first, end of the request's keys
  MlaBytesWalk* walk;

  // All threads; the first kStages - 1 tiles are then looked up.
  __device__ __forceinline__ void begin(const TileCursor& c, int32_t tiles) const {
    if (threadIdx.x < 32) {
      if (threadIdx.x == 0)
        *walk = {c.request.index,         c.row_tile, c.request.key_lo + c.tile * S::kKeys, c.request.key_hi,
                 c.counts.tiles - c.tile, tiles};
      __syncwarp();
#pragma unroll 1
      for (int slot = 0; slot < S::kStages - 1; ++slot) look_up(slot);
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
  }

  // The next tile to stage `stage` of the ring.
  __device__ __forceinline__ void copy_next(int stage, uint32_t ring) const {
    copy(stage, ring + stage * S::kStageBytes);
    if (threadIdx.x < 32) look_up(stage == 0 ? S::kStages - 1 : stage - 1);
  }

 private:
  static constexpr int kChunks = S::DK / 16;

  __device__ __forceinline__ void next_tile(MlaBytesWalk& at) const {
    at.position += S::kKeys;
    if (--at.left_here > 0) return;
    TileCursor c;
    c.enter(p, at.request, S::kRows, S::kKeys);
    c.row_tile = at.row_tile;
    c.kv_head = 0;
    c.tile = c.counts.tiles - 1;
    c.advance(p, S::kRows, S::kKeys);
    at.request = c.request.index;
    at.row_tile = c.row_tile;
    at.position = c.request.key_lo;
    at.key_hi = c.request.key_hi;
    at.left_here = c.counts.tiles;
  }
  __device__ __forceinline__ void look_up(int slot) const {
    MlaBytesWalk at = *walk;
    if (at.left == 0) return;
    int32_t* to = reinterpret_cast<int32_t*>(slots + slot * S::kSlotBytes);
#pragma unroll
    for (int i = 0; i < S::kKeys; i += 32) {
      const int key = i + static_cast<int>(threadIdx.x);
      if (at.position + key < at.key_hi)
        cp_async_4(shared_address(to + key),
                   p.block_table + at.request * p.block_table_stride + split_position(p, at.position + key).block);
    }
    __syncwarp();
    if (threadIdx.x == 0) {
      *reinterpret_cast<int2*>(to + S::kKeys) = make_int2(at.position, at.key_hi);
      if (--at.left > 0) next_tile(at);
      *walk = at;
    }
    __syncwarp();
  }
  __device__ __forceinline__ void copy(int slot, uint32_t stage) const {
    const int key = static_cast<int>(threadIdx.x) / 8 * 2, lane = static_cast<int>(threadIdx.x) % 8;
    const int32_t* from = reinterpret_cast<const int32_t*>(slots + slot * S::kSlotBytes);
    const int2 ids = *reinterpret_cast<const int2*>(from + key);
    const int32_t first = from[S::kKeys] + key, end = from[S::kKeys + 1];
    const uint8_t* rows[2];
    bool valid[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      valid[i] = first + i < end;
      const int64_t row = clamp_block(p, i == 0 ? ids.x : ids.y) * p.k_addr.block_stride +
                          split_position(p, first + i).offset * p.k_addr.token_outer_stride;
      rows[i] = static_cast<const uint8_t*>(p.cache_k) + (valid[i] ? row : 0) + lane * 16;
    }
    const uint32_t to = stage + key * S::kRowBytes + lane * 16;
#pragma unroll
    for (int i = 0; i < kChunks / 8; ++i) {  // whole lines of each key
      cp_async_16(to + i * 128, rows[0] + i * 128, valid[0]);
      cp_async_16(to + S::kRowBytes + S::DK % 128 + i * 128, rows[1] + S::DK % 128 + i * 128, valid[1]);
    }
    const bool second = lane >= S::DK % 128 / 16;  // the end of one, the start of the other
    cp_async_16(to + (second ? S::kRowBytes - 64 : kChunks / 8 * 128),
                second ? rows[1] - 64 : rows[0] + kChunks / 8 * 128, second ? valid[1] : valid[0]);
  }
};

#if __CUDA_ARCH__ >= 900
constexpr bool kHasClusters = true;
#else
constexpr bool kHasClusters = false;
#endif

template <class S, bool kByCluster>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksPerSm) mla_bytes(const __grid_constant__ AttentionParams p) {
  constexpr bool kCluster = kByCluster && kHasClusters;
  extern __shared__ __align__(128) char shared[];
  float* scores = reinterpret_cast<float*>(shared + S::kScoreAt);
  __half* probabilities = reinterpret_cast<__half*>(shared + S::kProbAt);
  float* factors = reinterpret_cast<float*>(shared + S::kFactorAt);
  float* scales = reinterpret_cast<float*>(shared + S::kScaleAt);
  float2* states = reinterpret_cast<float2*>(shared + S::kStateAt);
  TileCursor* current = reinterpret_cast<TileCursor*>(shared + S::kCursorAt);  // of the segment
  const uint32_t ring = shared_address(shared);
  launch_dependents();
  TileCursor found;
  BlockWork work;
  Partition part;
  if constexpr (kCluster) {
    work = find_cluster_share<S>(p, &found, &part);
    if (!found.request.active) return;  // the whole cluster
  } else {
    work = find_work<S::kThreads>(p, S::kRows, S::kKeys, reinterpret_cast<int32_t*>(scores), &found);
  }
  const int32_t count = work.range.end - work.range.begin;
  if (!kCluster && count == 0) return;
  MlaBytesOutput<S> o = {};
  if (count > 0) {
    const MlaBytesLoader<S> loader = {p, shared + S::kSlotAt, reinterpret_cast<MlaBytesWalk*>(shared + S::kWalkAt)};
    loader.begin(found, count);
#pragma unroll 1
    for (int stage = 0; stage < S::kStages - 1; ++stage) {
      if (stage < count) loader.copy_next(stage, ring);
      cp_async_commit();
      // The next copy's look-up takes the slot that this copy reads.
      if constexpr (S::kStages > 2) __syncthreads();
    }
    const ScoreRule rule = make_score_rule(p, key_scale(p, 0));
    MlaBytesQuery<S> q;
    MlaBytesRows<S> rows;
    int32_t key0 = 0, left_here = 0, first_tile = 0;
    bool begins = true;
    const auto begin_segment = [&](const TileCursor& c) {
      if (threadIdx.x == 0) *current = c;
      first_tile = c.tile;
      key0 = c.request.key_lo + c.tile * S::kKeys;
      left_here = c.counts.tiles - c.tile;
      q.load(p, c, threadIdx.x / 32 % 4, scales);
      rows.begin(p, c);
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
        for (int d = 0; d < 4; ++d)
#pragma unroll
          for (int i = 0; i < 8; ++i) o[m][d][i / 4][i % 4] = 0.0f;
      begins = true;
    };
    begin_segment(found);
    int stage = 0;
#pragma unroll 1
    for (int32_t n = 0; n < count; ++n) {
      cp_async_wait<S::kStages - 2>();
      __syncthreads();  // the tile is there, and the one before it is used up
      if (n + S::kStages - 1 < count) loader.copy_next(stage == 0 ? S::kStages - 1 : stage - 1, ring);
      cp_async_commit();
      if (begins) rows.read_scales(scales);
      begins = false;
      const uint32_t keys = ring + stage * S::kStageBytes;
      mla_bytes_scores<S>(q, keys, scores);
      __syncthreads();
      mla_bytes_softmax<S>(p, *current, rule, key0, scores, probabilities, factors, rows);
      __syncthreads();
      mla_bytes_values<S>(shared_address(probabilities), keys, factors, o);
      stage = stage + 1 == S::kStages ? 0 : stage + 1;
      key0 += S::kKeys;
      const bool ends = --left_here == 0;
      if (ends || n + 1 == count) {
        TileCursor c = *current;
        mla_bytes_states<S>(rows, states);
        __syncthreads();
        if constexpr (!kCluster) mla_bytes_write<S>(p, c, work, first_tile, ends, states, o);
        if (n + 1 < count) {
          c.tile = c.counts.tiles - 1;
          c.advance(p, S::kRows, S::kKeys);
          begin_segment(c);
        }
      }
    }
  } else if (threadIdx.x < S::kRows) {
    states[threadIdx.x] = make_float2(-INFINITY, 0.0f);
  }
  if constexpr (kCluster) {
    cp_async_wait<0>();
    __syncthreads();
    float* merged = reinterpret_cast<float*>(shared);
    mla_bytes_leave<S>(merged, o);  // of an idle block zeros: 0 * NaN must not reach the others' sums
    cluster_barrier();
    mla_write_cluster<typename S::T>(p, found.request, part, merged, states, S::kThreads);
    cluster_barrier();  // no block ends while another reads its shared memory
  }
}

// `cluster`: blocks along x; 0: none.
template <class S>
cudaError_t launch_mla_bytes(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  auto* const kernel = plan.cluster > 0 ? mla_bytes<S, true> : mla_bytes<S, false>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attribute = cluster_attribute(plan.cluster);
  cudaLaunchConfig_t config{};
  config.gridDim = plan.grid;
  config.blockDim = dim3(S::kThreads);
  config.dynamicSmemBytes = S::kSharedBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = plan.cluster > 0 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, p);
}

template <class T, DType kFormat>
cudaError_t launch_mla_bytes(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  return plan.rows == 16 ? launch_mla_bytes<MlaBytesShape<T, kFormat, 1>>(p, plan, stream)
                         : launch_mla_bytes<MlaBytesShape<T, kFormat, 2>>(p, plan, stream);
}

template <class T>
cudaError_t launch_mla_bytes_typed(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  if (p.cache_dtype == DType::kF8E4M3FN) return launch_mla_bytes<T, DType::kF8E4M3FN>(p, plan, stream);
  if (p.cache_dtype == DType::kF8E5M2) return launch_mla_bytes<T, DType::kF8E5M2>(p, plan, stream);
  return launch_mla_bytes<T, DType::kF8E4M3FNUZ>(p, plan, stream);
}

}  // namespace sextant::cuda
