// Tensor-map copies (TMA) and the barrier operations that go with asynchronous copies.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "devices/cuda/hopper/wgmma.cuh"

namespace sextant::cuda {

__device__ __forceinline__ void prefetch_tensor_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

__device__ __forceinline__ void prefetch_to_l1(const void* global) {
  asm volatile("prefetch.global.L1 [%0];" ::"l"(global) : "memory");
}

// A box of a tensor to shared memory; `barrier` counts its bytes. Elements outside the tensor become zero.
__device__ __forceinline__ void copy_box(uint32_t shared, const CUtensorMap* map, int32_t c0, int32_t c1, int32_t c2,
                                         int32_t c3, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
      "[%6];" ::"r"(shared),
      "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void copy_box(uint32_t shared, const CUtensorMap* map, int32_t c0, int32_t c1, int32_t c2,
                                         int32_t c3, int32_t c4, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5, "
      "%6}], [%7];" ::"r"(shared),
      "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4), "r"(barrier)
      : "memory");
}

// One arrival that also announces `bytes` of asynchronous copies.
__device__ __forceinline__ void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// All of a barrier's `arrivals`, by one thread, announcing `bytes` of asynchronous copies.
__device__ __forceinline__ void barrier_arrive_all(uint32_t barrier, int arrivals, uint32_t bytes) {
  barrier_arrive_expect(barrier, bytes);
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(arrivals - 1) : "memory");
}
// One arrival that happens when all cp.async of this thread so far have landed.
__device__ __forceinline__ void barrier_arrive_after_copies(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

// Named barriers of parts of a block.
__device__ __forceinline__ void named_wait(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// The wait of `threads` for a buffer that one of them then announces for all. A wait sees only whether the phase before
// the present one is over: a warp that came so late that another phase had passed would wait for ever, because nobody
// waits for its arrival. So all of them see the phase before any goes on. (Without this a kernel did not end once in
// some ten thousand launches; docs/dev/gpu-log.md, run 25.)
__device__ __forceinline__ void wait_together(uint32_t barrier, uint32_t parity, int id, int threads) {
  barrier_wait(barrier, parity);
  named_wait(id, threads);
}

}  // namespace sextant::cuda
