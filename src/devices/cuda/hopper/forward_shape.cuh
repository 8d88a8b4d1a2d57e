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

// Named barriers; 0 is __syncthreads. The last two: of the two warps of half a producer.
constexpr int kFirstTurnBarrier = 1, kLeaderBarrier = 4, kFollowerBarrier = 5;

// Keys that boxes bring are on their way for a microsecond; what threads copy or convert takes them twice as long, and
// a third stage hides that where it fits.
//
// Tiles in shared memory, swizzled by 128 bytes. Q: blocks of 64 columns, [rows][128 bytes]. K and V of
// KeySource::kExact: groups of 8 keys, in a group blocks of 64 columns, [8 keys][128 bytes], so that one box brings the
// whole of a page; of the other sources: blocks of 64 columns, [keys][128 bytes], a box each.
template <class T_, int kDk, int kDv, int kKeys_, int kStages_, int kQBuffers_, bool kTurns_, KeySource kSource_,
          int kRows_ = kForwardRows>
struct ForwardShape {
  using T = T_;
  static constexpr int DK = kDk, DV = kDv, kRows = kRows_, kKeys = kKeys_, kStages = kStages_, kQBuffers = kQBuffers_;
  static constexpr bool kTurns = kTurns_;  // the consumers take turns at the matrix unit
  static constexpr KeySource kSource = kSource_;
  static constexpr bool kFp16 = kSource == KeySource::kFp16, kConvert = kSource == KeySource::kConvert || kFp16,
                        kExact = kSource == KeySource::kExact;
  using M = std::conditional_t<kFp16, __half, T>;  // what is multiplied; T: of queries and output
  static constexpr int kColumns = DV % 128 == 0 ? 128 : DV,
                       kBlocks = DV / kColumns;  // O is computed in blocks of columns
  static constexpr int kGroups = kRows / 64;     // consumers, a warpgroup each
  static constexpr int kConsumers = kGroups * 128, kProducers = 128, kThreads = kConsumers + kProducers;
  static constexpr int kHalf = kProducers / 2;  // producer threads that load K; as many load V
  // Of a thread, 64512 of the SM's registers in all, or 65536 with three consumers, whose accumulators then fit
  // without spilling. Producers that convert hold a tile's keys in theirs.
  static constexpr bool kTall = kGroups == 3;
  static constexpr int kTallProducer = kKeys > 96 ? 32 : DV <= 64 ? 80 : 56;
  static constexpr int kProducerRegisters = kTall                  ? kTallProducer
                                            : kConvert && DV < 192 ? 104
                                                                   : 88,
                       kConsumerRegisters = kTall                  ? (512 - kTallProducer) / 3
                                            : kConvert && DV < 192 ? 200
                                                                   : 208;

  static constexpr int kKBlocks = (DK + 63) / 64, kVBlocks = (DV + 63) / 64;  // of 64 columns
  // Bytes from 8 keys to the next 8, and from a block of columns to the next.
  static constexpr int kKGroup = kExact ? kKBlocks * 1024 : 1024, kKColumn = kExact ? 1024 : kKeys * 128;
  static constexpr int kVGroup = kExact ? kVBlocks * 1024 : 1024, kVColumn = kExact ? 1024 : kKeys * 128;
  static constexpr int kQBytes = kRows * kKBlocks * 128, kKBytes = kKeys * kKBlocks * 128,
                       kVBytes = kKeys * kVBlocks * 128;
  static_assert(!kExact || (DK % 64 == 0 && DV % 64 == 0), "a box is whole tokens");
  static constexpr int kKAt = kQBuffers * kQBytes, kVAt = kKAt + kStages * kKBytes, kWorkAt = kVAt + kStages * kVBytes;
  static constexpr int kWorkSlots = 4;  // the producer is at most kQBuffers + 1 items ahead
  static constexpr int kBarrierAt = (kWorkAt + kWorkSlots * static_cast<int>(sizeof(ForwardWork)) + 15) / 16 * 16;
  static constexpr int kNextItemAt = kBarrierAt + 8 * (4 * kStages + 2 * kQBuffers + 1);
  static constexpr int kQScaleAt = (kNextItemAt + 4 + 15) / 16 * 16,
                       kQScaleBytes = kFp16 ? kQBuffers * kRows * 4 : 0;  // float a row
  static constexpr int kSharedBytes = kQScaleAt + kQScaleBytes + 1024;    // the swizzle wants 1 KiB alignment
};

// Barriers in shared memory. `full`: data arrived; `empty`: all consumers are done with it; `landed`: boxes of V that
// the producer itself has something to do with.
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
  __device__ __forceinline__ uint32_t landed() const { return base + 8 * (4 * S::kStages + 2 * S::kQBuffers); }
  __device__ __forceinline__ void init() const {
    constexpr int kConsumerWarps = S::kConsumers / 32;
    barrier_init(landed(), 1);
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

// Byte offset of 16-byte chunk `chunk` of a key in a tile of K or V.
template <class S, bool kValues>
__device__ __forceinline__ uint32_t tile_chunk(int key, int chunk) {
  constexpr int kGroup = kValues ? S::kVGroup : S::kKGroup, kColumn = kValues ? S::kVColumn : S::kKColumn;
  return static_cast<uint32_t>((key >> 3) * kGroup + (chunk >> 3) * kColumn + (key & 7) * 128 +
                               (((chunk & 7) ^ (key & 7)) << 4));
}

// Byte offset of 16-byte chunk `chunk` of a row of Q.
template <int kRows>
__device__ __forceinline__ uint32_t query_chunk(int row, int chunk) {
  return static_cast<uint32_t>((chunk >> 3) * kRows * 128 + row * 128 + (((chunk & 7) ^ (row & 7)) << 4));
}

}  // namespace sextant::cuda
