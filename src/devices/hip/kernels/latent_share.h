// How a wave of the MLA kernel brings its share of a tile, 8 consecutive latent rows, by way of registers: all loads of
// a tile are on their way while the tile before is multiplied, and one wait takes them in.
#pragma once

#include <type_traits>

#include "devices/hip/kernels/block_divisor.h"
#include "devices/hip/kernels/key_tile.h"
#include "devices/hip/kernels/lane_memory.h"

namespace sextant::hip {

constexpr int kShareRows = 8;

// `kDim`: of a latent row in shared memory, whose rows are kStride elements of 16 bits.
template <class T, bool kFp8, int kDim, int kStride>
struct LatentShare {
  static constexpr int kElement = kFp8 ? 1 : 2, kChunks = kDim / 8, kLoads = kShareRows * kChunks / 64;
  static_assert(kShareRows * kChunks % 64 == 0);
  using Words = typename std::conditional<kFp8, u32x2, u32x4>::type;
  Words words[kLoads];
  uint32_t at[kLoads];  // bytes from the share's first row in memory
  int32_t to[kLoads];   // bytes from the tile in shared memory
  const char* rows;
  uint32_t block_bytes, token_bytes;
  const int32_t* table;
  int32_t position, id;  // of the share to be asked for next

  SEXTANT_DEVICE_MEMBER void start(const AttentionParams& p, const WorkItem& item, int32_t key0) {
    rows = static_cast<const char*>(p.cache_k);
    block_bytes = kElement * static_cast<uint32_t>(p.k_addr.block_stride);
    token_bytes = kElement * static_cast<uint32_t>(p.k_addr.token_outer_stride);
    table = p.block_table + item.request.index * p.block_table_stride;
    position = key0 + wave_index() * kShareRows;
    SEXTANT_UNROLL
    for (int j = 0; j < kLoads; ++j) {
      const int unit = lane_index() + 64 * j, row = unit / kChunks, chunk = unit % kChunks;
      at[j] = 8 * chunk < p.head_dim ? row * token_bytes + static_cast<uint32_t>(chunk * p.k_chunk_stride * kElement)
                                     : kOutside;
      to[j] = ((wave_index() * kShareRows + row) * kStride + 8 * chunk) * 2;
    }
    find_block(p, item);
  }
  SEXTANT_DEVICE_MEMBER void find_block(const AttentionParams& p, const WorkItem& item) {
    id = scalar_load(table + block_of(p.block_divisor, min(position, item.key_hi - 1)));
  }
  // Asks for the share of the next tile of `keys`. `kFirst`: rows may be missing at its front.
  template <bool kFirst>
  SEXTANT_DEVICE_MEMBER void fetch(const AttentionParams& p, const WorkItem& item, int keys) {
    const uint32_t block = min(static_cast<uint32_t>(id), static_cast<uint32_t>(p.num_blocks - 1));
    const auto token = static_cast<uint32_t>(position) - block_of(p.block_divisor, position) * p.block_size;
    const int32_t count = max(min(item.key_hi - position, kShareRows), 0);
    // Rows past the end lie past the window's end: a row is not longer than the way to the next.
    const Window window =
        make_window(rows + (static_cast<uint64_t>(block) * block_bytes + static_cast<uint64_t>(token) * token_bytes),
                    static_cast<uint32_t>(count) * token_bytes);
    SEXTANT_UNROLL
    for (int j = 0; j < kLoads; ++j) {
      const bool exists = !kFirst || position + (lane_index() + 64 * j) / kChunks >= item.key_lo;
      words[j] = load_words<Words>(window, exists ? at[j] : kOutside, 0);
    }
    position += keys;
    find_block(p, item);
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
