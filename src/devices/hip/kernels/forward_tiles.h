// Where the tiles of the forward kernel lie: key tiles of a work item in memory, and their rows in shared memory.
#pragma once

#include "devices/hip/kernels/key_tile.h"
#include "devices/hip/kernels/lane_memory.h"

namespace sextant::hip {

constexpr int power_of_two_from(int x) {
  int power = 1;
  while (power < x) power *= 2;
  return power;
}

// `kWide_`: gfx950. `kFp8_`: the cache holds the chip's own fp8.
template <class T_, int kDk, int kDv, int kKeys_, int kWaves_, bool kFp8_, bool kWide_>
struct ForwardShape {
  using T = T_;
  static constexpr int DK = kDk, DV = kDv, kKeys = kKeys_, kSubtiles = kKeys / 32, kWaves = kWaves_;
  static constexpr int kRows = 32 * kWaves, kThreads = 64 * kWaves;
  static constexpr bool kFp8 = kFp8_, kWide = kWide_;
  static constexpr bool kDirect = kWide && !kFp8;  // from memory straight to shared memory
  static constexpr int kElement = kFp8 ? 1 : 2;    // bytes in the cache
  static constexpr bool kHasPacked = !kFp8;        // packed keys may follow, or be all: they have 16 bits
  // Small scores under a cap by softcap_curve.h; not where widening fp8 without instructions for it has the registers.
  // Larger ones by the longer curve; not where scalar registers would come and go in every tile for it.
#if defined(__gfx90a__)
  static constexpr bool kCurves = !kFp8 || DK != 128;
  static constexpr bool kLongCurve = kFp8 || DK > 128 || TypeTraits<T>::kFormat == Format::kF16;
#else
  static constexpr bool kCurves = true, kLongCurve = true;
#endif
  static constexpr int kWaveKeys = kKeys / kWaves;  // keys of a tile that a wave brings: consecutive, in one block
  // 16-byte chunks of a row in shared memory, a power of two.
  static constexpr int kKeyChunks = power_of_two_from(DK / 8), kValueChunks = power_of_two_from(DV / 8);
  static constexpr int kKeyBytes = kKeys * kKeyChunks * 16, kValueBytes = kKeys * kValueChunks * 16;
  static constexpr int kStep = power_of_two_from(kKeyBytes + kValueBytes);  // from buffer to buffer
  // Tiles are asked for this far ahead; one more buffer than that is in use.
  static constexpr int kAhead = kDirect ? 2 : 1, kBuffers = 2 * kAhead;
  static constexpr int kSharedBytes = (kBuffers - 1) * kStep + kKeyBytes + kValueBytes;
  static constexpr int kKeyLoads = kWaveKeys * kKeyChunks / 64;
  // Values by way of registers: a lane brings 4 keys of kDims dims, kValueLoads times, and transposes them.
  static constexpr int kDims = kWaveKeys * kValueChunks * 8 / 256 >= 4 ? 4 : 2;
  static constexpr int kDimGroups = kValueChunks * 8 / kDims;
  static constexpr int kValueLoads = kDirect ? kWaveKeys * kValueChunks / 64 : kWaveKeys / 4 * kDimGroups / 64;
};

// Rows of shared memory: chunks are permuted so that lanes that read together meet all banks. `kPeriod`: chunks of all
// banks, 8 (gfx950: 16).
template <int kChunks, int kPeriod>
SEXTANT_DEVICE int chunk_swizzle(int row) {
  constexpr int kRowsAPeriod = kChunks >= kPeriod ? 1 : kPeriod / kChunks;
  return row / kRowsAPeriod & ((kChunks < kPeriod ? kChunks : kPeriod) - 1);
}
template <class S>
SEXTANT_DEVICE int key_swizzle(int row) {
  return chunk_swizzle<S::kKeyChunks, S::kWide ? 16 : 8>(row);
}
// Values as they come, for transposing reads: of 8 rows two neighbouring chunks each are read together.
template <class S>
SEXTANT_DEVICE int value_swizzle(int row) {
  return 2 * chunk_swizzle<S::kValueChunks / 2, 8>(row);
}
// V^T: rows are dims, chunks 8 keys: chunk 2 i + h holds keys 16 i + 4 h + {0..3, 8..11}, which is what half h of a
// wave multiplies. Lanes read consecutive dims, and write every fourth or every second.
template <class S>
SEXTANT_DEVICE int transposed_swizzle(int dim) {
  return S::kKeys == 64 ? (dim & 7) ^ (dim >> 3 & 3) : dim >> 1 & 3;
}
// Byte of keys 4 quad to + 4 of a dim.
template <class S>
SEXTANT_DEVICE int transposed_place(int dim, int quad) {
  const int chunk = quad / 4 * 2 + (quad & 1);
  return (dim * (S::kKeys / 8) + (chunk ^ transposed_swizzle<S>(dim))) * 16 + (quad >> 1 & 1) * 8;
}
// The same `n` dims, fewer than 4, and `load` loads of the share further on, from the place of a multiple of kDims.
template <class S>
SEXTANT_DEVICE int next_transposed_place(int place, int n, int load) {
  const int quads = load * (64 / S::kDimGroups);  // 0 or 1: a share has two
  return ((place ^ (transposed_swizzle<S>(n) * 16)) ^ (quads * 16)) + n * S::kKeys * 2;
}

// An item's keys by tiles: first those in the cache, from a multiple of 8 on, then packed ones.
struct ForwardTiles {
  int32_t cache_begin, cache_end, cache_tiles;
  int32_t packed_begin, packed_end, tiles;
};
template <class S>
SEXTANT_DEVICE ForwardTiles forward_tiles(const AttentionParams& p, const WorkItem& item, int32_t begin, int32_t end) {
  ForwardTiles f;
  int32_t border = begin;  // the first packed key
  if (!S::kHasPacked || p.origin == KeyOrigin::kCache) border = end;
  if (S::kHasPacked && p.origin == KeyOrigin::kCacheThenPacked) border = max(begin, min(end, item.request.context_len));
  f.cache_begin = begin;
  f.cache_end = border;
  f.packed_begin = border;
  f.packed_end = end;
  const int32_t first = begin & -S::kWaveKeys;
  f.cache_tiles = border > begin ? ceil_div(border - first, S::kKeys) : 0;
  f.tiles = f.cache_tiles + (end > border ? ceil_div(end - border, S::kKeys) : 0);
  return f;
}
// One tile: keys [key0, key0 + kKeys), of which those in [first, end) exist.
struct ForwardTile {
  int32_t key0, first, end;
  bool packed;
};
template <class S>
SEXTANT_DEVICE ForwardTile tile_at(const ForwardTiles& f, int32_t t) {
  const bool packed = S::kHasPacked && t >= f.cache_tiles;
  ForwardTile tile;
  tile.packed = packed;
  tile.first = packed ? f.packed_begin : f.cache_begin;
  tile.end = packed ? f.packed_end : f.cache_end;
  tile.key0 = packed ? f.packed_begin + (t - f.cache_tiles) * S::kKeys : (f.cache_begin & -S::kWaveKeys) + t * S::kKeys;
  return tile;
}

}  // namespace sextant::hip
