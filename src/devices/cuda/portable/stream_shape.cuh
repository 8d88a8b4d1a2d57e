// What an instantiation of stream_attention knows at compile time: types, tile sizes, and where a chunk of 16 bytes
// lies in a warp's tile of keys or values.
#pragma once

#include "devices/cuda/kernels/convert.cuh"
#include "devices/cuda/kernels/ptx.cuh"
#include "devices/cuda/portable/stream_sizes.h"

namespace sextant::cuda {

enum class KvBits : uint8_t { k16, kE4M3, kE5M2 };

// How values lie in the cache and in shared memory.
enum class ValueOrder : uint8_t {
  kDims,    // 16 bytes hold dims of one token: a tile is [keys][dims]
  kTokens,  // 16 bytes hold tokens of one dim (split-K and shuffled layouts): a tile is [dims][keys]
};

// kRoom_: the shared memory that a block may have.
template <class Tq_, KvBits kBits_, int kDim_, int kRowTiles_, ValueOrder kOrder_ = ValueOrder::kDims,
          SharedRoom kRoom_ = SharedRoom::kLarge>
struct StreamShape {
  using Tq = Tq_;  // queries and output
  static constexpr KvBits kBits = kBits_;
  using T = std::conditional_t<kBits_ == KvBits::k16, Tq_, __half>;  // operands of the products
  static constexpr bool kFp8 = kBits != KvBits::k16;
  static constexpr bool kTokens = kOrder_ == ValueOrder::kTokens;
  static constexpr int kElement = kFp8 ? 1 : 2, kVector = 16 / kElement;  // elements of a 16-byte chunk
  static constexpr int kDim = kDim_, DV = kDim_, kRowTiles = kRowTiles_, kRows = 16 * kRowTiles_;
  static constexpr int kRowBytes = kDim * kElement, kChunks = kRowBytes / 16;
  static constexpr SharedRoom kRoom = kRoom_;
  static constexpr StreamSizes kSizes = stream_sizes(kRowBytes, kDim, kRoom);
  static constexpr int kWarps = kSizes.warps, kThreads = kWarps * 32;
  static constexpr int kKeys = kSizes.warp_keys;
  static constexpr int kRuns = kKeys / kVector;  // chunks of one dim's tokens in a tile
  static constexpr int kTileKeys = kWarps * kKeys;
  static constexpr int kStages = kSizes.stages, kStageBytes = kSizes.stage_bytes, kRingBytes = kSizes.ring_bytes;
  static constexpr int kMergeBytes = kSizes.merge_bytes, kSharedBytes = kSizes.shared_bytes;
  static constexpr int kBlocksPerSm = kDim == 256 ? 1 : 2;
  // Accumulators, queries and scores of 32 rows of 128 dims or 16 rows of 256 exceed a thread's 255 registers, and what
  // spills leaves L1 for L2, because the ring takes all of L1: these shapes read their queries from shared memory.
  static constexpr bool kSharedQueries = kRowTiles * kDim >= 256;

  // Chunk `chunk` of a key's row, or of a value's row under kDims. Eight rows of one column of chunks hit different
  // banks. fp8 keys are read four chunks of two rows at a time instead.
  static __device__ __forceinline__ uint32_t key_offset(int row, int chunk) {
    if constexpr (kFp8) return row * kRowBytes + ((kRowBytes >= 128 ? chunk ^ ((row & 1) << 2) : chunk) << 4);
    return value_offset(row, chunk);
  }
  static __device__ __forceinline__ uint32_t value_offset(int row, int chunk) {
    constexpr int kShift = kRowBytes == 64 ? 1 : 0, kMask = kRowBytes == 64 ? 3 : 7;
    return static_cast<uint32_t>(row * kRowBytes + ((chunk ^ ((row >> kShift) & kMask)) << 4));
  }
  // Chunk `run` of a dim's tokens under kTokens: rows of 16, 32 or 64 bytes.
  static __device__ __forceinline__ uint32_t run_offset(int dim, int run) {
    constexpr int kShift = kRuns == 2 ? 2 : 1;
    static_assert(kRuns == 1 || kRuns == 2 || kRuns == 4);
    return static_cast<uint32_t>(dim * kRuns * 16 + ((run ^ ((dim >> kShift) & (kRuns - 1))) << 4));
  }

  // fp8 under kTokens: a thread takes four consecutive tokens of V, so the keys of a pair of 8-key tiles are dealt to
  // the threads by fours. Key of column `column` of key tile n:
  static constexpr bool kKeysByFour = kFp8 && kTokens;
  static __device__ __forceinline__ int key_of(int n, int column) {
    return kKeysByFour ? (n / 2) * 16 + (column / 2) * 4 + (n & 1) * 2 + (column & 1) : n * 8 + column;
  }
  // fp8 under kDims: pairs of dims are separated into two accumulators. Column of element e of accumulator n:
  static constexpr bool kSplitsPairs = kFp8 && !kTokens;
  static __device__ __forceinline__ int column(int n, int e) {
    const int t = threadIdx.x & 3;
    return kSplitsPairs ? (n / 2) * 16 + t * 4 + (e & 1) * 2 + (n & 1) : n * 8 + t * 2 + (e & 1);
  }
  // Dims that a thread of fp8 takes at k step `k` of the first product: four from here. Its 16 bytes of K serve four
  // steps.
  static __device__ __forceinline__ int fp8_dim(int k) { return ((k & ~3) + (threadIdx.x & 3)) * 16 + (k & 3) * 4; }
};

// The four fp8 of a word: 0 and 1, 2 and 3.
template <KvBits kBits>
__device__ __forceinline__ void convert_word(uint32_t word, uint32_t& low, uint32_t& high) {
  if constexpr (kBits == KvBits::kE4M3) {
    low = e4m3_pair_to_f16(word & 0xffff);
    high = e4m3_pair_to_f16(word >> 16);
  } else {  // e5m2 is the upper half of fp16
    low = __byte_perm(word, 0, 0x1404);
    high = __byte_perm(word, 0, 0x3424);
  }
}
// The four fp8 of a word: 0 and 2, 1 and 3.
template <KvBits kBits>
__device__ __forceinline__ void convert_word_apart(uint32_t word, uint32_t& even, uint32_t& odd) {
  if constexpr (kBits == KvBits::kE4M3) {
    even = e4m3_pair_to_f16(__byte_perm(word, 0, 0x4420));
    odd = e4m3_pair_to_f16(__byte_perm(word, 0, 0x4431));
  } else {
    even = __byte_perm(word, 0, 0x2404);
    odd = __byte_perm(word, 0, 0x3414);
  }
}

}  // namespace sextant::cuda
