// How a wave brings its share of a tile, kWaveKeys consecutive keys, from memory to shared memory.
//
//   where       one block id serves the share; it and all addresses are scalar, and it is asked for a tile ahead
//   16 bits     gfx950: straight to shared memory. Others: K as it lies, V transposed in registers on its way
//   fp8         by registers on every chip: widened on its way
//   outside     keys that do not exist and dims past the head size come as zeros
#pragma once

#include <type_traits>

#include "devices/hip/kernels/block_divisor.h"
#include "devices/hip/kernels/forward_tiles.h"

namespace sextant::hip {

// Where keys come from, the cache or packed rows: the same in all lanes. Packed rows are one block.
struct KeyPlace {
  const char *keys, *values;                                // of the KV head
  uint32_t key_block, value_block, key_token, value_token;  // bytes from one to the next
  const int32_t* table;
  BlockDivisor divisor;
  uint32_t last_block;
  int32_t block_size, row_shift;
  int32_t first, end;  // keys
};
template <class S>
SEXTANT_DEVICE KeyPlace key_place(const AttentionParams& p, const WorkItem& item, const ForwardTiles& tiles,
                                  bool packed) {
  KeyPlace a;
  if (packed) {
    a.keys = static_cast<const char*>(p.packed_k) + 2 * item.kv_head * p.packed_k_head_stride;
    a.values = static_cast<const char*>(p.packed_v) + 2 * item.kv_head * p.packed_v_head_stride;
    a.key_block = a.value_block = 0;
    a.key_token = 2 * static_cast<uint32_t>(p.packed_k_token_stride);
    a.value_token = 2 * static_cast<uint32_t>(p.packed_v_token_stride);
    a.table = p.seq_lens;  // something to read: its word is not used
    a.divisor = {0, 0};
    a.last_block = 0;
    a.block_size = 0;
    a.row_shift = item.request.packed_start - item.request.first_packed;
    a.first = tiles.packed_begin;
    a.end = tiles.packed_end;
  } else {
    a.keys = static_cast<const char*>(p.cache_k) + S::kElement * item.kv_head * p.k_addr.head_stride;
    a.values = static_cast<const char*>(p.cache_v) + S::kElement * item.kv_head * p.v_addr.head_stride;
    a.key_block = S::kElement * static_cast<uint32_t>(p.k_addr.block_stride);
    a.value_block = S::kElement * static_cast<uint32_t>(p.v_addr.block_stride);
    a.key_token = S::kElement * static_cast<uint32_t>(p.k_addr.token_outer_stride);
    a.value_token = S::kElement * static_cast<uint32_t>(p.v_addr.token_outer_stride);
    a.table = p.block_table + item.request.index * p.block_table_stride;
    a.divisor = p.block_divisor;
    a.last_block = static_cast<uint32_t>(p.num_blocks - 1);
    a.block_size = p.block_size;
    a.row_shift = 0;
    a.first = tiles.cache_begin;
    a.end = tiles.cache_end;
  }
  return a;
}

// Id of the block of `position`, as the table has it.
SEXTANT_DEVICE int32_t block_id(const KeyPlace& a, int32_t position) {
  return scalar_load(a.table + block_of(a.divisor, min(position, a.end - 1)));
}

// A lane's offsets into a share: in memory and in shared memory.
template <class S>
struct ShareLanes {
  int32_t key_row, value_row;
  uint32_t key[S::kDirect ? S::kKeyLoads : 1], value[S::kValueLoads];
  int32_t key_to, value_to;
};

template <class S, bool kSwizzled, int kChunks, int kLoads, class Swizzle>
SEXTANT_DEVICE void row_offsets(int wave, uint32_t token_bytes, int32_t chunk_bytes, int32_t head_dim,
                                const Swizzle& swizzle, uint32_t (&offsets)[kLoads]) {
  SEXTANT_UNROLL
  for (int j = 0; j < kLoads; ++j) {
    const int row = lane_index() / kChunks + j * (64 / kChunks);
    int chunk = lane_index() % kChunks;
    if (kSwizzled) chunk ^= swizzle(wave * S::kWaveKeys + row);
    offsets[j] = 8 * chunk < head_dim ? static_cast<uint32_t>(row) * token_bytes + chunk * chunk_bytes : kOutside;
  }
}

template <class S>
SEXTANT_DEVICE ShareLanes<S> share_lanes(const AttentionParams& p, const KeyPlace& a, int wave, bool packed) {
  ShareLanes<S> s;
  const int lane = lane_index(), element = packed ? 2 : S::kElement, first = wave * S::kWaveKeys;
  const int32_t k_chunk = (packed ? 8 : p.k_chunk_stride) * element,
                v_chunk = (packed ? 8 : p.v_chunk_stride) * element;
  s.key_row = lane / S::kKeyChunks;
  row_offsets<S, S::kDirect, S::kKeyChunks>(wave, a.key_token, k_chunk, p.head_dim, key_swizzle<S>, s.key);
  if constexpr (S::kDirect) {
    s.value_row = lane / S::kValueChunks;
    row_offsets<S, true, S::kValueChunks>(wave, a.value_token, v_chunk, p.head_dim_v, value_swizzle<S>, s.value);
    s.key_to = first * S::kKeyChunks * 16;
    s.value_to = first * S::kValueChunks * 16;
  } else {
    const int row = first + s.key_row, chunk = lane % S::kKeyChunks;
    s.key_to = (row * S::kKeyChunks + (chunk ^ key_swizzle<S>(row))) * 16;
    SEXTANT_UNROLL
    for (int j = 0; j < S::kValueLoads; ++j) {
      const int unit = lane + 64 * j, dim = unit % S::kDimGroups * S::kDims, value_row = unit / S::kDimGroups * 4;
      s.value[j] = dim < p.head_dim_v
                       ? static_cast<uint32_t>(value_row) * a.value_token + dim / 8 * v_chunk + dim % 8 * element
                       : kOutside;
    }
    s.value_row = lane / S::kDimGroups * 4;
    const int dim = lane % S::kDimGroups * S::kDims, quad = first / 4 + lane / S::kDimGroups;
    s.value_to = transposed_place<S>(dim, quad);
  }
  return s;
}

// What the lanes of a share read from: the same in all lanes.
struct ShareSource {
  Window keys, values;
  int32_t first, count;  // keys [first, count) of the share exist
};
// The share from `position` on, in the block whose id is `id`.
SEXTANT_DEVICE ShareSource share_source(const KeyPlace& a, int32_t position, int32_t id) {
  const uint32_t block = min(static_cast<uint32_t>(id), a.last_block);
  const auto row = static_cast<uint32_t>(position + a.row_shift) - block_of(a.divisor, position) * a.block_size;
  return {make_window(a.keys + (static_cast<uint64_t>(block) * a.key_block + static_cast<uint64_t>(row) * a.key_token)),
          make_window(a.values +
                      (static_cast<uint64_t>(block) * a.value_block + static_cast<uint64_t>(row) * a.value_token)),
          a.first - position, a.end - position};
}

// Offset `at` where key `row` (a lane's) + `step` (all lanes') of the share exists.
template <bool kFirst>
SEXTANT_DEVICE uint32_t existing(const ShareSource& s, int32_t row, int32_t step, uint32_t at) {
  bool exists = row < s.count - step;
  if (kFirst) exists = exists && row >= s.first - step;
  return exists ? at : kOutside;
}

// By way of registers.
template <class S>
struct ShareWords {
  using KeyWords = typename std::conditional<S::kFp8, u32x2, u32x4>::type;
  static constexpr int kQuadBytes = S::kDims * S::kElement;
  using ValueWords =
      typename std::conditional<kQuadBytes == 8, u32x2,
                                typename std::conditional<kQuadBytes == 4, uint32_t, uint16_t>::type>::type;
  KeyWords keys[S::kKeyLoads];
  ValueWords values[S::kValueLoads][4];
};
// `kFirst`: an item's first tile, in which keys may be missing at the front.
template <class S, bool kFirst>
SEXTANT_DEVICE void fetch_share(const KeyPlace& a, const ShareSource& s, const ShareLanes<S>& lanes,
                                ShareWords<S>& words) {
  using Words = ShareWords<S>;
  SEXTANT_UNROLL
  for (int j = 0; j < S::kKeyLoads; ++j) {
    const int step = j * (64 / S::kKeyChunks);
    words.keys[j] = load_words<typename Words::KeyWords>(s.keys, existing<kFirst>(s, lanes.key_row, step, lanes.key[0]),
                                                         step * static_cast<int32_t>(a.key_token));
  }
  SEXTANT_UNROLL
  for (int j = 0; j < S::kValueLoads; ++j) {
    SEXTANT_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int step = j * (64 / S::kDimGroups) * 4 + e;
      words.values[j][e] =
          load_words<typename Words::ValueWords>(s.values, existing<kFirst>(s, lanes.value_row, step, lanes.value[j]),
                                                 e * static_cast<int32_t>(a.value_token));
    }
  }
}

// The eight elements of a row, or kDims of four rows, as they are multiplied.
template <class S>
SEXTANT_DEVICE u32x4 key_words(u32x4 words) {
  return words;
}
template <class S>
SEXTANT_DEVICE u32x4 key_words(u32x2 words) {
  return make_fragment<typename S::T>(unpack_native_fp8(words)).words;
}
template <class S>
SEXTANT_DEVICE u32x2 value_words(u32x2 words) {
  return words;
}
template <class S>
SEXTANT_DEVICE u32x2 value_words(uint32_t word) {
  if constexpr (!S::kFp8) return u32x2{word, 0};
  const Floats8 x = unpack_native_fp8(u32x2{word, 0});
  return u32x2{pack_pair<typename S::T>(x.x[0], x.x[1]), pack_pair<typename S::T>(x.x[2], x.x[3])};
}

// Keys by rows.
template <class S>
SEXTANT_DEVICE void put_keys(const ShareWords<S>& words, const ShareLanes<S>& lanes, char* keys) {
  SEXTANT_UNROLL
  for (int j = 0; j < S::kKeyLoads; ++j) {
    // A row further on has another permutation, in bits that the wave's first row has not: the shares are aligned.
    const int step = j * (64 / S::kKeyChunks);
    const int to = (lanes.key_to ^ (key_swizzle<S>(step) * 16)) + step * S::kKeyChunks * 16;
    *reinterpret_cast<u32x4*>(keys + to) = key_words<S>(words.keys[j]);
  }
}
// Values transposed.
template <class S>
SEXTANT_DEVICE void put_values(const ShareWords<S>& words, const ShareLanes<S>& lanes, char* values) {
  SEXTANT_UNROLL
  for (int j = 0; j < S::kValueLoads; ++j) {
    u32x2 rows[4];
    SEXTANT_UNROLL
    for (int e = 0; e < 4; ++e) rows[e] = value_words<S>(words.values[j][e]);
    SEXTANT_UNROLL
    for (int n = 0; n < S::kDims; ++n) {
      const uint32_t a = rows[0][n / 2], b = rows[1][n / 2], c = rows[2][n / 2], d = rows[3][n / 2];
      const int to = next_transposed_place<S>(lanes.value_to, n, j);
      *reinterpret_cast<u32x2*>(values + to) =
          n % 2 == 0 ? u32x2{low_halves(a, b), low_halves(c, d)} : u32x2{high_halves(a, b), high_halves(c, d)};
    }
  }
}

// Straight to shared memory.
template <class S, bool kFirst>
SEXTANT_DEVICE void send_share(const ShareSource& s, const ShareLanes<S>& lanes, char* keys, char* values) {
  SEXTANT_UNROLL
  for (int j = 0; j < S::kKeyLoads; ++j) {
    const int step = j * (64 / S::kKeyChunks);
    load_to_shared(s.keys, existing<kFirst>(s, lanes.key_row, step, lanes.key[j]), 0,
                   keys + lanes.key_to + step * S::kKeyChunks * 16);
  }
  SEXTANT_UNROLL
  for (int j = 0; j < S::kValueLoads; ++j) {
    const int step = j * (64 / S::kValueChunks);
    load_to_shared(s.values, existing<kFirst>(s, lanes.value_row, step, lanes.value[j]), 0,
                   values + lanes.value_to + step * S::kValueChunks * 16);
  }
}

}  // namespace sextant::hip
