// Tile sizes and shared memory of the forward kernel, and what its two halves tell each other.
#pragma once

#include "devices/cuda/hopper/key_boxes.cuh"
#include "devices/cuda/hopper/wgmma.cuh"
#include "devices/cuda/kernels/key_rows.cuh"
#include "devices/cuda/kernels/softmax.cuh"

namespace sextant::cuda {

// One row tile of one KV head (and partition): rows row0.. of a request against keys [begin, end), in key tiles that
// start at `first` and are worked on from the last to the first.
struct ForwardWork {
  int32_t tiles;  // key tiles; kNoMoreWork: the end
  int32_t first, begin, end;
  int32_t data_end;  // keys up to here are there, though not all may be seen
  int32_t row0, num_rows, kv_head, part_index;
  Request request;
  Partition part;
};
constexpr int32_t kNoMoreWork = -1;

// Named barriers; 0 is __syncthreads.
constexpr int kFirstTurnBarrier = 1, kLeaderBarrier = 3;

template <class T_, int kDk, int kDv, int kKeys_, int kQBuffers_, bool kTurns_, bool kConvert_>
struct ForwardShape {
  using T = T_;
  static constexpr int DK = kDk, DV = kDv, kRows = 128, kKeys = kKeys_, kStages = 2, kQBuffers = kQBuffers_;
  static constexpr bool kTurns = kTurns_;      // the consumers take turns at the matrix unit
  static constexpr bool kConvert = kConvert_;  // keys pass through registers, whatever their type
  static constexpr int kColumns = DV == 64 ? 64 : 128, kBlocks = DV / kColumns;  // O is computed in blocks of columns
  static constexpr int kConsumers = 256, kProducers = 128, kThreads = kConsumers + kProducers;
  static constexpr int kHalf = kProducers / 2;  // producer threads that load K; as many load V

  static constexpr int kQBytes = kRows * DK * 2, kKBytes = kKeys * DK * 2, kVBytes = kKeys * DV * 2;
  static constexpr int kKAt = kQBuffers * kQBytes, kVAt = kKAt + kStages * kKBytes, kWorkAt = kVAt + kStages * kVBytes;
  static constexpr int kWorkSlots = 4;  // the producer is at most kQBuffers + 1 items ahead
  static constexpr int kBarrierAt = (kWorkAt + kWorkSlots * static_cast<int>(sizeof(ForwardWork)) + 15) / 16 * 16;
  static constexpr int kNextItemAt = kBarrierAt + 8 * (4 * kStages + 2 * kQBuffers);
  static constexpr int kSharedBytes = kNextItemAt + 16 + 1024;  // the swizzle wants 1 KiB alignment
};

// Barriers in shared memory. `full`: data arrived; `empty`: all consumers are done with it.
template <class S>
struct ForwardBarriers {
  uint32_t base;
  __device__ __forceinline__ uint32_t k_full(int stage) const { return base + 8 * stage; }
  __device__ __forceinline__ uint32_t k_empty(int stage) const { return base + 8 * (S::kStages + stage); }
  __device__ __forceinline__ uint32_t v_full(int stage) const { return base + 8 * (2 * S::kStages + stage); }
  __device__ __forceinline__ uint32_t v_empty(int stage) const { return base + 8 * (3 * S::kStages + stage); }
  __device__ __forceinline__ uint32_t q_full(int buffer) const { return base + 8 * (4 * S::kStages + buffer); }
  __device__ __forceinline__ uint32_t q_empty(int buffer) const {
    return base + 8 * (4 * S::kStages + S::kQBuffers + buffer);
  }
  __device__ __forceinline__ void init() const {
    constexpr int kConsumerWarps = S::kConsumers / 32;
    for (int i = 0; i < S::kStages; ++i) {
      barrier_init(k_full(i), S::kHalf);
      barrier_init(v_full(i), S::kHalf);
      barrier_init(k_empty(i), kConsumerWarps);
      barrier_init(v_empty(i), kConsumerWarps);
    }
    for (int i = 0; i < S::kQBuffers; ++i) {
      barrier_init(q_full(i), S::kHalf + 1);                     // the work, and Q by half a producer
      barrier_init(q_empty(i), kConsumerWarps + S::kHalf / 32);  // and the half that loads V
    }
  }
};

// A position in a ring of kSize buffers.
template <int kSize>
struct RingPosition {
  uint32_t count = 0;
  __device__ __forceinline__ int index() const { return static_cast<int>(count % kSize); }
  __device__ __forceinline__ uint32_t full_parity() const { return (count / kSize) & 1; }
  __device__ __forceinline__ uint32_t empty_parity() const { return full_parity() ^ 1; }  // passes at once at first
};

// Byte offset of 16-byte chunk `chunk` of a row of Q.
template <int kRows>
__device__ __forceinline__ uint32_t query_chunk(int row, int chunk) {
  return static_cast<uint32_t>((chunk >> 3) * kRows * 128 + row * 128 + (((chunk & 7) ^ (row & 7)) << 4));
}

}  // namespace sextant::cuda
