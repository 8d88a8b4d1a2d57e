// A tile of 32 latent rows of 16 bits as loads that go straight to shared memory leave it (gfx950): rows one after
// another, their chunks of 16 bytes permuted by row, eight at a time, so that neither reads of rows (K) nor transposed
// reads (V) meet in a bank. A load brings 64 chunks in a row of places, so the permutation is in where a lane reads.
#pragma once

#include "devices/hip/kernels/latent_rows.h"

namespace sextant::hip {

struct LatentTile {
  static constexpr int kDim = 576, kKeys = 32, kChunks = kDim / 8, kRowBytes = kDim * 2;
  static constexpr int kBytes = kKeys * kRowBytes, kShareBytes = kShareRows * kRowBytes, kLoads = kShareBytes / 1024;

  // Rows are 1152 bytes apart, so that two in a row differ by half of the 64 banks. Eight rows in a row move by pairs
  // of chunks, which a transposed read takes; rows 0 to 3 and 12 to 15 fill the pairs that the others leave.
  static SEXTANT_DEVICE_MEMBER int swizzle(int row) {
    const int pair = row >> 1 & 7;
    return 2 * ((pair ^ (pair >> 1 & 2)) & 3) + (pair >> 2);
  }
};

// A wave's share of a tile on its way.
struct LatentSend : LatentRows<2> {
  uint32_t at[LatentTile::kLoads];  // bytes from the share's first row in memory

  SEXTANT_DEVICE_MEMBER void start(const AttentionParams& p, const WorkItem& item, int32_t key0) {
    LatentRows<2>::start(p, item, key0);
    SEXTANT_UNROLL
    for (int j = 0; j < LatentTile::kLoads; ++j) {
      const int unit = lane_index() + 64 * j, row = unit / LatentTile::kChunks;
      const int swizzle = LatentTile::swizzle(wave_index() * kShareRows + row);
      at[j] = chunk_at(p, row, unit % LatentTile::kChunks ^ swizzle);
    }
  }
  // `kFirst`: rows may be missing at its front.
  template <bool kFirst>
  SEXTANT_DEVICE_MEMBER void send(const AttentionParams& p, const WorkItem& item, char* tile) {
    const Window from = window(p);
    SEXTANT_UNROLL
    for (int j = 0; j < LatentTile::kLoads; ++j) {
      const bool exists = !kFirst || position + (lane_index() + 64 * j) / LatentTile::kChunks >= item.key_lo;
      load_to_shared(from, exists ? at[j] : kOutside, 0, tile + wave_index() * LatentTile::kShareBytes + 1024 * j);
    }
    advance(p, LatentTile::kKeys);
  }
};

// Keys 16 `subtile` to + 16 as operands: step j holds dims 32 j + 8 (lane / 16) to + 8 of key lane % 16.
struct LatentKeys {
  int even, odd;  // bytes in a tile, of steps first + 0, 2, ... and first + 1, 3, ...

  SEXTANT_DEVICE_MEMBER void start(int subtile, int first) {
    const int row = 16 * subtile + lane_index() % 16;
    const int at = row * LatentTile::kRowBytes + (lane_index() / 16 ^ LatentTile::swizzle(row)) * 16;
    even = (at ^ (first % 2 * 64)) + first / 2 * 128;
    odd = (at ^ ((first + 1) % 2 * 64)) + (first + 1) / 2 * 128;
  }
  template <class T>
  SEXTANT_DEVICE_MEMBER Fragment<T> read(const char* tile, int step) const {
    return load_fragment<T>(reinterpret_cast<const T*>(tile + (step % 2 == 0 ? even : odd) + step / 2 * 128));
  }
};

// V^T of 16 columns from 128 `wave` + 16 n on: a lane holds column lane % 16 of keys 4 (lane / 16) to + 4, and of those
// 16 further on.
struct LatentValues {
  int first;  // bytes in a tile

  SEXTANT_DEVICE_MEMBER void start(int wave) {
    const int lane = lane_index() % 16, row = 4 * (lane_index() / 16) + lane / 4;
    first = row * LatentTile::kRowBytes + 256 * wave + ((lane % 4 / 2) ^ LatentTile::swizzle(row)) * 16 + lane % 2 * 8;
  }
  template <class T>
  SEXTANT_DEVICE_MEMBER Fragment<T> read(const char* tile, int n) const {
    const char* from = tile + (first ^ (n % 4 * 32)) + n / 4 * 128;
    const u32x2 a = read_transposed(from), b = read_transposed(from + 16 * LatentTile::kRowBytes);
    return {u32x4{a[0], a[1], b[0], b[1]}};
  }
};

}  // namespace sextant::hip
