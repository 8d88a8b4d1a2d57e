// How a wave of the MLA kernel brings its share of a tile, 8 consecutive latent rows, by way of registers: all loads of
// a tile are on their way while the tile before is multiplied, and one wait takes them in.
#pragma once

#include <type_traits>

#include "devices/hip/kernels/latent_rows.h"

namespace sextant::hip {

// `kDim`: of a latent row in shared memory, whose rows are kStride elements of 16 bits.
template <class T, bool kFp8, int kDim, int kStride>
struct LatentShare : LatentRows<kFp8 ? 1 : 2> {
  using Rows = LatentRows<kFp8 ? 1 : 2>;
  static constexpr int kChunks = kDim / 8, kLoads = kShareRows * kChunks / 64;
  static_assert(kShareRows * kChunks % 64 == 0);
  using Words = typename std::conditional<kFp8, u32x2, u32x4>::type;
  Words words[kLoads];
  uint32_t at[kLoads];  // bytes from the share's first row in memory
  int32_t to[kLoads];   // bytes from the tile in shared memory

  SEXTANT_DEVICE_MEMBER void start(const AttentionParams& p, const WorkItem& item, int32_t key0) {
    Rows::start(p, item, key0);
    SEXTANT_UNROLL
    for (int j = 0; j < kLoads; ++j) {
      const int unit = lane_index() + 64 * j, row = unit / kChunks, chunk = unit % kChunks;
      at[j] = this->chunk_at(p, row, chunk);
      to[j] = ((wave_index() * kShareRows + row) * kStride + 8 * chunk) * 2;
    }
  }
  // Asks for the share of the next tile of `keys`. `kFirst`: rows may be missing at its front.
  template <bool kFirst>
  SEXTANT_DEVICE_MEMBER void fetch(const AttentionParams& p, const WorkItem& item, int keys) {
    const Window window = this->window(p);
    SEXTANT_UNROLL
    for (int j = 0; j < kLoads; ++j) {
      const bool exists = !kFirst || this->position + (lane_index() + 64 * j) / kChunks >= item.key_lo;
      words[j] = load_words<Words>(window, exists ? at[j] : kOutside, 0);
    }
    this->advance(p, keys);
  }
  SEXTANT_DEVICE_MEMBER void put(char* tile) const {
    wait_for_loads<0>();
    SEXTANT_UNROLL
    for (int j = 0; j < kLoads; ++j) {
      u32x4 row;
      if constexpr (kFp8) {
        row = make_fragment<T>(unpack_native_fp8(words[j])).words;
      } else {
        row = words[j];
      }
      *reinterpret_cast<u32x4*>(tile + to[j]) = row;
    }
  }
};

}  // namespace sextant::hip
