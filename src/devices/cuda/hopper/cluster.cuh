// Thread-block clusters: barriers over all of a cluster's threads, and reads of another block's shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "devices/cuda/kernels/ptx.cuh"

namespace sextant::cuda {

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// What was written to shared memory before the barrier can be read by the whole cluster after it.
__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// The same without an order of memory: a release to the cluster takes 700 cycles.
__device__ __forceinline__ void cluster_meet() {
  asm volatile("barrier.cluster.arrive.relaxed;\nbarrier.cluster.wait;" ::: "memory");
}

// Address of the same place in block `rank`.
__device__ __forceinline__ uint32_t remote_address(uint32_t shared, uint32_t rank) {
  uint32_t remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared), "r"(rank));
  return remote;
}
__device__ __forceinline__ float4 load_remote_float4(uint32_t remote) {
  float4 x;
  asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "r"(remote)
               : "memory");
  return x;
}
__device__ __forceinline__ float2 load_remote_float2(uint32_t remote) {
  float2 x;
  asm volatile("ld.shared::cluster.v2.f32 {%0,%1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(remote) : "memory");
  return x;
}

// Four columns of a row that every block of a cluster has a part of, in the order of the blocks, so that the bits do
// not depend on timing. `state`: where each block has the row's (maximum in log2 units, sum); `part`: its four columns.
struct ClusterRow {
  float max, sum;
  float4 columns;
};
__device__ __forceinline__ ClusterRow merge_cluster_row(uint32_t state, uint32_t part, int size) {
  ClusterRow row = {-INFINITY, 0, make_float4(0, 0, 0, 0)};
#pragma unroll 8
  for (int i = 0; i < size; ++i) row.max = fmaxf(row.max, load_remote_float2(remote_address(state, i)).x);
  const float base = row.max == -INFINITY ? 0.0f : row.max;
#pragma unroll 8
  for (int i = 0; i < size; ++i) {
    const float2 own = load_remote_float2(remote_address(state, i));
    const float4 x = load_remote_float4(remote_address(part, i));
    const float weight = exp2_approx(own.x - base);
    row.sum += weight * own.y;
    row.columns.x += weight * x.x;
    row.columns.y += weight * x.y;
    row.columns.z += weight * x.z;
    row.columns.w += weight * x.w;
  }
  return row;
}

// A cluster of `size` blocks along x.
inline cudaLaunchAttribute cluster_attribute(int size) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(size);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  return attribute;
}

}  // namespace sextant::cuda
