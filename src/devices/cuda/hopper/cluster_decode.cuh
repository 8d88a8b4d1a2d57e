// Decode on Hopper: a cluster of blocks for each request and KV head, merged without leaving the chip.
//
//   grid      (cluster size, KV heads x row tiles, requests): no work list to search, no second kernel that merges.
//             Where requests are of unequal length, or their lengths are not known: (1, 1, blocks), equal shares of the
//             balanced list (kernels/work_list.cuh), segment by segment, and the reduce kernel
//   block r   takes tiles r, r + size, r + 2 * size, ... of 64 keys each
//   producer  one warp: looks up 32 boxes (pages, or parts of them) at once, brings K and V by tensor-map copies; where
//             a page is no box (8 does not divide its tokens), row by row
//   consumers four warps, 16 keys of each tile each; the G heads times the query tokens are the 16 rows of mma.sync.
//             A block that has an SM for itself has two such groups, which take tiles by turns: one group's chain of
//             products and softmax takes longer than its tile takes to arrive
//
//   lengths, first block ids --> K, V boxes --> S, softmax, O += P V --> warps merge --> cluster merges --> out
//
// What decides a short decode is the chain of waits for memory. So the first block ids are fetched together with the
// lengths that say whether they are needed, and the partial results meet in the cluster's shared memory.
#pragma once

#include "devices/cuda/hopper/cluster.cuh"
#include "devices/cuda/hopper/cluster_launchers.h"
#include "devices/cuda/hopper/key_boxes.cuh"
#include "devices/cuda/hopper/wgmma.cuh"
#include "devices/cuda/kernels/launchers.h"
#include "devices/cuda/kernels/work_list.cuh"
#include "devices/cuda/portable/stream_attention.cuh"

namespace sextant::cuda {

// The products are those of stream_attention; tiles, and where their chunks lie, are this kernel's own.
// kPadded: head sizes below kDim. A box is then 128 bytes of some tokens' columns, zeros beyond the head size, and a
// tile of K or V is blocks of columns, [keys][128 bytes].
template <class T_, KvBits kBits_, int kDim_, int kGroups_, bool kPadded_>
struct ClusterShape : StreamShape<T_, kBits_, kDim_, 1> {
  using Base = StreamShape<T_, kBits_, kDim_, 1>;
  static constexpr int kDim = kDim_, kRows = 16, kGroups = kGroups_, kGroupWarps = 4, kWarps = kGroups * kGroupWarps;
  static constexpr int kConsumers = 32 * kWarps, kThreads = kConsumers + 32;
  static constexpr int kRowBytes = Base::kRowBytes, kChunks = Base::kChunks;
  // Of a warp, of a tile: a tile's chain of waits should move as many bytes whatever a key's size.
  static constexpr int kKeys = cluster_tile_keys(Base::kElement, kDim) / kGroupWarps, kTileKeys = kGroupWarps * kKeys;
  static constexpr bool kSharedQueries = false;
  static constexpr bool kPadded = kPadded_;
  static constexpr int kBoxColumns = kPadded && kRowBytes > 128 ? 128 / Base::kElement : kDim,
                       kBoxRowBytes = kBoxColumns * Base::kElement, kBoxBlocks = kDim / kBoxColumns;
  static constexpr int kTileBytes = kTileKeys * kRowBytes, kStageBytes = 2 * kTileBytes;  // K, then V
  static constexpr int kPartColumns = kDim + 8;  // floats; rows of a fragment then hit different banks
  static constexpr int kPartBytes = kRows * kPartColumns * 4;
  static constexpr int kMostStages = 8;
  static constexpr int kMergeStages = (kWarps * kPartBytes + kStageBytes - 1) / kStageBytes;  // partial results' room
  static constexpr int kLeastStages = kMergeStages > 1 + kGroups ? kMergeStages : 1 + kGroups;
  // Statistics [kWarps][2][16], the block's own [16][2], barriers.
  static constexpr int kStatBytes = kWarps * 2 * 16 * 4, kBlockStatBytes = 16 * 2 * 4,
                       kBarrierBytes = 2 * kMostStages * 8;
  static constexpr int kFixedBytes = kStatBytes + kBlockStatBytes + kBarrierBytes + 1024;  // the swizzle wants 1 KiB

  static __device__ __forceinline__ uint32_t key_offset(int row, int chunk) {
    if constexpr (kBoxBlocks > 1)
      return (chunk >> 3) * kTileKeys * kBoxRowBytes + key_chunk_bytes<kBoxRowBytes>(row, chunk & 7);
    return key_chunk_bytes<kRowBytes>(row, chunk);
  }
  static __device__ __forceinline__ uint32_t value_offset(int row, int chunk) { return key_offset(row, chunk); }
  // fp8 keys are read four chunks of two rows at a time. Under the swizzle by 128 bytes these meet in no bank if the
  // rows are four apart.
  static __device__ __forceinline__ int key_of(int n, int column) {
    return n * 8 + (Base::kFp8 && kRowBytes >= 128 ? column / 2 + column % 2 * 4 : column);
  }
};

// Tiles of one block: every `size`-th from `first` on.
struct ClusterTiles {
  Request request;
  int32_t kv_head, row_tile, first, count, rank, size, tile_keys;
  __device__ __forceinline__ int32_t key0(int j) const { return first + (rank + j * size) * tile_keys; }
};

struct StageRing {
  uint32_t data, barriers;
  int stages;
  __device__ __forceinline__ uint32_t full(int stage) const { return barriers + 8 * stage; }
  __device__ __forceinline__ uint32_t empty(int stage) const { return barriers + 8 * (stages + stage); }
};

// K and V of one box; where the tile is padded, a copy a block of columns.
template <class S>
__device__ __forceinline__ void copy_boxes(const KeyMap& map, uint32_t to, int32_t token, int32_t kv_head,
                                           int32_t block, uint32_t full) {
  if constexpr (S::kPadded) {
#pragma unroll
    for (int b = 0; b < S::kBoxBlocks; ++b) {
      const uint32_t columns = to + b * S::kTileKeys * S::kBoxRowBytes;
      copy_key_columns<false>(map, columns, b * S::kBoxColumns, token, kv_head, block, full);
      copy_key_columns<true>(map, columns + S::kTileBytes, b * S::kBoxColumns, token, kv_head, block, full);
    }
  } else {
    copy_key_box<false>(map, to, token, kv_head, block, full);
    copy_key_box<true>(map, to + S::kTileBytes, token, kv_head, block, full);
  }
}

// `guessed`: the block id of this lane's box in the first batch, or -1.
template <class S>
__device__ __forceinline__ void produce_tiles(const AttentionParams& p, const KeyMap& map, const ClusterTiles& w,
                                              const StageRing& ring, int32_t guessed) {
  const int lane = threadIdx.x & 31, boxes = S::kTileKeys / map.tokens, tiles_at_once = 32 / boxes;
  const int my_tile = lane / boxes, my_box = lane % boxes;
  const int32_t lo = w.request.key_lo, hi = w.request.key_hi;
  const auto box_position = [&](int j0) { return w.key0(j0 + my_tile) + my_box * map.tokens; };
  const auto look_up = [&](int j0) {
    const int32_t position = box_position(j0);
    if (j0 + my_tile >= w.count || position >= hi || position + map.tokens <= lo) return 0;
    return __ldg(p.block_table + w.request.index * p.block_table_stride + split_position(p, position).block);
  };
  int32_t entry = guessed >= 0 ? guessed : look_up(0);
  int stage = 0;
  uint32_t parity = 1;  // the first round finds the buffers empty
  for (int j0 = 0; j0 < w.count; j0 += tiles_at_once) {
    const int32_t next_entry = look_up(j0 + tiles_at_once);
    const BlockOffset at = split_position(p, box_position(j0));
    const auto block = static_cast<int32_t>(clamp_block(p, entry));
    for (int j = 0; j < tiles_at_once && j0 + j < w.count; ++j) {
      const int32_t key0 = w.key0(j0 + j);
      const int first_box = lo > key0 ? (lo - key0) / map.tokens : 0;
      // A window may begin behind the op's last key, in the same tile: then there is no box.
      const int end_box = max(first_box, min(boxes, ceil_div(hi - key0, map.tokens)));
      barrier_wait(ring.empty(stage), parity);
      const uint32_t full = ring.full(stage), tile = ring.data + stage * S::kStageBytes;
      if (lane == 0)
        barrier_arrive_expect(full, static_cast<uint32_t>((end_box - first_box) * 2 * map.tokens * S::kRowBytes));
      if (my_tile == j && my_box >= first_box && my_box < end_box) {
        copy_boxes<S>(map, tile + my_box * map.tokens * S::kBoxRowBytes, at.offset, w.kv_head, block, full);
      }
      __syncwarp();
      if (++stage == ring.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
    entry = next_entry;
  }
}

// The same row by row. Block ids are looked up a tile ahead; what nobody sees becomes zero.
template <class S>
__device__ __forceinline__ void produce_rows(const AttentionParams& p, const ClusterTiles& w, const StageRing& ring) {
  constexpr int kIds = S::kTileKeys / 32, kLanes = 8, kRowsAPass = 32 / kLanes, kBytes = S::Base::kElement;
  const int lane = threadIdx.x & 31, sub = lane % kLanes;
  const int chunks = p.head_dim * kBytes / 16;
  const int32_t lo = w.request.key_lo, hi = w.request.key_hi;
  const int32_t* table = p.block_table + w.request.index * p.block_table_stride;
  const auto look_up = [&](int j, int32_t(&ids)[kIds]) {
#pragma unroll
    for (int i = 0; i < kIds; ++i) {
      const int32_t position = w.key0(j) + i * 32 + lane;
      const bool seen = j < w.count && position >= lo && position < hi;
      ids[i] = seen ? __ldg(table + split_position(p, position).block) : 0;
    }
  };
  int32_t ids[kIds], next[kIds];
  look_up(0, ids);
  int stage = 0;
  uint32_t parity = 1;  // the first round finds the buffers empty
#pragma unroll 1
  for (int j = 0; j < w.count; ++j) {
    look_up(j + 1, next);
    const int32_t key0 = w.key0(j);
    barrier_wait(ring.empty(stage), parity);
    const uint32_t tile = ring.data + stage * S::kStageBytes;
#pragma unroll
    for (int i = 0; i < kIds; ++i)
#pragma unroll 2
      for (int row = i * 32 + lane / kLanes; row < i * 32 + 32; row += kRowsAPass) {
        const int32_t position = key0 + row;
        const bool seen = position >= lo && position < hi;
        const int64_t block = clamp_block(p, __shfl_sync(0xffffffffu, ids[i], row % 32));
        const int32_t offset = split_position(p, position).offset;
        const char* k = static_cast<const char*>(p.cache_k) + token_offset(p.k_addr, block, w.kv_head, offset) * kBytes;
        const char* v = static_cast<const char*>(p.cache_v) + token_offset(p.v_addr, block, w.kv_head, offset) * kBytes;
#pragma unroll
        for (int chunk = sub; chunk < S::kChunks; chunk += kLanes) {
          const bool valid = seen && chunk < chunks;
          cp_async_16(tile + S::key_offset(row, chunk), valid ? k + chunk * 16 : p.cache_k, valid);
          cp_async_16(tile + S::kTileBytes + S::value_offset(row, chunk), valid ? v + chunk * 16 : p.cache_v, valid);
        }
      }
    barrier_arrive_after_copies(ring.full(stage));
#pragma unroll
    for (int i = 0; i < kIds; ++i) ids[i] = next[i];
    if (++stage == ring.stages) {
      stage = 0;
      parity ^= 1;
    }
  }
}

// Rows of V outside [lo, hi) become zero: they may hold anything, NaN too, and 0 * NaN is NaN.
template <class S>
__device__ __forceinline__ void clear_unseen_values(char* values, int32_t key0, int32_t lo, int32_t hi) {
  const int lane = threadIdx.x & 31;
  for (int i = lane; i < S::kKeys * S::kChunks; i += 32) {
    const int row = i / S::kChunks;
    if (key0 + row < lo || key0 + row >= hi)
      *reinterpret_cast<uint4*>(values + S::value_offset(row, i % S::kChunks)) = make_uint4(0, 0, 0, 0);
  }
  fence_async_proxy();  // the buffer's next content comes by asynchronous copies
  __syncwarp();
}

template <class S>
__device__ __forceinline__ void consume_tiles(const AttentionParams& p, const ClusterTiles& w, const StageRing& ring,
                                              char* ring_data, RowState<1>& rows, float (&o)[1][S::kDim / 8][4]) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  const Request& r = w.request;
  TileCursor cursor;
  cursor.request = r;
  cursor.row_tile = w.row_tile;
  cursor.kv_head = w.kv_head;
  QueryTile<S> q;
  q.load(p, cursor, nullptr);
  const ScoreRule rule = make_score_rule(p, S::kFp8 ? key_scale(p, w.kv_head) : 1.0f);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = w.row_tile * S::kRows + half * 8 + lane / 4;
    rows.position[0][half] = r.context_len + row / p.group_size;
    rows.slope[0][half] = 0;
    if (p.alibi_slopes != nullptr)
      rows.slope[0][half] = p.alibi_slopes[w.kv_head * p.group_size + row % p.group_size] * kLog2E;
    rows.max[0][half] = -INFINITY;
    rows.sum[0][half] = 0;
  }
#pragma unroll
  for (int n = 0; n < S::kDim / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) o[0][n][e] = 0.0f;
  constexpr int kWarpBytes = S::kKeys * S::kBoxRowBytes;
  const int part = warp % S::kGroupWarps;  // of each tile
  int stage = warp / S::kGroupWarps;       // that of this group's first tile
  uint32_t parity = 0;
  for (int j = stage; j < w.count; j += S::kGroups) {
    barrier_wait(ring.full(stage), parity);
    char* keys = ring_data + stage * S::kStageBytes + part * kWarpBytes;
    char* values = keys + S::kTileBytes;
    const int32_t key0 = w.key0(j) + part * S::kKeys;
    if (key0 < r.key_hi && key0 + S::kKeys > r.key_lo) {
      const bool edge = key0 + S::kKeys > r.key_hi || key0 < r.key_lo;
      if (edge) clear_unseen_values<S>(values, key0, r.key_lo, r.key_hi);
      float s[1][S::kKeys / 8][4];
      stream_scores<S>(q, keys, s);
      const bool masked = edge || (r.query_len > 1 && (p.causal || p.window > 0));
      softmax_tile<S>(p, r, rule, key0, r.key_hi, masked, s, rows, o);
      stream_values<S>(s, shared_address(values), o);
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(ring.empty(stage));
    stage += S::kGroups;
    if (stage >= ring.stages) {
      stage -= ring.stages;
      parity ^= 1;
    }
  }
}

// The warps' parts meet in shared memory: row sums of the block at `part`, [16][kPartColumns], and (max, sum) of
// each row at `block_stats`. Fixed order, so that the bits do not depend on timing.
template <class S>
__device__ __forceinline__ void merge_block(char* ring_data, float* stats, float2* block_stats, int num_rows,
                                            RowState<1>& rows, const float (&o)[1][S::kDim / 8][4]) {
  constexpr int kConsumersBarrier = 1, kUnits = S::kDim / 4;
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  float* parts = reinterpret_cast<float*>(ring_data);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = rows.sum[0][half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if ((lane & 3) == 0) {
      stats[warp * 32 + half * 8 + lane / 4] = rows.max[0][half];
      stats[warp * 32 + 16 + half * 8 + lane / 4] = sum;
    }
  }
  named_wait(kConsumersBarrier, S::kConsumers);  // the ring is read no more
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = half * 8 + lane / 4;
    if (row >= num_rows) continue;
    float* to = parts + (warp * S::kRows + row) * S::kPartColumns;
#pragma unroll
    for (int n = 0; n < S::kDim / 8; n += S::kSplitsPairs ? 2 : 1) {
      const float x0 = o[0][n][2 * half], x1 = o[0][n][2 * half + 1];
      if constexpr (S::kSplitsPairs) {
        *reinterpret_cast<float4*>(to + S::column(n, 0)) =
            make_float4(x0, o[0][n + 1][2 * half], x1, o[0][n + 1][2 * half + 1]);
      } else {
        *reinterpret_cast<float2*>(to + S::column(n, 0)) = make_float2(x0, x1);
      }
    }
  }
  named_wait(kConsumersBarrier, S::kConsumers);
  for (int u = threadIdx.x; u < num_rows * kUnits; u += S::kConsumers) {
    const int row = u / kUnits, column = u % kUnits * 4;
    float top = -INFINITY, total = 0;
#pragma unroll
    for (int i = 0; i < S::kWarps; ++i) top = fmaxf(top, stats[i * 32 + row]);
    const float base = top == -INFINITY ? 0.0f : top;
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < S::kWarps; ++i) {
      const float weight = exp2_approx(stats[i * 32 + row] - base);
      const float4 x = *reinterpret_cast<const float4*>(parts + (i * S::kRows + row) * S::kPartColumns + column);
      total += weight * stats[i * 32 + 16 + row];
      sum.x += weight * x.x;
      sum.y += weight * x.y;
      sum.z += weight * x.z;
      sum.w += weight * x.w;
    }
    *reinterpret_cast<float4*>(parts + row * S::kPartColumns + column) = sum;  // read by this thread alone before
    if (column == 0) block_stats[row] = make_float2(top, total);
  }
}

// The blocks' parts meet: each block ends its share of the rows' columns. `partial`: the first row's place among the
// partial results; < 0: the rows are whole.
template <class S>
__device__ __forceinline__ void merge_cluster(const AttentionParams& p, const ClusterTiles& w, int32_t partial,
                                              const char* ring_data, const float2* block_stats, int num_rows) {
  constexpr int kUnits = S::kDim / 4;
  const uint32_t parts = shared_address(ring_data), stats = shared_address(block_stats);
  const float v_scale = S::kFp8 ? value_scale(p, w.kv_head) : 1.0f;
  for (int u = static_cast<int>(threadIdx.x) * w.size + w.rank; u < num_rows * kUnits; u += S::kConsumers * w.size) {
    const int row = u / kUnits, column = u % kUnits * 4;
    if (S::kPadded && column >= p.head_dim_v) continue;
    const ClusterRow merged = merge_cluster_row(stats + row * 8, parts + (row * S::kPartColumns + column) * 4, w.size);
    const int of_request = w.row_tile * S::kRows + row;
    const int32_t token = w.request.query_start + of_request / p.group_size,
                  head = w.kv_head * p.group_size + of_request % p.group_size;
    const RowEnd end = finish_row(merged.max, merged.sum, v_scale, partial < 0 ? p.sinks : nullptr, head);
    RowSink<typename S::Tq> sink;
    if (partial < 0) {
      sink = output_row<typename S::Tq>(p, token, head);
      if (column == 0) store_lse(p, token, head, end.lse);
    } else {
      sink.out_f32 = p.partial_out + static_cast<int64_t>(partial + row) * p.head_dim_v;
      if (column == 0) p.partial_lse[partial + row] = end.lse;
    }
    sink.store_pair(column, merged.columns.x * end.weight, merged.columns.y * end.weight);
    sink.store_pair(column + 2, merged.columns.z * end.weight, merged.columns.w * end.weight);
  }
}

// `known_blocks`: entries of a block_table row that exist whatever the current length is; 0: guess nothing.
template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kGroups == 2 || S::kDim == 256 ? 1 : 2)
    cluster_decode(const __grid_constant__ AttentionParams p, const __grid_constant__ KeyMap map, int stages,
                   int known_blocks) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ char shared_bytes[];
  char* shared = shared_bytes + (1024 - shared_address(shared_bytes) % 1024) % 1024;
  char* fixed = shared + stages * S::kStageBytes;
  float* stats = reinterpret_cast<float*>(fixed);
  auto* block_stats = reinterpret_cast<float2*>(fixed + S::kStatBytes);
  const StageRing ring{shared_address(shared), shared_address(fixed + S::kStatBytes + S::kBlockStatBytes), stages};
  const bool produces = threadIdx.x >= S::kConsumers;
  launch_dependents();
  ClusterTiles w;
  w.rank = static_cast<int32_t>(blockIdx.x);  // the cluster is the whole of x
  w.size = static_cast<int32_t>(gridDim.x);
  w.tile_keys = S::kTileKeys;
  const auto init_barriers = [&] {
    if (threadIdx.x != 0) return;
    for (int i = 0; i < stages; ++i) {
      barrier_init(ring.full(i), map.tokens > 0 ? 1 : 32);  // by rows, each lane of the producer
      barrier_init(ring.empty(i), S::kGroupWarps);
    }
    fence_async_proxy();
  };
  TileCursor cursor;
  TileRange range{0, 1};  // of the list; else of nothing: the request's tiles are this cluster's
  int32_t guessed = -1;
  if (p.balanced) {
    range = find_range<S::kThreads>(p, S::kRows, S::kTileKeys, reinterpret_cast<int32_t*>(stats), &cursor,
                                    static_cast<int>(blockIdx.z), static_cast<int>(gridDim.z));
  } else {
    if (produces && p.window == 0 && p.key_begin == 0 && known_blocks > 0 && map.tokens > 0) {
      const int lane = threadIdx.x & 31, boxes = S::kTileKeys / map.tokens;
      const int position = (w.rank + lane / boxes * w.size) * S::kTileKeys + lane % boxes * map.tokens;
      const int block = split_position(p, position).block;
      if (block < known_blocks) guessed = __ldg(p.block_table + blockIdx.z * p.block_table_stride + block);
    }
    cursor.request = load_request(p, static_cast<int>(blockIdx.z));
    cursor.row_tile = static_cast<int32_t>(blockIdx.y) / p.num_kv_heads;
    cursor.kv_head = static_cast<int32_t>(blockIdx.y) - cursor.row_tile * p.num_kv_heads;
    if (!cursor.request.active || cursor.row_tile * S::kRows >= cursor.request.query_len * p.group_size) range.end = 0;
  }
  if (threadIdx.x == 0 && map.tokens > 0) {
    prefetch_tensor_map(&map.k);
    prefetch_tensor_map(&map.v);
  }
  init_barriers();
  __syncthreads();
  if (range.begin >= range.end) {  // the whole cluster
    wait_for_previous_kernel();
    return;
  }
#pragma unroll 1
  for (int32_t x = range.begin;;) {
    w.request = cursor.request;
    w.kv_head = cursor.kv_head;
    w.row_tile = cursor.row_tile;
    const int num_rows = min(S::kRows, w.request.query_len * p.group_size - w.row_tile * S::kRows);
    int32_t segment = 1, partial = -1;  // tiles of the list; the first row of a partial result
    if (p.balanced) {
      segment = min(cursor.counts.tiles - cursor.tile, range.end - x);
      w.first = w.request.key_lo + cursor.tile * S::kTileKeys;
      w.request.key_hi = min(w.request.key_hi, w.first + segment * S::kTileKeys);
      if (segment < cursor.counts.tiles)
        partial = (2 * static_cast<int32_t>(blockIdx.z) + (cursor.tile == 0 ? 1 : 0)) * S::kRows;
    } else {
      w.first = w.request.key_lo;
    }
    // Requests begin with a whole tile (AttentionParams::key_align): what the window leaves out of it is nobody's.
    w.request.key_lo = p.window > 0 ? max(w.first, w.request.context_len - p.window + 1) : w.first;
    const int32_t tiles = max(0, ceil_div(w.request.key_hi - w.first, S::kTileKeys));
    w.count = tiles > w.rank ? ceil_div(tiles - w.rank, w.size) : 0;
    if (produces && map.tokens > 0) {
      produce_tiles<S>(p, map, w, ring, guessed);
    } else if (produces) {
      produce_rows<S>(p, w, ring);
    } else {
      RowState<1> rows;
      float o[1][S::kDim / 8][4];
      consume_tiles<S>(p, w, ring, shared, rows, o);
      merge_block<S>(shared, stats, block_stats, num_rows, rows, o);
    }
    cluster_barrier();
    if (!produces) merge_cluster<S>(p, w, partial, shared, block_stats, num_rows);
    cluster_barrier();  // no block ends while another reads its shared memory
    x += segment;
    if (x >= range.end) break;
    cursor.tile += segment - 1;
    cursor.advance(p, S::kRows, S::kTileKeys);
    fence_async_proxy();
    if (threadIdx.x == 0)
      for (int i = 0; i < 2 * stages; ++i) barrier_invalidate(ring.barriers + 8 * i);
    init_barriers();
    __syncthreads();
  }
  // A kernel that this one ran beside has ended too before the next one starts.
  wait_for_previous_kernel();
#endif
}

template <class S>
cudaError_t launch_cluster_shape(const AttentionParams& p, const KeyMap& map, const ClusterPlan& plan,
                                 cudaStream_t stream) {
  constexpr int kBlockShared = 226 * 1024, kHalfBlockShared = 113 * 1024;
  const int room = (plan.one_a_sm ? kBlockShared : kHalfBlockShared) - S::kFixedBytes;
  const int stages = room / S::kStageBytes < S::kMostStages ? room / S::kStageBytes : S::kMostStages;
  if (stages < S::kLeastStages) return cudaErrorInvalidConfiguration;
  const int bytes = stages * S::kStageBytes + S::kFixedBytes;
  cudaError_t error = cudaFuncSetAttribute(cluster_decode<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess && plan.size > 8)
    error = cudaFuncSetAttribute(cluster_decode<S>, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attributes[2] = {cluster_attribute(plan.size), {}};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = plan.list_blocks > 0
                       ? dim3(1, 1, static_cast<unsigned>(plan.list_blocks))
                       : dim3(static_cast<unsigned>(plan.size), static_cast<unsigned>(p.num_kv_heads * plan.row_tiles),
                              static_cast<unsigned>(p.num_requests));
  config.blockDim = dim3(S::kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(bytes);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = plan.beside_previous ? 2 : 1;
  return cudaLaunchKernelEx(&config, cluster_decode<S>, p, map, stages, plan.known_blocks);
}

// By head size and by how many blocks an SM has.
template <class T, KvBits kBits, bool kPadded>
cudaError_t launch_cluster_sized(const AttentionParams& p, const KeyMap& map, const ClusterPlan& plan,
                                 cudaStream_t stream) {
  const bool two = plan.one_a_sm;
  switch (cluster_dim(p.head_dim)) {
    case 64:
      return two ? launch_cluster_shape<ClusterShape<T, kBits, 64, 2, kPadded>>(p, map, plan, stream)
                 : launch_cluster_shape<ClusterShape<T, kBits, 64, 1, kPadded>>(p, map, plan, stream);
    case 128:
      return two ? launch_cluster_shape<ClusterShape<T, kBits, 128, 2, kPadded>>(p, map, plan, stream)
                 : launch_cluster_shape<ClusterShape<T, kBits, 128, 1, kPadded>>(p, map, plan, stream);
    default:  // two groups' accumulators exceed the registers
      return launch_cluster_shape<ClusterShape<T, kBits, 256, 1, kPadded>>(p, map, plan, stream);
  }
}

template <class T, bool kFp8, bool kPadded>
cudaError_t launch_cluster_typed(const AttentionParams& p, const KeyMap& map, const ClusterPlan& plan,
                                 cudaStream_t stream) {
  if constexpr (!kFp8) return launch_cluster_sized<T, KvBits::k16, kPadded>(p, map, plan, stream);
  return p.cache_dtype == DType::kF8E4M3FN ? launch_cluster_sized<T, KvBits::kE4M3, kPadded>(p, map, plan, stream)
                                           : launch_cluster_sized<T, KvBits::kE5M2, kPadded>(p, map, plan, stream);
}

}  // namespace sextant::cuda
