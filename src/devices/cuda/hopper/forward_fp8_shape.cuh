// Tile sizes and shared memory of the fp8 forward kernel.
#pragma once

#include "devices/cuda/hopper/forward.cuh"
#include "devices/cuda/hopper/forward_fp8_params.h"

namespace sextant::cuda {

// kDim: head sizes up to this, 64 or 128. Rows of Q, K and V are 128 bytes in shared memory whatever the head size.
template <class T_, int kDim>
struct ForwardFp8Shape {
  using T = T_;                          // of the output
  static constexpr bool kExact = false;  // head sizes may be below the tile's
  static constexpr int DK = kDim, DV = kDim, kRows = 128, kKeys = kFp8TileKeys, kRowBytes = 128;
  static constexpr int kQBuffers = 2;
  static constexpr int kKeyStages = 3, kValueStages = 2, kTransposedStages = 3;
  static constexpr int kColumns = 64, kBlocks = DV / kColumns;  // O is computed in blocks of columns
  static constexpr int kConsumers = 256, kProducers = 128, kThreads = kConsumers + kProducers;
  static constexpr int kHalf = kProducers / 2;  // producer threads that load Q and K; as many load and transpose V

  static constexpr int kQBytes = kRows * kRowBytes, kKBytes = kKeys * kRowBytes, kVBytes = kKeys * kRowBytes,
                       kTBytes = DV * kKeys;
  static constexpr int kKAt = kQBuffers * kQBytes, kVAt = kKAt + kKeyStages * kKBytes,
                       kTAt = kVAt + kValueStages * kVBytes, kWorkAt = kTAt + kTransposedStages * kTBytes;
  static constexpr int kWorkSlots = 4;  // the producer is at most kQBuffers + 1 items ahead
  static constexpr int kBarrierAt = (kWorkAt + kWorkSlots * static_cast<int>(sizeof(ForwardWork)) + 15) / 16 * 16;
  static constexpr int kBarriers = 2 * (kQBuffers + kKeyStages + kValueStages + kTransposedStages);
  static constexpr int kNextItemAt = kBarrierAt + 8 * kBarriers;
  static constexpr int kSharedBytes = kNextItemAt + 16 + 1024;  // the swizzle wants 1 KiB alignment
  static_assert(kKeys == 128, "a row of transposed values is 128 bytes");
};

// Barriers in shared memory. `full`: data arrived; `empty`: all readers are done with it. `v`: V as it lies in the
// cache, read by the half that transposes it; `t`: V transposed, read by the consumers.
template <class S>
struct Fp8Barriers {
  uint32_t base;
  __device__ __forceinline__ uint32_t at(int i) const { return base + 8 * i; }
  __device__ __forceinline__ uint32_t q_full(int i) const { return at(i); }
  __device__ __forceinline__ uint32_t q_empty(int i) const { return at(S::kQBuffers + i); }
  __device__ __forceinline__ uint32_t k_full(int i) const { return at(2 * S::kQBuffers + i); }
  __device__ __forceinline__ uint32_t k_empty(int i) const { return at(2 * S::kQBuffers + S::kKeyStages + i); }
  __device__ __forceinline__ uint32_t v_full(int i) const { return at(kFirstV + i); }
  __device__ __forceinline__ uint32_t v_empty(int i) const { return at(kFirstV + S::kValueStages + i); }
  __device__ __forceinline__ uint32_t t_full(int i) const { return at(kFirstT + i); }
  __device__ __forceinline__ uint32_t t_empty(int i) const { return at(kFirstT + S::kTransposedStages + i); }
  __device__ __forceinline__ void init() const {
    constexpr int kConsumerWarps = S::kConsumers / 32;
    for (int i = 0; i < S::kQBuffers; ++i) {
      barrier_init(q_full(i), S::kHalf + 1);                     // the work, and Q by half a producer
      barrier_init(q_empty(i), kConsumerWarps + S::kHalf / 32);  // and the half that loads V
    }
    for (int i = 0; i < S::kKeyStages; ++i) {
      barrier_init(k_full(i), S::kHalf);
      barrier_init(k_empty(i), kConsumerWarps);
    }
    for (int i = 0; i < S::kValueStages; ++i) {
      barrier_init(v_full(i), S::kHalf);
      barrier_init(v_empty(i), S::kHalf);
    }
    for (int i = 0; i < S::kTransposedStages; ++i) {
      barrier_init(t_full(i), S::kHalf);
      barrier_init(t_empty(i), kConsumerWarps);
    }
  }

 private:
  static constexpr int kFirstV = 2 * (S::kQBuffers + S::kKeyStages), kFirstT = kFirstV + 2 * S::kValueStages;
};

}  // namespace sextant::cuda
