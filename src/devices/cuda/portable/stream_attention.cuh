// Decode at memory speed: few query rows against many keys.
//
//   rows     the G heads of a KV head times 1..8 query tokens fill a matrix tile of 16 or 32 rows
//   warps    each of the 4 warps streams its own keys of a tile (kKeys each) through its own ring of shared memory: no
//            block barrier in the loop, and the copies of the next segment start while the last one is being merged
//   balance  kernels/work_list.cuh: every block gets the same number of tiles
//   bytes    a warp keeps kStages tiles in flight; two blocks an SM hold 192 KiB in flight, several times what latency
//   x
//            bandwidth asks for
//
// fp8 keys and values stay fp8 in shared memory and become fp16 in registers, exactly; the queries become fp16 too,
// each row scaled by a power of two so that none overflows. A k step of the first product may take the dims in any
// order if Q and K agree, so a thread takes 16 consecutive bytes of K for four steps, where fp16 would take eight
// pairs. For V, ldmatrix.trans moves pairs of bytes: a byte permute then separates even and odd dims, which land in two
// accumulators.
//
// Where 16 bytes of V hold tokens of one dim, the tile in shared memory is V transposed, which the second product reads
// without ldmatrix.trans and fp8 without permutes.
#pragma once

#include "devices/cuda/kernels/launchers.h"
#include "devices/cuda/kernels/softmax_tile.cuh"
#include "devices/cuda/kernels/work_list.cuh"
#include "devices/cuda/portable/stream_copy.cuh"
#include "devices/cuda/portable/stream_shape.cuh"

namespace sextant::cuda {

// Row `row` of a segment's row tile; null past its end.
template <class S>
__device__ __forceinline__ const typename S::Tq* query_row(const AttentionParams& p, const TileCursor& c, int row) {
  row += c.row_tile * S::kRows;
  if (row >= c.request.query_len * p.group_size) return nullptr;
  return static_cast<const typename S::Tq*>(p.q) + (c.request.query_start + row / p.group_size) * p.q_token_stride +
         (c.kv_head * p.group_size + row % p.group_size) * p.q_head_stride;
}

// 16-bit fragment of row tile m and k step `k` of a segment's queries, straight from global memory.
template <class S>
__device__ __forceinline__ void load_query_step(const AttentionParams& p, const TileCursor& c, int m, int k,
                                                uint32_t (&a)[4]) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const typename S::Tq* source = query_row<S>(p, c, m * 16 + half * 8 + lane / 4);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int d = k * 16 + j * 8 + (lane & 3) * 2;
      a[j * 2 + half] = source != nullptr && d < p.head_dim ? *reinterpret_cast<const uint32_t*>(source + d) : 0;
    }
  }
}

// All fragments of row tile m, and for fp8 the power of two that each row was divided by.
template <class S>
__device__ __forceinline__ void load_queries(const AttentionParams& p, const TileCursor& c, int m,
                                             uint32_t (&a)[S::kDim / 16][4], float (&factor)[2]) {
  using Tq = typename S::Tq;
  factor[0] = factor[1] = 1.0f;
  if constexpr (!S::kFp8) {
#pragma unroll
    for (int k = 0; k < S::kDim / 16; ++k) load_query_step<S>(p, c, m, k, a[k]);
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Tq* source = query_row<S>(p, c, m * 16 + half * 8 + static_cast<int>(threadIdx.x & 31) / 4);
      uint2 raw[S::kDim / 16];
      float largest = 0;
#pragma unroll
      for (int k = 0; k < S::kDim / 16; ++k) {
        const int d = S::fp8_dim(k);
        raw[k] = make_uint2(0, 0);
        if (source != nullptr && d < p.head_dim) raw[k] = *reinterpret_cast<const uint2*>(source + d);
        const Tq* x = reinterpret_cast<const Tq*>(&raw[k]);
#pragma unroll
        for (int e = 0; e < 4; ++e) largest = fmaxf(largest, fabsf(to_float(x[e])));
      }
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      float down = 1.0f;
      if (largest > 0 && largest < INFINITY) {
        const int exponent = min(max((__float_as_int(largest) >> 23) - 127, -100), 100);
        down = __int_as_float((127 - exponent) << 23);
        factor[half] = __int_as_float((127 + exponent) << 23);
      }
#pragma unroll
      for (int k = 0; k < S::kDim / 16; ++k) {
        const Tq* x = reinterpret_cast<const Tq*>(&raw[k]);
        a[k][half] = pack_pair<__half>(to_float(x[0]) * down, to_float(x[1]) * down);
        a[k][2 + half] = pack_pair<__half>(to_float(x[2]) * down, to_float(x[3]) * down);
      }
    }
  }
}

// A segment's queries: in every warp's registers, or once in shared memory, where they use the room of the merge.
template <class S, bool kShared = S::kSharedQueries>
struct QueryTile {
  uint32_t a[S::kRowTiles][S::kDim / 16][4];
  float scale[S::kRowTiles][2];

  __device__ __forceinline__ void load(const AttentionParams& p, const TileCursor& c, char*) {
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) load_queries<S>(p, c, m, a[m], scale[m]);
  }
  __device__ __forceinline__ void fragment(int m, int k, uint32_t (&x)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = a[m][k][i];
  }
  __device__ __forceinline__ float factor(int m, int half) const { return scale[m][half]; }
};
template <class S>
struct QueryTile<S, true> {
  static constexpr int kSteps = S::kDim / 16;
  static_assert(S::kRowTiles * 32 * (kSteps * 16 + 8) <= S::kMergeBytes && S::kRowTiles <= S::kWarps);
  const char* shared;  // fragments [row tile][k step][lane] of 16 bytes, then factors [row tile][lane] of 8

  // All warps call it, after the last merge and before the next tile.
  __device__ __forceinline__ void load(const AttentionParams& p, const TileCursor& c, char* room) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    shared = room;
    uint4* fragments = reinterpret_cast<uint4*>(room);
    if constexpr (!S::kFp8) {
#pragma unroll 4
      for (int i = warp; i < S::kRowTiles * kSteps; i += S::kWarps) {
        uint32_t a[4];
        load_query_step<S>(p, c, i / kSteps, i % kSteps, a);
        fragments[i * 32 + lane] = make_uint4(a[0], a[1], a[2], a[3]);
      }
    } else if (warp < S::kRowTiles) {
      uint32_t a[kSteps][4];
      float scale[2];
      load_queries<S>(p, c, warp, a, scale);
#pragma unroll
      for (int k = 0; k < kSteps; ++k)
        fragments[(warp * kSteps + k) * 32 + lane] = make_uint4(a[k][0], a[k][1], a[k][2], a[k][3]);
      reinterpret_cast<float2*>(room + S::kRowTiles * kSteps * 512)[warp * 32 + lane] = make_float2(scale[0], scale[1]);
    }
    __syncthreads();
  }
  __device__ __forceinline__ void fragment(int m, int k, uint32_t (&x)[4]) const {
    const uint4 a = reinterpret_cast<const uint4*>(shared)[(m * kSteps + k) * 32 + (threadIdx.x & 31)];
    x[0] = a.x;
    x[1] = a.y;
    x[2] = a.z;
    x[3] = a.w;
  }
  __device__ __forceinline__ float factor(int m, int half) const {
    return reinterpret_cast<const float*>(shared +
                                          S::kRowTiles * kSteps * 512)[(m * 32 + (threadIdx.x & 31)) * 2 + half];
  }
};

template <class S>
__device__ __forceinline__ void stream_scores(const QueryTile<S>& q, const char* k_tile,
                                              float (&s)[S::kRowTiles][S::kKeys / 8][4]) {
  using T = typename S::T;
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
    for (int n = 0; n < S::kKeys / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) s[m][n][e] = 0.0f;
  if constexpr (!S::kFp8) {
#pragma unroll
    for (int k = 0; k < S::kDim / 16; ++k) {
      uint32_t a[S::kRowTiles][4];
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) q.fragment(m, k, a[m]);
#pragma unroll
      for (int n = 0; n < S::kKeys / 16; ++n) {
        uint32_t b[4];
        ldmatrix_x4(b, shared_address(k_tile) +
                           S::key_offset(n * 16 + (lane >> 4) * 8 + (lane & 7), k * 2 + ((lane >> 3) & 1)));
#pragma unroll
        for (int m = 0; m < S::kRowTiles; ++m) {
          mma_16816<T>(s[m][2 * n], a[m], b[0], b[1]);
          mma_16816<T>(s[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
  } else {
#pragma unroll
    for (int j = 0; j < S::kDim / 64; ++j) {
      uint4 x[S::kKeys / 8];
#pragma unroll
      for (int n = 0; n < S::kKeys / 8; ++n)
        x[n] = *reinterpret_cast<const uint4*>(k_tile + S::key_offset(S::key_of(n, lane / 4), j * 4 + (lane & 3)));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t a[S::kRowTiles][4];
#pragma unroll
        for (int m = 0; m < S::kRowTiles; ++m) q.fragment(m, j * 4 + i, a[m]);
#pragma unroll
        for (int n = 0; n < S::kKeys / 8; ++n) {
          uint32_t b0, b1;
          convert_word<S::kBits>(i == 0 ? x[n].x : i == 1 ? x[n].y : i == 2 ? x[n].z : x[n].w, b0, b1);
#pragma unroll
          for (int m = 0; m < S::kRowTiles; ++m) mma_16816<T>(s[m][n], a[m], b0, b1);
        }
      }
    }
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
      for (int n = 0; n < S::kKeys / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[m][n][e] *= q.factor(m, e / 2);
  }
}

// Adds the products with 16 keys' values to the accumulators of 32 / kElement dims: `r` as ldmatrix left it.
template <class S>
__device__ __forceinline__ void add_values(const uint32_t (&a)[S::kRowTiles][4], const uint32_t (&r)[4], int d,
                                           float (&o)[S::kRowTiles][S::kDim / 8][4]) {
  using T = typename S::T;
#pragma unroll
  for (int c = 0; c < 2; ++c)
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) {
      if constexpr (!S::kFp8) {
        mma_16816<T>(o[m][2 * d + c], a[m], r[2 * c], r[2 * c + 1]);
      } else {
        uint32_t even[2], odd[2];
        convert_word_apart<S::kBits>(r[2 * c], even[0], odd[0]);
        convert_word_apart<S::kBits>(r[2 * c + 1], even[1], odd[1]);
        const int n = 2 * (2 * d + c);
        mma_16816<T>(o[m][n], a[m], even[0], even[1]);
        mma_16816<T>(o[m][n + 1], a[m], odd[0], odd[1]);
      }
    }
}

template <class S>
__device__ __forceinline__ void stream_values(const float (&s)[S::kRowTiles][S::kKeys / 8][4], uint32_t v_tile,
                                              float (&o)[S::kRowTiles][S::kDim / 8][4]) {
  using T = typename S::T;
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int k = 0; k < S::kKeys / 16; ++k) {
    uint32_t a[S::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) {
      a[m][0] = pack_pair<T>(s[m][2 * k][0], s[m][2 * k][1]);
      a[m][1] = pack_pair<T>(s[m][2 * k][2], s[m][2 * k][3]);
      a[m][2] = pack_pair<T>(s[m][2 * k + 1][0], s[m][2 * k + 1][1]);
      a[m][3] = pack_pair<T>(s[m][2 * k + 1][2], s[m][2 * k + 1][3]);
    }
    uint32_t r[4];
    if constexpr (!S::kTokens) {
#pragma unroll
      for (int d = 0; d < S::kChunks / 2; ++d) {  // two 16-byte chunks a step
        ldmatrix_x4_trans(
            r, v_tile + S::value_offset(S::key_of(2 * k + ((lane >> 3) & 1), lane & 7), d * 2 + (lane >> 4)));
        add_values<S>(a, r, d, o);
      }
    } else if constexpr (!S::kFp8) {
#pragma unroll
      for (int d = 0; d < S::kDim / 16; ++d) {  // 16 dims a step, 8 keys a chunk
        ldmatrix_x4(r, v_tile + S::run_offset(d * 16 + (lane >> 4) * 8 + (lane & 7), k * 2 + ((lane >> 3) & 1)));
        add_values<S>(a, r, d, o);
      }
    } else {
#pragma unroll
      for (int d = 0; d < S::kDim / 32; ++d) {  // 32 dims a step, 16 keys a chunk
        ldmatrix_x4(r, v_tile + S::run_offset(d * 32 + lane, k));
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          uint32_t b0, b1;
          convert_word<S::kBits>(r[c], b0, b1);
#pragma unroll
          for (int m = 0; m < S::kRowTiles; ++m) mma_16816<T>(o[m][d * 4 + c], a[m], b0, b1);
        }
      }
    }
  }
}

// Merges the warps' parts of one 16-row tile: all end up in warp 0. Fixed order, so the bits do not depend on timing.
template <class S>
__device__ __forceinline__ void merge_warps(char* merge_shared, float (&max)[2], float (&sum)[2],
                                            float (&o)[S::kDim / 8][4]) {
  float* buffer = reinterpret_cast<float*>(merge_shared);                  // [2][16][kDim], in fragment order
  float* stats = reinterpret_cast<float*>(merge_shared + S::kMergeBytes);  // [kWarps][2][16]: max, sum
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
    sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
    if ((lane & 3) == 0) {
      stats[warp * 32 + half * 8 + lane / 4] = max[half];
      stats[warp * 32 + 16 + half * 8 + lane / 4] = sum[half];
    }
  }
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = half * 8 + lane / 4;
    float top = -INFINITY, total = 0;
#pragma unroll
    for (int w = 0; w < S::kWarps; ++w) top = fmaxf(top, stats[w * 32 + row]);
    const float base = top == -INFINITY ? 0.0f : top;
#pragma unroll
    for (int w = 0; w < S::kWarps; ++w) total += stats[w * 32 + 16 + row] * exp2_approx(stats[w * 32 + row] - base);
    const float factor = exp2_approx(max[half] - base);
#pragma unroll
    for (int n = 0; n < S::kDim / 8; ++n) {
      o[n][2 * half] *= factor;
      o[n][2 * half + 1] *= factor;
    }
    max[half] = top;
    sum[half] = total;
  }
#pragma unroll
  for (int round = S::kWarps / 2; round > 0; round /= 2) {
    float4* mine = reinterpret_cast<float4*>(buffer) + (warp % round) * (S::kDim / 8) * 32 + lane;
    if (warp >= round && warp < 2 * round) {
#pragma unroll
      for (int n = 0; n < S::kDim / 8; ++n) mine[n * 32] = make_float4(o[n][0], o[n][1], o[n][2], o[n][3]);
    }
    __syncthreads();
    if (warp < round) {
#pragma unroll
      for (int n = 0; n < S::kDim / 8; ++n) {
        const float4 x = mine[n * 32];
        o[n][0] += x.x;
        o[n][1] += x.y;
        o[n][2] += x.z;
        o[n][3] += x.w;
        if (n % 8 == 7) __syncwarp();  // no more loads ahead than registers
      }
    }
    __syncthreads();
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksPerSm) stream_attention(const AttentionParams p) {
  if constexpr (kOnlyLargeRoom && S::kRoom != SharedRoom::kLarge) return;
  using Tq = typename S::Tq;
  extern __shared__ __align__(128) char shared_bytes[];
  char* merge_shared = shared_bytes + S::kRingBytes;
  launch_dependents();
  TileCursor copied;  // runs ahead of `done` by up to kStages tiles
  const BlockWork work =
      find_work<S::kThreads>(p, S::kRows, S::kTileKeys, reinterpret_cast<int32_t*>(merge_shared), &copied);
  const TileRange& range = work.range;
  if (range.begin == range.end) return;
  TileCursor done = copied;
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  char* ring = shared_bytes + warp * S::kStages * S::kStageBytes;

  KeyLookup keys = look_up_keys<S>(p, copied);
  int32_t next_copy = range.begin;
  auto copy_next = [&](int stage) {
    if (next_copy < range.end) {
      copy_keys<S>(p, copied, keys, shared_address(ring) + stage * S::kStageBytes);
      if (++next_copy < range.end) {
        copied.advance(p, S::kRows, S::kTileKeys);
        keys = look_up_keys<S>(p, copied);
      }
    }
    cp_async_commit();
  };
#pragma unroll
  for (int stage = 0; stage < S::kStages - 1; ++stage) copy_next(stage);
  __syncthreads();  // the scratch of find_range becomes the merge buffer

  QueryTile<S> q;
  RowState<S::kRowTiles> rows;
  float o[S::kRowTiles][S::kDim / 8][4];
  ScoreRule rule = make_score_rule(p, 1.0f);
  int stage = 0;
  int32_t first_tile = done.tile;  // of the segment
  for (int32_t x = range.begin; x < range.end; ++x) {
    copy_next(stage == 0 ? S::kStages - 1 : stage - 1);
    const Request& r = done.request;
    if (x == range.begin || done.tile == 0) {
      first_tile = done.tile;
      q.load(p, done, merge_shared);
      rule = make_score_rule(p, key_scale(p, done.kv_head));
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = done.row_tile * S::kRows + m * 16 + half * 8 + lane / 4;
          rows.position[m][half] = r.context_len + row / p.group_size;
          rows.slope[m][half] = 0;
          if (p.alibi_slopes != nullptr)
            rows.slope[m][half] = p.alibi_slopes[done.kv_head * p.group_size + row % p.group_size] * kLog2E;
          rows.max[m][half] = -INFINITY;
          rows.sum[m][half] = 0;
        }
#pragma unroll
        for (int n = 0; n < S::kDim / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) o[m][n][e] = 0.0f;
      }
    }
    cp_async_wait<S::kStages - 1>();
    __syncwarp();
    const int32_t key0 = r.key_lo + done.tile * S::kTileKeys + warp * S::kKeys;
    if (key0 < r.key_hi) {
      char* tile = ring + stage * S::kStageBytes;
      float s[S::kRowTiles][S::kKeys / 8][4];
      stream_scores<S>(q, tile, s);
      // Keys up to the first query's position are visible to every query, and so are those in the last one's window.
      bool masked = key0 + S::kKeys > r.key_hi || (p.causal && key0 + S::kKeys > r.context_len + 1 + p.right) ||
                    (p.window > 0 && key0 < r.context_len + r.query_len - p.window);
      if constexpr (S::kTokens) {
        const int32_t visible = first_visible(p, r);
        if (key0 < visible || key0 + S::kKeys > r.key_hi) {
          masked = true;
          clear_tokens<S>(tile + S::kKeys * S::kRowBytes, key0, visible, r.key_hi);
          __syncwarp();
        }
      }
      softmax_tile<S>(p, r, rule, key0, r.key_hi, masked, s, rows, o);
      stream_values<S>(s, shared_address(tile) + S::kKeys * S::kRowBytes, o);
    }
    __syncwarp();
    stage = stage + 1 == S::kStages ? 0 : stage + 1;
    const bool ends = done.tile + 1 == done.counts.tiles;
    if (ends || x + 1 == range.end) {
      const bool whole = is_whole(work, first_tile, ends);
      const float v_scale = value_scale(p, done.kv_head);
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) {
        merge_warps<S>(merge_shared, rows.max[m], rows.sum[m], o[m]);
        if (warp != 0) continue;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int tile_row = m * 16 + half * 8 + lane / 4, row = done.row_tile * S::kRows + tile_row;
          if (row >= r.query_len * p.group_size) continue;
          const int32_t token = r.query_start + row / p.group_size,
                        head = done.kv_head * p.group_size + row % p.group_size;
          const RowEnd end = finish_row(rows.max[m][half], rows.sum[m][half], v_scale, whole ? p.sinks : nullptr, head);
          RowSink<Tq> sink;
          if (whole) {
            sink = output_row<Tq>(p, token, head);
            if ((lane & 3) == 0) store_lse(p, token, head, end.lse);
          } else {
            const int64_t partial = partial_index(p, work, r, first_tile, S::kRows, tile_row, row / p.group_size, head);
            sink.out_f32 = p.partial_out + partial * p.head_dim_v;
            if ((lane & 3) == 0) p.partial_lse[partial] = end.lse;
          }
#pragma unroll
          for (int n = 0; n < S::kDim / 8; ++n) {
            const float x0 = o[m][n][2 * half] * end.weight, x1 = o[m][n][2 * half + 1] * end.weight;
            const int column = S::column(n, 0);
            if (column >= p.head_dim_v) continue;
            if constexpr (S::kSplitsPairs) {
              sink.store(column, x0);
              sink.store(column + 2, x1);
            } else {
              sink.store_pair(column, x0, x1);
            }
          }
        }
      }
    }
    if (x + 1 < range.end) done.advance(p, S::kRows, S::kTileKeys);
  }
}

template <class S>
cudaError_t launch_stream(const AttentionParams& p, dim3 blocks, cudaStream_t stream) {
  const cudaError_t error =
      cudaFuncSetAttribute(stream_attention<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (error != cudaSuccess) return error;
  stream_attention<S><<<blocks, S::kThreads, S::kSharedBytes, stream>>>(p);
  return cudaGetLastError();
}

// 32 rows of 256 dims do not fit in registers, and no plan has them.
template <class T, KvBits kBits, int kDim, ValueOrder kOrder, SharedRoom kRoom>
cudaError_t launch_stream_rows(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  if (plan.rows == 16) return launch_stream<StreamShape<T, kBits, kDim, 1, kOrder, kRoom>>(p, plan.grid, stream);
  if constexpr (kDim < 256) {
    return launch_stream<StreamShape<T, kBits, kDim, 2, kOrder, kRoom>>(p, plan.grid, stream);
  } else {
    return cudaErrorInvalidValue;
  }
}

template <class T, KvBits kBits, int kDim, ValueOrder kOrder>
cudaError_t launch_stream_room(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  if (stream_room(kDim, plan.room) == SharedRoom::kLarge)
    return launch_stream_rows<T, kBits, kDim, kOrder, SharedRoom::kLarge>(p, plan, stream);
  return launch_stream_rows<T, kBits, kDim, kOrder, SharedRoom::kSmall>(p, plan, stream);
}

// What a source file instantiates: caches of 16 bits; of fp8; of either width with values by runs of tokens.
enum class StreamCaches : uint8_t { k16Bit, kFp8, kTokens };

template <class T, int kDim, StreamCaches kCaches>
cudaError_t launch_stream_typed(const AttentionParams& p, const StreamPlan& plan, cudaStream_t stream) {
  constexpr ValueOrder kOrder = kCaches == StreamCaches::kTokens ? ValueOrder::kTokens : ValueOrder::kDims;
  const bool is_e4m3 = p.cache_dtype == DType::kF8E4M3FN, is_e5m2 = p.cache_dtype == DType::kF8E5M2;
  if constexpr (kCaches != StreamCaches::k16Bit) {
    if (is_e4m3) return launch_stream_room<T, KvBits::kE4M3, kDim, kOrder>(p, plan, stream);
    if (is_e5m2) return launch_stream_room<T, KvBits::kE5M2, kDim, kOrder>(p, plan, stream);
  }
  if constexpr (kCaches != StreamCaches::kFp8) {
    return launch_stream_room<T, KvBits::k16, kDim, kOrder>(p, plan, stream);
  } else {
    return cudaErrorInvalidValue;
  }
}

}  // namespace sextant::cuda
