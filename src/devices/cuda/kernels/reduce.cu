// Merges partial attention results: a warp per row, weights from the partial LSEs. Launched so that its blocks may
// start while the attention kernel drains (sm_90), hence the wait at the top: even a block with nothing to do must not
// end before it.
#include "devices/cuda/kernels/launchers.h"
#include "devices/cuda/kernels/softmax.cuh"
#include "devices/cuda/kernels/work_list.cuh"

namespace sextant::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;

// Row `row_of(i)` of partial i, i in [0, count); row_of < 0: nothing there.
template <class T, class RowOf>
__device__ __forceinline__ void merge_row(const AttentionParams& p, int count, RowOf row_of, int32_t token,
                                          int32_t head) {
  const int lane = threadIdx.x & 31;
  float max = -INFINITY, sum = 0;
  for (int i = lane; i < count; i += 32) {
    const int64_t row = row_of(i);
    const float lse = row < 0 ? -INFINITY : p.partial_lse[row] * kLog2E;
    if (lse > max) {
      sum = sum * exp2f(max - lse) + 1.0f;
      max = lse;
    } else if (lse > -INFINITY) {
      sum += exp2f(lse - max);
    }
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other_max = __shfl_xor_sync(0xffffffffu, max, offset),
                other_sum = __shfl_xor_sync(0xffffffffu, sum, offset);
    const float top = fmaxf(max, other_max);
    const float base = top == -INFINITY ? 0.0f : top;
    // Written so that both lanes of a pair compute the same bits.
    const float a = sum * exp2f(max - base), b = other_sum * exp2f(other_max - base);
    sum = (lane & offset) ? b + a : a + b;
    max = top;
  }
  const RowEnd end = finish_row(max, sum, 1.0f, p.sinks, head);
  if (lane == 0) store_lse(p, token, head, end.lse);
  const RowSink<T> sink = output_row<T>(p, token, head);
  const float base = max == -INFINITY ? 0.0f : max;
  for (int d0 = 0; d0 < p.head_dim_v; d0 += 128) {
    const int d = d0 + lane * 4;
    float4 acc = make_float4(0, 0, 0, 0);
    for (int i0 = 0; i0 < count; i0 += 32) {
      const int64_t row = i0 + lane < count ? row_of(i0 + lane) : -1;
      const float weight = row < 0 ? 0.0f : exp2f(p.partial_lse[row] * kLog2E - base) * end.weight;
      const int here = min(32, count - i0);
#pragma unroll 8
      for (int i = 0; i < here; ++i) {
        const float w = __shfl_sync(0xffffffffu, weight, i);
        const int64_t from = __shfl_sync(0xffffffffu, row, i);
        if (w != 0 && d < p.head_dim_v) {
          const float4 x = *reinterpret_cast<const float4*>(p.partial_out + from * p.head_dim_v + d);
          acc.x += w * x.x;
          acc.y += w * x.y;
          acc.z += w * x.z;
          acc.w += w * x.w;
        }
      }
    }
    if (d < p.head_dim_v) {
      sink.store_pair(d, acc.x, acc.y);
      sink.store_pair(d + 2, acc.z, acc.w);
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

template <class T>
__global__ void __launch_bounds__(kThreads) reduce_fixed(const AttentionParams p, int64_t num_slots) {
  wait_for_previous_kernel();
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int64_t slot = index / p.num_heads;
  const int32_t head = static_cast<int32_t>(index % p.num_heads);
  if (slot >= num_slots) return;
  const int b = p.split.compact_slots ? static_cast<int>(slot / p.split.max_query_len)
                                      : find_start(p.query_start_loc, p.num_requests, static_cast<int32_t>(slot));
  const Request r = load_request(p, b);
  const int32_t query =
      static_cast<int32_t>(p.split.compact_slots ? slot % p.split.max_query_len : slot - r.query_start);
  if (!r.active || query >= r.query_len || query < 0) return;
  int32_t size;
  const int32_t count = partition_count(p, r, &size);
  if (count == 1) return;
  const int64_t first = partial_row(p, r, query, head);
  merge_row<T>(p, count, [first](int i) { return first + i; }, r.query_start + query, head);
}

template <class T>
__global__ void __launch_bounds__(kThreads) reduce_balanced(const AttentionParams p, int rows, int keys) {
  wait_for_previous_kernel();
  const int blocks = gridDim.x, block = blockIdx.x;
  const int32_t total = p.tile_starts[p.num_requests];
  const TileRange range = block_range(block, blocks, total);
  if (range.begin == range.end || range.end == total) return;
  const int b = find_start(p.tile_starts, p.num_requests, range.end - 1);
  const Request r = load_request(p, b);
  const TileCounts counts = count_tiles(p, r, rows, keys);
  const int32_t start = p.tile_starts[b], segment = (range.end - 1 - start) / counts.tiles;
  const int32_t first = start + segment * counts.tiles, last = first + counts.tiles - 1;
  if (last < range.end || first < range.begin) return;
  const int last_block = static_cast<int>(((static_cast<int64_t>(last) + 1) * blocks - 1) / total);
  const int row_tile = segment / p.num_kv_heads, kv_head = segment % p.num_kv_heads;
  const int tile_row = blockIdx.y * kWarps + threadIdx.x / 32, row = row_tile * rows + tile_row;
  if (row >= r.query_len * p.group_size) return;
  const int32_t token = r.query_start + row / p.group_size, head = kv_head * p.group_size + row % p.group_size;
  auto row_of = [&](int i) -> int64_t {
    const TileRange other = block_range(block + i, blocks, total);
    if (other.begin == other.end) return -1;
    return static_cast<int64_t>(2 * (block + i) + (i == 0 ? 1 : 0)) * rows + tile_row;
  };
  merge_row<T>(p, last_block - block + 1, row_of, token, head);
}

template <class... Parameters, class... Arguments>
cudaError_t launch_after(void (*kernel)(Parameters...), dim3 grid, bool overlap, cudaStream_t stream,
                         Arguments... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace

cudaError_t launch_reduce_fixed(const AttentionParams& p, int64_t num_slots, bool overlap, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((num_slots * p.num_heads + kWarps - 1) / kWarps));
  switch (p.dtype) {
    case DType::kF32:
      return launch_after(reduce_fixed<float>, grid, overlap, stream, p, num_slots);
    case DType::kF16:
      return launch_after(reduce_fixed<__half>, grid, overlap, stream, p, num_slots);
    default:
      return launch_after(reduce_fixed<__nv_bfloat16>, grid, overlap, stream, p, num_slots);
  }
}

cudaError_t launch_reduce_balanced(const AttentionParams& p, const StreamPlan& plan, int32_t tile_keys, bool overlap,
                                   cudaStream_t stream) {
  const dim3 grid(plan.grid.x, (plan.rows + kWarps - 1) / kWarps);
  return p.dtype == DType::kF16
             ? launch_after(reduce_balanced<__half>, grid, overlap, stream, p, plan.rows, tile_keys)
             : launch_after(reduce_balanced<__nv_bfloat16>, grid, overlap, stream, p, plan.rows, tile_keys);
}

}  // namespace sextant::cuda
