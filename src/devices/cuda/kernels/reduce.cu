// Merges partial attention results: weights from the partial LSEs, then a weighted sum.
//
//   item   128 columns of one row: four floats a lane
//   few    up to kAlone partials, or many items a token: a warp merges its item alone, no barrier
//   many   the warps of a block share out an item's partials and meet in shared memory
//   order  of every sum is fixed by the indices, so that bits do not depend on timing
//
// Time here is latency: what the inputs alone decide is worked out before the wait for the attention kernel, and the
// partial rows are asked for before their weights are known. Launched so that blocks may start while the attention
// kernel drains (sm_90): even a block with nothing to do must not end before the wait. The attention kernel itself is
// launched after everything before it has ended, so its inputs may be read ahead of the wait.
#include "devices/cuda/kernels/launch.cuh"
#include "devices/cuda/kernels/launchers.h"
#include "devices/cuda/kernels/softmax.cuh"
#include "devices/cuda/kernels/work_list.cuh"

namespace sextant::cuda {
namespace {

constexpr int kColumns = 128;
constexpr int kAlone = 8;  // partials that a warp merges alone
constexpr int kRowsInFlight = 16;
constexpr int kWeights = 512;  // in shared memory at a time
constexpr int kFewWarps = 4;   // of a block when rows have few partials ..
constexpr int kManyWarps = 8;  // .. and many
// Partials a row from which on a block has one item: under a fixed split; and of the balanced list, where kManyWarps
// also mean shared memory and so a later start (measured: 33 partials are merged sooner by one warp that starts early).
constexpr int kManyExpected = 6, kManyBalanced = 48;
// Blocks, each of which then loops over items: not many more than run at once (by registers, two of kManyWarps or five
// of kFewWarps an SM), because each begins with a chain of waits.
constexpr int64_t kMostManyBlocks = 264, kMostFewBlocks = 640;
// A token's items from which on a warp merges its item alone, however many partials there are: other warps have items
// of their own. By the spec alone, as deterministic mode wants it.
constexpr int kManyItems = 64;

// One row to merge and its partials: row_of(i), i in [0, count), is the index of partial i; < 0: nothing there.
template <class RowOf>
struct Partials {
  int32_t count;
  RowOf row_of;
};

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}
// Addition commutes bit by bit, so all lanes get the same bits.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

template <class RowOf>
__device__ __forceinline__ float load_lse(const AttentionParams& p, const Partials<RowOf>& from, int i) {
  const int64_t row = i < from.count ? from.row_of(i) : -1;
  return row < 0 ? -INFINITY : p.partial_lse[row] * kLog2E;
}
template <class RowOf>
__device__ __forceinline__ float4 load_part(const AttentionParams& p, const Partials<RowOf>& from, int i, int d) {
  const int64_t row = i < from.count && d < p.head_dim_v ? from.row_of(i) : -1;
  if (row < 0) return make_float4(0, 0, 0, 0);
  return *reinterpret_cast<const float4*>(p.partial_out + row * p.head_dim_v + d);
}
// A part of weight 0 may hold anything; 0 * NaN must not reach the result.
__device__ __forceinline__ void add_part(float4& acc, float weight, const float4& x) {
  if (weight == 0) return;
  acc.x += weight * x.x;
  acc.y += weight * x.y;
  acc.z += weight * x.z;
  acc.w += weight * x.w;
}

// `max` and `sum`: of the row, in log2 units and relative to `max`.
template <class T>
__device__ __forceinline__ void store_item(const AttentionParams& p, int32_t token, int32_t head, int d0, float max,
                                           float sum, const float4& acc) {
  const int lane = threadIdx.x & 31, d = d0 + lane * 4;
  RowEnd end = finish_row(max, sum, 1.0f, p.sinks, head);
  RowSink<T> sink = output_row<T>(p, token, head);
  join_state(p, token, head, end, sink);
  if (lane == 0 && d0 == 0) store_lse(p, token, head, end.lse);
  if (d >= p.head_dim_v) return;
  sink.store_pair(d, acc.x * end.weight, acc.y * end.weight);
  sink.store_pair(d + 2, acc.z * end.weight, acc.w * end.weight);
}

// One warp merges an item: 32 partials' weights at a time, sixteen rows in flight. Each lane works out where one
// partial lies: this code runs once, so that it is fetched from memory, and should be short.
template <class T, class RowOf>
__device__ __forceinline__ void merge_alone(const AttentionParams& p, const Partials<RowOf>& from, int32_t token,
                                            int32_t head, int d0) {
  const int lane = threadIdx.x & 31, d = d0 + lane * 4;
  const auto part_of = [&](int i) -> const float* {
    const int64_t row = i < from.count ? from.row_of(i) : -1;
    return row < 0 ? nullptr : p.partial_out + row * p.head_dim_v;
  };
  float4 x[kRowsInFlight];
  const auto ask = [&](const float* part, int j) {
#pragma unroll
    for (int i = 0; i < kRowsInFlight; ++i) {
      const auto* row =
          reinterpret_cast<const float*>(__shfl_sync(0xffffffffu, reinterpret_cast<unsigned long long>(part), j + i));
      x[i] = row != nullptr && d < p.head_dim_v ? *reinterpret_cast<const float4*>(row + d) : make_float4(0, 0, 0, 0);
    }
  };
  const float* part = part_of(lane);
  float lse = load_lse(p, from, lane);
  ask(part, 0);
  float max = lse;
#pragma unroll 1
  for (int i = lane + 32; i < from.count; i += 32) max = fmaxf(max, load_lse(p, from, i));
  max = warp_max(max);
  const float base = max == -INFINITY ? 0.0f : max;
  float sum = 0;
  float4 acc = make_float4(0, 0, 0, 0);
#pragma unroll 1
  for (int first = 0;;) {
    const float weight = exp2f(lse - base);
    sum += weight;
#pragma unroll 1
    for (int j = 0;;) {
#pragma unroll
      for (int i = 0; i < kRowsInFlight; ++i) add_part(acc, __shfl_sync(0xffffffffu, weight, j + i), x[i]);
      j += kRowsInFlight;
      if (j == 32 || first + j >= from.count) break;
      ask(part, j);
    }
    first += 32;
    if (first >= from.count) break;
    part = part_of(first + lane);
    lse = load_lse(p, from, first + lane);
    ask(part, 0);
  }
  store_item<T>(p, token, head, d0, max, warp_sum(sum), acc);
}

template <int kWarps>
struct MergeShared {
  float weights[kWeights];
  float max[kWarps], sum[kWarps];
  float4 parts[kWarps][32];
};
// All threads of the block call it for the same item.
template <class T, int kWarps, class RowOf>
__device__ __forceinline__ void merge_together(const AttentionParams& p, const Partials<RowOf>& from, int32_t token,
                                               int32_t head, int d0, MergeShared<kWarps>& shared) {
  constexpr int kInFlight = kWarps == kManyWarps ? 16 : 8;  // partial rows that a warp asks for at a time
  constexpr int kThreads = 32 * kWarps, kStep = kWarps * kInFlight;
  static_assert(kWeights % kStep == 0 && kWeights % kThreads == 0);
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, d = d0 + lane * 4;
  float4 x[kInFlight];
#pragma unroll
  for (int j = 0; j < kInFlight; ++j) x[j] = load_part(p, from, warp + j * kWarps, d);
  float max = -INFINITY;
  for (int i = threadIdx.x; i < from.count; i += kThreads) {
    const float lse = load_lse(p, from, i);
    if (i < kWeights) shared.weights[i] = lse;
    max = fmaxf(max, lse);
  }
  max = warp_max(max);
  if (lane == 0) shared.max[warp] = max;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWarps; ++w) max = fmaxf(max, shared.max[w]);
  const float base = max == -INFINITY ? 0.0f : max;
  float sum = 0;
  float4 acc = make_float4(0, 0, 0, 0);
  for (int first = 0; first < from.count; first += kWeights) {
    const int last = min(from.count, first + kWeights);
    if (first > 0) __syncthreads();  // the weights before these are used up
    for (int i = first + threadIdx.x; i < last; i += kThreads) {
      const float weight = exp2f((first == 0 ? shared.weights[i] : load_lse(p, from, i)) - base);
      shared.weights[i - first] = weight;
      sum += weight;
    }
    __syncthreads();
    for (int i = first + warp; i < last; i += kStep) {
      if (i != warp) {
#pragma unroll
        for (int j = 0; j < kInFlight; ++j) x[j] = load_part(p, from, i + j * kWarps, d);
      }
#pragma unroll
      for (int j = 0; j < kInFlight; ++j)
        if (i + j * kWarps < last) add_part(acc, shared.weights[i - first + j * kWarps], x[j]);
    }
  }
  sum = warp_sum(sum);
  if (lane == 0) shared.sum[warp] = sum;
  shared.parts[warp][lane] = acc;
  __syncthreads();
  if (warp == 0) {
#pragma unroll
    for (int w = 1; w < kWarps; ++w) {
      sum += shared.sum[w];
      add_part(acc, 1.0f, shared.parts[w][lane]);
    }
    store_item<T>(p, token, head, d0, max, sum, acc);
  }
  __syncthreads();  // the next item writes what warp 0 reads
}

// Merges `rows` rows that share their number of partials. place_of(row) -> (token, head), from_of(row) -> its Partials.
// `alone`: each by one warp.
// Item i of a row-major [rows][column chunks] goes to a warp, or to a block where there are many partials. Blocks of
// kFewWarps have no shared memory: beside two blocks of stream_attention an SM has none left, and what has none can
// start before they end.
template <class T, int kWarps, class PlaceOf, class FromOf>
__device__ __forceinline__ void merge_rows(const AttentionParams& p, int rows, int count, bool alone, PlaceOf place_of,
                                           FromOf from_of) {
  const int chunks = ceil_div(p.head_dim_v, kColumns), items = rows * chunks;
  if (alone || count <= kAlone) {
    for (int i = blockIdx.y * kWarps + threadIdx.x / 32; i < items; i += gridDim.y * kWarps) {
      const int2 at = place_of(i / chunks);
      merge_alone<T>(p, from_of(i / chunks), at.x, at.y, i % chunks * kColumns);
    }
  } else if constexpr (kWarps == kManyWarps) {
    __shared__ MergeShared<kWarps> shared;
    for (int i = blockIdx.y; i < items; i += gridDim.y) {
      const int2 at = place_of(i / chunks);
      merge_together<T, kWarps>(p, from_of(i / chunks), at.x, at.y, i % chunks * kColumns, shared);
    }
  }
}

// Last request whose first entry in `starts` is not after `x`.
__device__ __forceinline__ int find_start(const int32_t* starts, int count, int32_t x) {
  const int lane = threadIdx.x & 31;
  int begin = 0;
  while (count > 1) {
    const int step = ceil_div(count, 32);
    const bool not_after = lane * step < count && starts[begin + lane * step] <= x;
    const int last = 31 - __clz(__ballot_sync(0xffffffffu, not_after) | 1u);
    count = min(step, count - last * step);
    begin += last * step;
  }
  return begin;
}

// Grid: (partial slots, groups of items). Always kManyWarps: how the warps share out a row's partials must not depend
// on the rest of the batch, because deterministic mode promises that no bit does.
template <class T>
__global__ void __launch_bounds__(32 * kManyWarps) reduce_fixed(const AttentionParams p) {
  const int32_t slot = blockIdx.x;
  const int b =
      p.split.compact_slots ? slot / p.split.max_query_len : find_start(p.query_start_loc, p.num_requests, slot);
  const Request r = load_request(p, b);
  const int32_t query = p.split.compact_slots ? slot % p.split.max_query_len : slot - r.query_start;
  int32_t size;
  const int32_t count = partition_count(p, r, &size);
  wait_for_previous_kernel();
  if (!r.active || query >= r.query_len || query < 0 || count == 1) return;
  const auto place_of = [&](int head) { return make_int2(r.query_start + query, head); };
  const auto from_of = [&](int head) {
    const int64_t first = partial_row(p, r, query, head);
    const auto row_of = [first](int i) { return first + i; };
    return Partials<decltype(row_of)>{count, row_of};
  };
  merge_rows<T, kManyWarps>(p, p.num_heads, count, p.num_heads * ceil_div(p.head_dim_v, kColumns) >= kManyItems,
                            place_of, from_of);
}

// Where one (request, row tile) lies in the row of a KV head's tiles.
struct Segment {
  Request request;
  int32_t row_tile, kv_head;
  int32_t first, last;  // places of its tiles
  int32_t total;        // places of the batch
};
// The last segment of a block's share: the only one that can begin there and end in a later block.
__device__ __forceinline__ bool find_segment_of_block(const AttentionParams& p, int block, int shares, int rows,
                                                      int keys, Segment& s) {
  wait_for_previous_kernel();
  s.total = p.tile_starts[p.num_requests];
  const int share = block / p.num_kv_heads;
  const TileRange range = block_range(share, shares, s.total);
  if (range.begin == range.end || range.end == s.total) return false;
  const int b = find_start(p.tile_starts, p.num_requests, range.end - 1);
  s.request = load_request(p, b);
  const TileCounts counts = count_tiles(p, s.request, rows, keys);
  const int32_t start = p.tile_starts[b];
  s.row_tile = (range.end - 1 - start) / (counts.tiles + p.list_overhead);
  s.first = start + s.row_tile * (counts.tiles + p.list_overhead) + p.list_overhead;
  s.last = s.first + counts.tiles - 1;
  s.kv_head = block - share * p.num_kv_heads;
  return s.first >= range.begin && s.first < range.end && s.last >= range.end;
}
// Segment `unit` of [row tiles over all requests, at most][num_kv_heads].
__device__ __forceinline__ bool find_segment(const AttentionParams& p, int unit, int rows, int keys, Segment& s) {
  const int tile = unit / p.num_kv_heads, lane = threadIdx.x & 31;
  const int b = find_request(p, tile, rows);
  s.kv_head = unit - tile * p.num_kv_heads;
  s.request = load_request(p, b);
  const TileCounts counts = count_tiles(p, s.request, rows, keys);
  s.row_tile =
      tile - static_cast<int>(static_cast<int64_t>(s.request.query_start) * p.group_size / rows) - s.request.index;
  int32_t start;
  if (p.num_requests <= 32) {  // cheaper than to wait for the attention kernel's list
    const int32_t places = lane < p.num_requests ? places_of_request(p, load_request(p, lane), rows, keys) : 0;
    start = __reduce_add_sync(0xffffffffu, lane < b ? places : 0);
    s.total = __reduce_add_sync(0xffffffffu, places);
    wait_for_previous_kernel();
  } else {
    wait_for_previous_kernel();
    start = p.tile_starts[b];
    s.total = p.tile_starts[p.num_requests];
  }
  s.first = start + s.row_tile * (counts.tiles + p.list_overhead) + p.list_overhead;
  s.last = s.first + counts.tiles - 1;
  return s.request.active && s.row_tile >= 0 && s.row_tile < counts.row_tiles;
}

// Grid: (segments, groups of items), or where there are more segments than blocks of the attention kernel: (those
// blocks, groups of items).
template <class T, int kWarps>
__global__ void __launch_bounds__(32 * kWarps)
    reduce_balanced(const AttentionParams p, int blocks, bool by_segment, int rows, int keys) {
  Segment s;
  const int shares = blocks / p.num_kv_heads;
  const bool found = by_segment ? find_segment(p, blockIdx.x, rows, keys, s)
                                : find_segment_of_block(p, blockIdx.x, shares, rows, keys, s);
  if (!found) return;
  const auto share_of = [&](int32_t place) {  // that holds it
    return static_cast<int>(((static_cast<int64_t>(place) + 1) * shares - 1) / s.total);
  };
  const int first_share = share_of(s.first), count = share_of(s.last) - first_share + 1;
  if (count == 1) return;  // whole: written by its block
  const int32_t live_rows = min(rows, s.request.query_len * p.group_size - s.row_tile * rows);
  const auto place_of = [&](int tile_row) {
    const int row = s.row_tile * rows + tile_row;
    return make_int2(s.request.query_start + row / p.group_size, s.kv_head * p.group_size + row % p.group_size);
  };
  const auto from_of = [&](int tile_row) {
    const auto row_of = [&s, &p, first_share, shares, rows, tile_row](int i) -> int64_t {
      if (s.total < shares) {  // else no range is empty
        const uint32_t begin = static_cast<uint32_t>((first_share + i) * s.total),
                       width = static_cast<uint32_t>(shares);
        if (begin / width == (begin + static_cast<uint32_t>(s.total)) / width) return -1;
      }
      const int block = (first_share + i) * p.num_kv_heads + s.kv_head;
      return static_cast<int64_t>(2 * block + (i == 0 ? 1 : 0)) * rows + tile_row;
    };
    return Partials<decltype(row_of)>{count, row_of};
  };
  merge_rows<T, kWarps>(p, live_rows, count, kWarps == kFewWarps, place_of, from_of);
}

// A grid of `units` x enough blocks for `items` a unit.
dim3 make_grid(int64_t units, int64_t items, int items_a_block, int64_t most_blocks) {
  const int64_t wanted = (items + items_a_block - 1) / items_a_block, most = most_blocks / units;
  return {static_cast<unsigned>(units), static_cast<unsigned>(wanted < most ? wanted : most < 1 ? 1 : most)};
}

template <int kWarps>
cudaError_t launch_balanced(const AttentionParams& p, dim3 grid, int blocks, bool by_segment, int rows, int keys,
                            bool overlap, cudaStream_t stream) {
  return p.dtype == DType::kF16 ? launch_after(reduce_balanced<__half, kWarps>, grid, 32 * kWarps, overlap, stream, p,
                                               blocks, by_segment, rows, keys)
                                : launch_after(reduce_balanced<__nv_bfloat16, kWarps>, grid, 32 * kWarps, overlap,
                                               stream, p, blocks, by_segment, rows, keys);
}

int64_t column_chunks(const AttentionParams& p) { return (p.head_dim_v + kColumns - 1) / kColumns; }

}  // namespace

cudaError_t launch_reduce_fixed(const AttentionParams& p, int64_t num_slots, bool overlap, cudaStream_t stream) {
  const int64_t items = p.num_heads * column_chunks(p);
  const bool together = p.split.max_partitions >= kManyExpected && items < kManyItems;
  const dim3 grid = make_grid(num_slots, items, together ? 1 : kManyWarps, kMostManyBlocks);
  switch (p.dtype) {
    case DType::kF32:
      return launch_after(reduce_fixed<float>, grid, 32 * kManyWarps, overlap, stream, p);
    case DType::kF16:
      return launch_after(reduce_fixed<__half>, grid, 32 * kManyWarps, overlap, stream, p);
    default:
      return launch_after(reduce_fixed<__nv_bfloat16>, grid, 32 * kManyWarps, overlap, stream, p);
  }
}

cudaError_t launch_reduce_balanced(const AttentionParams& p, int32_t blocks, int32_t rows, int32_t tile_keys,
                                   bool overlap, cudaStream_t stream) {
  const int64_t tiles = static_cast<int64_t>(p.num_tokens) * p.group_size / rows + p.num_requests;
  const int64_t segments = tiles * p.num_kv_heads, items = rows * column_chunks(p);
  const bool by_segment = segments < blocks;
  const int64_t units = by_segment ? segments : blocks;
  if (units * kManyBalanced <= blocks)
    return launch_balanced<kManyWarps>(p, make_grid(units, items, 1, kMostManyBlocks), blocks, by_segment, rows,
                                       tile_keys, overlap, stream);
  return launch_balanced<kFewWarps>(p, make_grid(units, items, kFewWarps, kMostFewBlocks), blocks, by_segment, rows,
                                    tile_keys, overlap, stream);
}

}  // namespace sextant::cuda
