// MLA decode of few rows by clusters: the blocks of a cluster divide a request's tiles evenly and merge their rows in
// shared memory, so that there are no partial results in memory and no second kernel.
#pragma once

#include "devices/cuda/hopper/cluster.cuh"
#include "devices/cuda/kernels/softmax.cuh"
#include "devices/cuda/kernels/work_list.cuh"

namespace sextant::cuda {

constexpr int kMlaMergeColumns = 512 + 4;  // floats of a row that waits; so a fragment's stores hit different banks

// This block's tiles of its cluster's partition of a request: an even share, in one run. S: rows and keys of a tile.
template <class S>
__device__ __forceinline__ BlockWork find_cluster_share(const AttentionParams& p, TileCursor* cursor, Partition* part) {
  const int cluster = static_cast<int>(blockIdx.z), index = cluster % p.split.max_partitions;
  cursor->enter(p, cluster / p.split.max_partitions, S::kRows, S::kKeys);
  Request& r = cursor->request;
  *part = find_partition(p, r, index);
  r.active = r.active && index < part->count;
  const int32_t first = (part->begin - r.key_lo) / S::kKeys;
  const int32_t tiles = max(1, ceil_div(part->end - r.key_lo, S::kKeys) - first);
  const TileRange share = block_range(static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x), tiles);
  cursor->row_tile = cursor->kv_head = 0;
  cursor->tile = first + share.begin;
  return {r.active ? share : TileRange{0, 0}, 0};
}

// The blocks' rows meet: each block ends its share of them. Between two cluster barriers, by `threads` threads.
// merged: [rows][kMlaMergeColumns], relative to the row's maximum; states: a row's maximum (log2 units) and sum.
template <class T>
__device__ __forceinline__ void mla_write_cluster(const AttentionParams& p, const Request& r, const Partition& part,
                                                  const float* merged, const float2* states, int threads) {
  const int size = static_cast<int>(gridDim.x), rank = static_cast<int>(blockIdx.x);
  const uint32_t columns = shared_address(merged), ends = shared_address(states);
  const float v_scale = value_scale(p, 0);
  constexpr int kUnits = 512 / 4;
  for (int u = static_cast<int>(threadIdx.x) * size + rank; u < r.query_len * p.group_size * kUnits;
       u += threads * size) {
    const int row = u / kUnits, column = u % kUnits * 4, query = row / p.group_size, head = row - query * p.group_size;
    const ClusterRow all = merge_cluster_row(ends + row * 8, columns + (row * kMlaMergeColumns + column) * 4, size);
    float weight;
    const RowSink<T> sink = end_row<T>(p, r, part, static_cast<int>(blockIdx.z) % p.split.max_partitions, query, head,
                                       all.max, all.sum, v_scale, column == 0, &weight);
    sink.store_pair(column, all.columns.x * weight, all.columns.y * weight);
    sink.store_pair(column + 2, all.columns.z * weight, all.columns.w * weight);
  }
}

}  // namespace sextant::cuda
