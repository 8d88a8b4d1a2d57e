// Pairs of blocks, clusters of two, that fill each other's tiles: copies and barrier arrivals across.
#pragma once

#include "devices/cuda/hopper/cluster.cuh"
#include "devices/cuda/hopper/tma.cuh"
#include "devices/cuda/hopper/wgmma.cuh"

namespace sextant::cuda {

// Barriers that other blocks of the cluster arrive at or wait for: initialised before cluster_meet().
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// One arrival at the same barrier of block `rank`. It orders nothing but what has already completed, reads by wgmma: a
// release to the cluster would take 700 cycles.
__device__ __forceinline__ void barrier_arrive_remote(uint32_t barrier, uint32_t rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(remote_address(barrier, rank)) : "memory");
}
// A box of a tensor to the same place in both blocks of a pair; the same barrier of each counts its bytes.
__device__ __forceinline__ void copy_box_to_pair(uint32_t shared, const CUtensorMap* map, int32_t c0, int32_t c1,
                                                 int32_t c2, int32_t c3, int32_t c4, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, "
      "{%2, %3, %4, %5, %6}], [%7], %8;" ::"r"(shared),
      "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4), "r"(barrier), "h"(static_cast<uint16_t>(3))
      : "memory");
}
// Bytes to the L2 cache; their number and the address are multiples of 16.
__device__ __forceinline__ void prefetch_to_l2(const void* global, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes) : "memory");
}

}  // namespace sextant::cuda
