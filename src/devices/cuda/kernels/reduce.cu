// Merges partial attention results: weights from the partial LSEs, then a weighted sum.
//
//   row    up to 512 columns at a time: four floats a lane, one to four times (kChunks)
//   few    up to kAlone partials, or many rows a token: a warp merges its row alone, no barrier
//   many   the warps of a block share out a row's partials and meet in shared memory
//   order  of every sum is fixed by the indices, so that bits do not depend on timing
//
// Time here is latency: what the inputs alone decide is worked out before the wait for the attention kernel, and the
// partial rows are asked for before their weights are known. Launched so that blocks may start while the attention
// kernel drains (sm_90): even a block with nothing to do must not end before the wait. The attention kernel itself is
// launched after everything before it has ended, so its inputs may be read ahead of the wait. All of this code runs
// once, so that it is fetched from memory: what is short is fast.
#include <algorithm>
#include <type_traits>

#include "devices/cuda/kernels/launch.cuh"
#include "devices/cuda/kernels/launchers.h"
#include "devices/cuda/kernels/softmax.cuh"
#include "devices/cuda/kernels/work_list.cuh"

namespace sextant::cuda {
namespace {

constexpr int kColumns = 128;                  // of a chunk: a float4 a lane
constexpr int kFewLoads = 8, kManyLoads = 16;  // of a lane, in flight
constexpr int kAlone = 8;                      // partials that a warp merges alone
constexpr int kFewWarps = 4;                   // of a block when rows have few partials ..
constexpr int kManyWarps = 8;                  // .. and many
// Partials a row of the balanced list from which on a block has one row.
constexpr int kManyBalanced = 12;
// A row longer than this has few partials in flight in one warp; blocks of its attention kernel leave no room on an SM.
constexpr int kWideColumns = 256;
// Blocks, each of which then loops over rows: not many more than run at once (by registers, two of kManyWarps or four
// of kFewWarps an SM), because each begins with a chain of waits.
constexpr int64_t kMostManyBlocks = 264, kMostFewBlocks = 528, kMostFixedBlocks = 792;
// A token's heads from which on a warp merges its row alone, however many partials there are: other warps have rows of
// their own. By the spec alone, as deterministic mode wants it.
constexpr int kManyRows = 64;

// One row to merge and its partials: row_of(i), i in [0, count), is the index of partial i; < 0: nothing there.
template <class RowOf>
struct Partials {
  int32_t count;
  RowOf row_of;
};
// Where a merged row goes, and its first column of those at work.
struct RowPlace {
  int32_t token, head;
  int first_column;
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
__device__ __forceinline__ void add_scaled(float4& acc, float weight, const float4& x) {
  acc.x = fmaf(weight, x.x, acc.x);
  acc.y = fmaf(weight, x.y, acc.y);
  acc.z = fmaf(weight, x.z, acc.z);
  acc.w = fmaf(weight, x.w, acc.w);
}

// What partials come to: their largest LSE in log2 units, the sum of their weights relative to it, and the weighted sum
// of this lane's columns: lane * 4 of each chunk of 128.
template <int kChunks>
struct Merged {
  float max, sum;
  float4 columns[kChunks];
};

// A warp merges partials first, first + step, ..: 32 weights at a time, a lane each, which also knows where the
// partial's row lies.
template <int kChunks, int kLoads, class RowOf>
__device__ __forceinline__ Merged<kChunks> merge_partials(const AttentionParams& p, const Partials<RowOf>& from,
                                                          int first, int step, int first_column) {
  constexpr int kRows = kLoads / kChunks;  // in flight
  static_assert(32 % kRows == 0);
  const int lane = threadIdx.x & 31, d = first_column + lane * 4;
  const auto index_of = [&](int i) -> int64_t {
    const int at = first + i * step;
    return at < from.count ? from.row_of(at) : -1;
  };
  const int mine = (from.count - first + step - 1) / step;  // none: below 1
  // Loads without conditions, so that they are all under way at once: where no row is, the last one's again, which has
  // no weight; where no column is, the first, which is not stored.
  int columns[kChunks];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) columns[c] = d + c * kColumns < p.head_dim_v ? d + c * kColumns : first_column;
  float4 x[kRows][kChunks];
  const auto ask = [&](int64_t row, int j, int last) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int64_t index = max(__shfl_sync(0xffffffffu, row, min(j + i, last)), int64_t{0});
      const float* part = p.partial_out + index * p.head_dim_v;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) x[i][c] = *reinterpret_cast<const float4*>(part + columns[c]);
    }
  };
  const auto lse_of = [&](int64_t row) { return row < 0 ? -INFINITY : p.partial_lse[row] * kLog2E; };
  int64_t row = index_of(lane);
  float lse = lse_of(row);
  float max = lse;
#pragma unroll 1
  for (int i = lane + 32; i < mine; i += 32) max = fmaxf(max, lse_of(index_of(i)));
  Merged<kChunks> result;
  result.sum = 0;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) result.columns[c] = make_float4(0, 0, 0, 0);
  float base = 0;
#pragma unroll 1
  for (int done = 0;;) {
    float weight = 0;
#pragma unroll 1
    for (int j = 0; j < 32 && done + j < mine; j += kRows) {
      ask(row, j, mine - done - 1);
      if (j == 0) {  // the rows are on their way
        if (done == 0) {
          max = warp_max(max);
          base = max == -INFINITY ? 0.0f : max;
        }
        weight = exp2f(lse - base);
        result.sum += weight;
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float of_row = __shfl_sync(0xffffffffu, weight, j + i);
        if (of_row == 0) continue;  // such a row may hold anything; 0 * NaN must not reach the result
#pragma unroll
        for (int c = 0; c < kChunks; ++c) add_scaled(result.columns[c], of_row, x[i][c]);
      }
    }
    done += 32;
    if (done >= mine) break;
    row = index_of(done + lane);
    lse = lse_of(row);
  }
  result.max = mine > 0 ? max : -INFINITY;
  result.sum = warp_sum(result.sum);
  return result;
}

// `max` and `sum`: of the row, in log2 units and relative to `max`.
template <class T, int kChunks>
__device__ __forceinline__ void store_row(const AttentionParams& p, const RowPlace& at, float max, float sum,
                                          const float4 (&columns)[kChunks]) {
  const int lane = threadIdx.x & 31, d0 = at.first_column + lane * 4;
  RowEnd end = finish_row(max, sum, 1.0f, p.sinks, at.head);
  RowSink<T> sink = output_row<T>(p, at.token, at.head);
  join_state(p, at.token, at.head, end, sink);
  if (lane == 0 && at.first_column == 0) store_lse(p, at.token, at.head, end.lse);
  const float w = end.weight;
  if constexpr (sizeof(T) == 2) {
    if (sink.out_f32 == nullptr && sink.state_weight == 0 && (reinterpret_cast<uintptr_t>(sink.out) & 7) == 0) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const int d = d0 + c * kColumns;
        const float4& x = columns[c];
        if (d < p.head_dim_v)
          *reinterpret_cast<uint2*>(sink.out + d) =
              make_uint2(pack_pair<T>(x.x * w, x.y * w), pack_pair<T>(x.z * w, x.w * w));
      }
      return;
    }
  }
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int d = d0 + c * kColumns;
    if (d >= p.head_dim_v) continue;
    sink.store_pair(d, columns[c].x * w, columns[c].y * w);
    sink.store_pair(d + 2, columns[c].z * w, columns[c].w * w);
  }
}

// What the warps of a block have merged of one row.
template <int kChunks>
struct MergeShared {
  float max[kManyWarps], sum[kManyWarps];
  float4 columns[kManyWarps][kChunks][32];
};
// All threads of the block call it for the same row; each chunk is one warp's to end.
template <class T, int kChunks, class RowOf>
__device__ __forceinline__ void merge_together(const AttentionParams& p, const Partials<RowOf>& from,
                                               const RowPlace& at, MergeShared<kChunks>& shared) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  {
    const Merged<kChunks> own = merge_partials<kChunks, kManyLoads>(p, from, warp, kManyWarps, at.first_column);
    if (lane == 0) {
      shared.max[warp] = own.max;
      shared.sum[warp] = own.sum;
    }
#pragma unroll
    for (int c = 0; c < kChunks; ++c) shared.columns[warp][c][lane] = own.columns[c];
  }
  __syncthreads();
  if (warp < kChunks) {
    const float state = lane < kManyWarps ? shared.max[lane] : -INFINITY, max = warp_max(state);
    const float weight = max == -INFINITY ? 0.0f : exp2f(state - max);
    const float sum = warp_sum(lane < kManyWarps ? shared.sum[lane] * weight : 0.0f);
    float4 columns[1] = {make_float4(0, 0, 0, 0)};
#pragma unroll
    for (int w = 0; w < kManyWarps; ++w)
      add_scaled(columns[0], __shfl_sync(0xffffffffu, weight, w), shared.columns[w][warp][lane]);
    store_row<T, 1>(p, {at.token, at.head, at.first_column + warp * kColumns}, max, sum, columns);
  }
  __syncthreads();  // the next row writes what these warps read
}

// Merges `rows` rows that share their number of partials. place_of(row) -> (token, head), from_of(row) -> its Partials.
// A row goes to a warp (`alone`) or to a block. Blocks of kFewWarps have no shared memory: beside two blocks of
// stream_attention an SM has none left, and what has none can start before they end.
template <class T, int kChunks, int kWarps, int kLoads, class PlaceOf, class FromOf>
__device__ __forceinline__ void merge_rows(const AttentionParams& p, int rows, bool alone, PlaceOf place_of,
                                           FromOf from_of) {
  const int spans = ceil_div(p.head_dim_v, kChunks * kColumns), items = rows * spans;
  const auto place = [&](int i) {
    const int2 at = place_of(i / spans);
    return RowPlace{at.x, at.y, i % spans * kChunks * kColumns};
  };
  if (kWarps != kManyWarps || alone) {
#pragma unroll 1
    for (int i = blockIdx.y * kWarps + threadIdx.x / 32; i < items; i += gridDim.y * kWarps) {
      const RowPlace at = place(i);
      const Merged<kChunks> row = merge_partials<kChunks, kLoads>(p, from_of(i / spans), 0, 1, at.first_column);
      store_row<T>(p, at, row.max, row.sum, row.columns);
    }
  } else if constexpr (kWarps == kManyWarps) {
    __shared__ MergeShared<kChunks> shared;
#pragma unroll 1
    for (int i = blockIdx.y; i < items; i += gridDim.y) merge_together<T>(p, from_of(i / spans), place(i), shared);
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

// Grid: (partial slots, groups of rows). Always kManyWarps where any row may have more than kAlone partials: how the
// warps share out a row's partials must not depend on the rest of the batch, because deterministic mode promises that
// no bit does.
template <class T, int kChunks, int kWarps>
__global__ void __launch_bounds__(32 * kWarps, kWarps == kManyWarps ? 2
                                               : kChunks == 4       ? 4
                                                                    : 6) reduce_fixed(const AttentionParams p) {
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
  constexpr int kLoads = kWarps == kFewWarps && kChunks < 4 ? kFewLoads : kManyLoads;
  merge_rows<T, kChunks, kWarps, kLoads>(p, p.num_heads, p.num_heads >= kManyRows || count <= kAlone, place_of,
                                         from_of);
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
// Segment `unit` of [row tiles over all requests, at most][num_kv_heads]. `row_tiles`: of each request at most; 0: the
// batch's row tiles are counted from where queries start. Where requests are few this does not wait for the attention
// kernel.
__device__ __forceinline__ bool find_segment(const AttentionParams& p, int unit, int row_tiles, int rows, int keys,
                                             Segment& s) {
  const int tile = unit / p.num_kv_heads, lane = threadIdx.x & 31;
  const int b = row_tiles > 0 ? tile / row_tiles : find_request(p, tile, rows);
  s.kv_head = unit - tile * p.num_kv_heads;
  s.request = load_request(p, b);
  const TileCounts counts = count_tiles(p, s.request, rows, keys);
  const auto first_tile = static_cast<int>(static_cast<int64_t>(s.request.query_start) * p.group_size / rows) + b;
  s.row_tile = tile - (row_tiles > 0 ? b * row_tiles : first_tile);
  int32_t start;
  if (p.num_requests <= 32) {  // cheaper than to wait for the attention kernel's list
    const int32_t places = lane < p.num_requests ? places_of_request(p, load_request(p, lane), rows, keys) : 0;
    start = __reduce_add_sync(0xffffffffu, lane < b ? places : 0);
    s.total = __reduce_add_sync(0xffffffffu, places);
  } else {
    wait_for_previous_kernel();
    start = p.tile_starts[b];
    s.total = p.tile_starts[p.num_requests];
  }
  s.first = start + s.row_tile * (counts.tiles + p.list_overhead) + p.list_overhead;
  s.last = s.first + counts.tiles - 1;
  return s.request.active && s.row_tile >= 0 && s.row_tile < counts.row_tiles;
}

// What the grid of reduce_balanced stands for: segments, or where there are more of them than blocks of the attention
// kernel, those blocks; times groups of rows.
struct ListUnits {
  int32_t blocks;  // of the attention kernel
  bool by_segment;
  int32_t row_tiles;   // find_segment
  int32_t rows, keys;  // of a tile
};
template <class T, int kChunks, int kWarps>
__global__ void __launch_bounds__(32 * kWarps, kWarps == kFewWarps ? 4 : 2)
    reduce_balanced(const AttentionParams p, const ListUnits units) {
  Segment s;
  const int shares = units.blocks / p.num_kv_heads, rows = units.rows;
  const bool found = units.by_segment ? find_segment(p, blockIdx.x, units.row_tiles, rows, units.keys, s)
                                      : find_segment_of_block(p, blockIdx.x, shares, rows, units.keys, s);
  const auto share_of = [&](int32_t place) {  // that holds it
    return static_cast<int>(((static_cast<int64_t>(place) + 1) * shares - 1) / s.total);
  };
  const int first_share = found ? share_of(s.first) : 0, count = found ? share_of(s.last) - first_share + 1 : 1;
  wait_for_previous_kernel();
  if (count == 1) return;  // nothing there, or whole: written by its block
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
  // In turns of loads, one row after the other: by warps and by blocks, which meet besides.
  const int loads = kManyLoads / kChunks, blocks = static_cast<int>(gridDim.y);
  const bool alone = ceil_div(live_rows, blocks * kWarps) * ceil_div(count, loads) <=
                     ceil_div(live_rows, blocks) * (1 + ceil_div(count, kWarps * loads));
  merge_rows<T, kChunks, kWarps, kManyLoads>(p, live_rows, alone, place_of, from_of);
}

// A grid of `units` x enough blocks for `rows` a unit.
dim3 make_grid(int64_t units, int64_t rows, int rows_a_block, int64_t most_blocks) {
  const int64_t wanted = ceil_div(rows, rows_a_block), most = most_blocks / units;
  return {static_cast<unsigned>(units), static_cast<unsigned>(wanted < most ? wanted : most < 1 ? 1 : most)};
}

// run(chunks of 128 columns that a warp takes at once)
template <class Run>
cudaError_t with_chunks(int32_t head_dim_v, const Run& run) {
  if (head_dim_v <= kColumns) return run(std::integral_constant<int, 1>());
  if (head_dim_v <= 2 * kColumns) return run(std::integral_constant<int, 2>());
  return run(std::integral_constant<int, 4>());
}

template <class T, int kWarps>
cudaError_t launch_balanced(const AttentionParams& p, dim3 grid, const ListUnits& units, bool overlap,
                            cudaStream_t stream) {
  return with_chunks(p.head_dim_v, [&](auto chunks) {
    constexpr int kChunks = kWarps == kFewWarps ? std::min<int>(chunks, 2) : chunks;  // few: never wide
    return launch_after(reduce_balanced<T, kChunks, kWarps>, grid, 32 * kWarps, overlap, stream, p, units);
  });
}
template <class T>
cudaError_t launch_fixed(const AttentionParams& p, int64_t slots, bool overlap, cudaStream_t stream) {
  return with_chunks(p.head_dim_v, [&](auto chunks) {
    if (p.split.max_partitions <= kAlone)
      return launch_after(reduce_fixed<T, chunks, kFewWarps>,
                          make_grid(slots, p.num_heads, kFewWarps, kMostFixedBlocks), 32 * kFewWarps, overlap, stream,
                          p);
    const int rows_a_block = p.num_heads < kManyRows ? 1 : kManyWarps;
    return launch_after(reduce_fixed<T, chunks, kManyWarps>,
                        make_grid(slots, p.num_heads, rows_a_block, kMostManyBlocks), 32 * kManyWarps, overlap, stream,
                        p);
  });
}

}  // namespace

cudaError_t launch_reduce_fixed(const AttentionParams& p, int64_t num_slots, bool overlap, cudaStream_t stream) {
  switch (p.dtype) {
    case DType::kF32:
      return launch_fixed<float>(p, num_slots, overlap, stream);
    case DType::kF16:
      return launch_fixed<__half>(p, num_slots, overlap, stream);
    default:
      return launch_fixed<__nv_bfloat16>(p, num_slots, overlap, stream);
  }
}

cudaError_t launch_reduce_balanced(const AttentionParams& p, const ListTiles& list, bool overlap, cudaStream_t stream) {
  const int64_t own_rows = static_cast<int64_t>(list.query_len) * p.group_size;
  const auto of_request = static_cast<int32_t>(ceil_div(own_rows, list.rows));
  const int64_t counted = static_cast<int64_t>(p.num_tokens) * p.group_size / list.rows + p.num_requests;
  const int64_t equal = static_cast<int64_t>(p.num_requests) * of_request;
  const int64_t segments = std::min(counted, equal) * p.num_kv_heads;
  const bool by_segment = segments < list.blocks;
  const int64_t units = by_segment ? segments : list.blocks;
  const ListUnits at = {list.blocks, by_segment, equal <= counted ? of_request : 0, list.rows, list.keys};
  const bool many = units * kManyBalanced <= list.blocks || p.head_dim_v > kWideColumns;
  const dim3 grid = many ? make_grid(units, std::min<int64_t>(list.rows, own_rows), 1, kMostManyBlocks)
                         : make_grid(units, std::min<int64_t>(list.rows, own_rows), kFewWarps, kMostFewBlocks);
  if (p.dtype == DType::kF16)
    return many ? launch_balanced<__half, kManyWarps>(p, grid, at, overlap, stream)
                : launch_balanced<__half, kFewWarps>(p, grid, at, overlap, stream);
  return many ? launch_balanced<__nv_bfloat16, kManyWarps>(p, grid, at, overlap, stream)
              : launch_balanced<__nv_bfloat16, kFewWarps>(p, grid, at, overlap, stream);
}

}  // namespace sextant::cuda
