// Decode at memory speed: few query rows against many keys.
//
//   rows     the G heads of a KV head times 1..8 query tokens fill a matrix tile of 16 or 32 rows
//   warps    each of the 4 warps streams its own keys of a tile (kWarpKeys each) through its own ring of shared memory:
//   no
//            block barrier in the loop, and the copies of the next segment start while the last one is being merged
//   balance  kernels/work_list.cuh: every block gets the same number of tiles
//   bytes    a warp keeps kStages tiles in flight; two blocks an SM hold 192 KiB in flight, several times what latency
//   x
//            bandwidth asks for
//
// fp8 keys and values stay fp8 in shared memory and become fp16 in registers, exactly; the queries become fp16 too,
// each row scaled by a power of two so that none overflows. A k step of the matrix product may take the dims in any
// order if Q and K agree, so a thread takes 4 consecutive bytes of K where fp16 would take two pairs. For V,
// ldmatrix.trans moves pairs of bytes: a byte permute then separates even and odd dims, which land in two accumulators.
#pragma once

#include "devices/cuda/kernels/softmax_tile.cuh"
#include "devices/cuda/kernels/work_list.cuh"

namespace sextant::cuda {

enum class KvBits : uint8_t { k16, kE4M3, kE5M2 };

template <class Tq_, KvBits kBits_, int kDim_, int kRowTiles_>
struct StreamShape {
  using Tq = Tq_;  // queries and output
  static constexpr KvBits kBits = kBits_;
  using T = std::conditional_t<kBits_ == KvBits::k16, Tq_, __half>;  // operands of the products
  static constexpr bool kFp8 = kBits != KvBits::k16;
  static constexpr int kElement = kFp8 ? 1 : 2;
  static constexpr int kDim = kDim_, DV = kDim_, kRowTiles = kRowTiles_, kRows = 16 * kRowTiles_;
  static constexpr int kWarps = 4, kThreads = 128;
  static constexpr int kRowBytes = kDim * kElement, kChunks = kRowBytes / 16;
  static constexpr int kKeys = kRowBytes <= 128 ? 32 : 16;  // of a warp's tile
  static constexpr int kTileKeys = kWarps * kKeys;
  static constexpr int kStageBytes = 2 * kKeys * kRowBytes;
  static constexpr int kStages = kStageBytes <= 4096 ? 5 : 3;
  static constexpr int kRingBytes = kWarps * kStages * kStageBytes;
  static constexpr int kMergeBytes = 2 * 16 * kDim * 4, kStatBytes = kWarps * 2 * 16 * 4;
  static constexpr int kSharedBytes = kRingBytes + kMergeBytes + kStatBytes;
  static constexpr int kBlocksPerSm = kDim == 256 ? 1 : 2;
  static constexpr int kSwizzleShift = kRowBytes == 64 ? 1 : 0, kSwizzleMask = kRowBytes == 64 ? 3 : 7;

  static __device__ __forceinline__ uint32_t offset(int row, int chunk) {
    return static_cast<uint32_t>(row * kRowBytes + ((chunk ^ ((row >> kSwizzleShift) & kSwizzleMask)) << 4));
  }
  // Column of element e of accumulator n.
  static __device__ __forceinline__ int column(int n, int e) {
    const int t = threadIdx.x & 3;
    return kFp8 ? (n / 2) * 16 + t * 4 + (e & 1) * 2 + (n & 1) : n * 8 + t * 2 + (e & 1);
  }
};

template <KvBits kBits>
__device__ __forceinline__ uint32_t fp8_pair(uint32_t pair) {
  return kBits == KvBits::kE4M3 ? e4m3_pair_to_f16(pair) : e5m2_pair_to_f16(pair);
}

// What the copies of one warp tile need. The block id is looked up one tile ahead of its use.
struct KeyLookup {
  int32_t first, position;  // of the warp's tile; of this lane's key
  int32_t block, offset;
};
template <class S>
__device__ __forceinline__ KeyLookup look_up_keys(const AttentionParams& p, const TileCursor& c) {
  KeyLookup k;
  k.first = c.request.key_lo + c.tile * S::kTileKeys + static_cast<int>(threadIdx.x / 32) * S::kKeys;
  k.position = k.first + static_cast<int>(threadIdx.x & 31) % S::kKeys;
  k.block = 0;
  k.offset = 0;
  if (k.position < c.request.key_hi) {
    const BlockOffset at = split_position(p, k.position);
    k.offset = at.offset;
    k.block = __ldg(p.block_table + c.request.index * p.block_table_stride + at.block);
  }
  return k;
}

template <class S>
__device__ __forceinline__ void copy_keys(const AttentionParams& p, const TileCursor& c, const KeyLookup& k,
                                          uint32_t stage) {
  constexpr int kRowsACopy = 32 / (S::kChunks < 32 ? S::kChunks : 32);
  const int lane = threadIdx.x & 31, chunk = lane % S::kChunks, sub_row = lane / S::kChunks;
  const int64_t block = clamp_block(p, k.block);
  const int64_t k_row = token_offset(p.k_addr, block, c.kv_head, k.offset);
  const int64_t v_row = token_offset(p.v_addr, block, c.kv_head, k.offset);
  const bool k_column = chunk * (16 / S::kElement) < p.head_dim, v_column = chunk * (16 / S::kElement) < p.head_dim_v;
  constexpr int kScale = S::kFp8 ? 2 : 1;  // a 16-byte chunk holds 16 fp8 dims: two steps of 8
  const char* k_base = static_cast<const char*>(p.cache_k) + chunk * p.k_chunk_stride * kScale * S::kElement;
  const char* v_base = static_cast<const char*>(p.cache_v) + chunk * p.v_chunk_stride * kScale * S::kElement;
#pragma unroll
  for (int i = 0; i < S::kKeys / kRowsACopy; ++i) {
    const int row = i * kRowsACopy + sub_row;
    const int64_t from = __shfl_sync(0xffffffffu, k_row, row);
    const bool valid = k.first + row < c.request.key_hi && k_column;
    cp_async_16(stage + S::offset(row, chunk), valid ? k_base + from * S::kElement : p.cache_k, valid);
  }
#pragma unroll
  for (int i = 0; i < S::kKeys / kRowsACopy; ++i) {
    const int row = i * kRowsACopy + sub_row;
    const int64_t from = __shfl_sync(0xffffffffu, v_row, row);
    const bool valid = k.first + row < c.request.key_hi && v_column;
    cp_async_16(stage + S::kKeys * S::kRowBytes + S::offset(row, chunk),
                valid ? v_base + from * S::kElement : p.cache_v, valid);
  }
}

// Query fragments of one segment, straight from global memory, and for fp8 the power of two that each row was divided
// by.
template <class S>
struct QueryTile {
  uint32_t a[S::kRowTiles][S::kDim / 16][4];
  float factor[S::kRowTiles][2];
};
template <class S>
__device__ __forceinline__ void load_query_tile(const AttentionParams& p, const TileCursor& c, QueryTile<S>& q) {
  using Tq = typename S::Tq;
  const int lane = threadIdx.x & 31, t = lane & 3;
  const int num_rows = c.request.query_len * p.group_size;
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = c.row_tile * S::kRows + m * 16 + half * 8 + lane / 4;
      const bool valid = row < num_rows;
      const int at = valid ? row : 0;
      const Tq* source = static_cast<const Tq*>(p.q) + (c.request.query_start + at / p.group_size) * p.q_token_stride +
                         (c.kv_head * p.group_size + at % p.group_size) * p.q_head_stride;
      q.factor[m][half] = 1.0f;
      if constexpr (!S::kFp8) {
#pragma unroll
        for (int k = 0; k < S::kDim / 16; ++k)
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int d = k * 16 + j * 8 + t * 2;
            q.a[m][k][j * 2 + half] = valid && d < p.head_dim ? *reinterpret_cast<const uint32_t*>(source + d) : 0;
          }
      } else {
        uint2 raw[S::kDim / 16];
        float largest = 0;
#pragma unroll
        for (int k = 0; k < S::kDim / 16; ++k) {
          const int d = k * 16 + t * 4;
          raw[k] = make_uint2(0, 0);
          if (valid && d < p.head_dim) raw[k] = *reinterpret_cast<const uint2*>(source + d);
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
          q.factor[m][half] = __int_as_float((127 + exponent) << 23);
        }
#pragma unroll
        for (int k = 0; k < S::kDim / 16; ++k) {
          const Tq* x = reinterpret_cast<const Tq*>(&raw[k]);
          q.a[m][k][half] = pack_pair<__half>(to_float(x[0]) * down, to_float(x[1]) * down);
          q.a[m][k][2 + half] = pack_pair<__half>(to_float(x[2]) * down, to_float(x[3]) * down);
        }
      }
    }
}

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
#pragma unroll
  for (int k = 0; k < S::kDim / 16; ++k)
#pragma unroll
    for (int n = 0; n < S::kKeys / 16; ++n) {
      uint32_t b[4];
      if constexpr (!S::kFp8) {
        ldmatrix_x4(
            b, shared_address(k_tile) + S::offset(n * 16 + (lane >> 4) * 8 + (lane & 7), k * 2 + ((lane >> 3) & 1)));
      } else {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const uint32_t x =
              *reinterpret_cast<const uint32_t*>(k_tile + S::offset(n * 16 + j * 8 + lane / 4, k) + (lane & 3) * 4);
          b[j * 2] = fp8_pair<S::kBits>(x & 0xffff);
          b[j * 2 + 1] = fp8_pair<S::kBits>(x >> 16);
        }
      }
#pragma unroll
      for (int m = 0; m < S::kRowTiles; ++m) {
        mma_16816<T>(s[m][2 * n], q.a[m][k], b[0], b[1]);
        mma_16816<T>(s[m][2 * n + 1], q.a[m][k], b[2], b[3]);
      }
    }
  if constexpr (S::kFp8) {
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m)
#pragma unroll
      for (int n = 0; n < S::kKeys / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[m][n][e] *= q.factor[m][e / 2];
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
#pragma unroll
    for (int d = 0; d < S::kChunks / 2; ++d) {  // two 16-byte chunks a step
      uint32_t r[4];
      ldmatrix_x4_trans(r, v_tile + S::offset(k * 16 + ((lane >> 3) & 1) * 8 + (lane & 7), d * 2 + (lane >> 4)));
#pragma unroll
      for (int c = 0; c < 2; ++c)
#pragma unroll
        for (int m = 0; m < S::kRowTiles; ++m) {
          if constexpr (!S::kFp8) {
            mma_16816<T>(o[m][2 * d + c], a[m], r[2 * c], r[2 * c + 1]);
          } else {
            const int n = 2 * (2 * d + c);
            mma_16816<T>(o[m][n], a[m], fp8_pair<S::kBits>(__byte_perm(r[2 * c], 0, 0x4420)),
                         fp8_pair<S::kBits>(__byte_perm(r[2 * c + 1], 0, 0x4420)));
            mma_16816<T>(o[m][n + 1], a[m], fp8_pair<S::kBits>(__byte_perm(r[2 * c], 0, 0x4431)),
                         fp8_pair<S::kBits>(__byte_perm(r[2 * c + 1], 0, 0x4431)));
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
  for (int round = 2; round > 0; round /= 2) {
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
      }
    }
    __syncthreads();
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksPerSm) stream_attention(const AttentionParams p) {
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
      load_query_tile<S>(p, done, q);
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
      const char* tile = ring + stage * S::kStageBytes;
      float s[S::kRowTiles][S::kKeys / 8][4];
      stream_scores<S>(q, tile, s);
      const bool masked = key0 + S::kKeys > r.key_hi || (r.query_len > 1 && (p.causal || p.window > 0));
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
            if constexpr (S::kFp8) {
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

}  // namespace sextant::cuda
