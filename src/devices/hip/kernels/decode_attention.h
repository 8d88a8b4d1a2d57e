// Tuned paged decode: up to 16 query rows (queries x heads of a KV head), keys straight from the cache into the
// registers of the matrix instructions. No shared memory and no barrier until the end.
//
//   workgroup   4 waves; wave w takes key tiles w, w + 4, ... of 32 keys of the item's partition, each with its own
//               softmax state; the states meet in shared memory at the end
//   K           operand A of S^T = K Q^T: a lane loads 8 dims of one key: 16 bytes, and the four lanes of a key 64
//   V           operand A of O^T = V^T P^T, by what lies together in the layout:
//                 dims    (NHD, HND): 4 dims of 4 + 4 keys, transposed in registers
//                 tokens  (split-K, shuffled): 4 tokens of one dim are the operand as they lie
//   in flight   a tile is multiplied while the next one comes: 16 KiB (fp8: 8) a wave at all times, and eight waves a
//               CU, so 128 KiB (64). No wait lets all of it run dry
//   block ids   tiles start on multiples of 16 keys, and blocks hold such: two ids a tile, scalar, asked for a tile
//               before their keys
//   softmax     the maximum is raised only when it grows by more than 8 (fp16: 4; log2); else no word between lanes
//
// Keys outside the partition come as zeros. Partitions of single queries need no masks but at their ends.
#pragma once

#include <type_traits>

#include "devices/hip/kernels/block_divisor.h"
#include "devices/hip/kernels/lane_memory.h"
#include "devices/hip/kernels/tile_attention.h"

namespace sextant::hip {

constexpr int kDecodeRows = 16, kDecodeKeys = 32, kDecodeWaves = 4;

// What a lane reads of a tile, before conversion.
template <class T, int D, bool kFp8>
struct DecodeTile {
  static constexpr int kSteps = D / 32, kColumns = D / 64;
  using KeyWords = typename std::conditional<kFp8, u32x2, u32x4>::type;
  using ValueWords = typename std::conditional<kFp8, uint32_t, u32x2>::type;
  KeyWords k[2][kSteps];
  ValueWords v[kColumns][8];
};

template <class T>
SEXTANT_DEVICE Fragment<T> widen_keys(u32x4 words) {
  return {words};
}
template <class T>
SEXTANT_DEVICE Fragment<T> widen_keys(u32x2 words) {
  return make_fragment<T>(unpack_native_fp8(words));
}
template <class T>
SEXTANT_DEVICE Quad<T> widen_values(u32x2 words) {
  return {words};
}
template <class T>
SEXTANT_DEVICE Quad<T> widen_values(uint32_t word) {
  const Floats8 x = unpack_native_fp8(u32x2{word, 0});
  return {u32x2{pack_pair<T>(x.x[0], x.x[1]), pack_pair<T>(x.x[2], x.x[3])}};
}

// Where an item's keys lie: the same in all lanes; and a lane's offsets from the first of 16 keys.
template <class T, int D, bool kTokens>
struct DecodePlace {
  const char *keys, *values;        // of the KV head
  uint32_t key_block, value_block;  // bytes from block to block
  const int32_t* table;
  uint32_t key_at[D / 32], value_at[D / 64][kTokens ? 4 : 1];
};
// Elements from a block's first token to `token`. K's lie at one stride, and V's where dims lie together.
SEXTANT_DEVICE int64_t decode_key_offset(const AttentionParams& p, int32_t token) {
  return token * p.k_addr.token_outer_stride;
}
template <bool kTokens>
SEXTANT_DEVICE int64_t decode_value_offset(const AttentionParams& p, int32_t token) {
  return kTokens ? token_offset(p.v_addr, 0, 0, token) : token * p.v_addr.token_outer_stride;
}

template <class T, int D, bool kFp8, bool kTokens>
SEXTANT_DEVICE DecodePlace<T, D, kTokens> decode_place(const AttentionParams& p, const WorkItem& item) {
  constexpr int kElement = kFp8 ? 1 : 2;
  const int lane = lane_index(), group = lane / 16;
  DecodePlace<T, D, kTokens> a;
  a.keys = static_cast<const char*>(p.cache_k) + kElement * item.kv_head * p.k_addr.head_stride;
  a.values = static_cast<const char*>(p.cache_v) + kElement * item.kv_head * p.v_addr.head_stride;
  a.key_block = kElement * static_cast<uint32_t>(p.k_addr.block_stride);
  a.value_block = kElement * static_cast<uint32_t>(p.v_addr.block_stride);
  a.table = p.block_table + item.request.index * p.block_table_stride;
  const auto key = static_cast<int32_t>(decode_key_offset(p, lane % 16));
  SEXTANT_UNROLL
  for (int s = 0; s < D / 32; ++s) {
    const int chunk = 4 * s + group, tile_chunks = 1 << p.k_tile_shift;
    const int32_t index = key + (chunk >> p.k_tile_shift) * p.k_tile_stride + 8 * (chunk & (tile_chunks - 1));
    a.key_at[s] = 8 * chunk < p.head_dim ? static_cast<uint32_t>(index * kElement) : kOutside;
  }
  const auto value = static_cast<int32_t>(decode_value_offset<kTokens>(p, 4 * group));
  SEXTANT_UNROLL
  for (int c = 0; c < D / 64; ++c) {
    SEXTANT_UNROLL
    for (int e = 0; e < (kTokens ? 4 : 1); ++e) {
      const int d = kTokens ? 64 * c + 16 * e + lane % 16 : 64 * c + 4 * (lane % 16);
      const int32_t index = value + (kTokens ? d * static_cast<int32_t>(p.v_addr.dim_outer_stride) : d);
      a.value_at[c][e] = d < p.head_dim_v ? static_cast<uint32_t>(index * kElement) : kOutside;
    }
  }
  return a;
}

// Block ids of a tile's two halves.
struct DecodeIds {
  int32_t id[2];
};
template <class Place>
SEXTANT_DEVICE DecodeIds decode_ids(const AttentionParams& p, const WorkItem& item, const Place& a, int32_t key0) {
  DecodeIds ids;
  SEXTANT_UNROLL
  for (int t = 0; t < 2; ++t)
    ids.id[t] = scalar_load(a.table + block_of(p.block_divisor, max(min(key0 + 16 * t, item.key_hi - 1), 0)));
  return ids;
}

// All loads of a tile. `kFirst`: keys may be missing at its front.
template <class T, int D, bool kFp8, bool kTokens, bool kFirst>
SEXTANT_DEVICE void load_decode_tile(const AttentionParams& p, const WorkItem& item,
                                     const DecodePlace<T, D, kTokens>& a, const DecodeIds& ids, int32_t key0,
                                     DecodeTile<T, D, kFp8>& tile) {
  using Tile = DecodeTile<T, D, kFp8>;
  constexpr int kElement = kFp8 ? 1 : 2;
  const int lane = lane_index(), group = lane / 16;
  Window keys[2], values[2];
  SEXTANT_UNROLL
  for (int t = 0; t < 2; ++t) {
    const int32_t key = key0 + 16 * t;
    const uint32_t id = min(static_cast<uint32_t>(ids.id[t]), static_cast<uint32_t>(p.num_blocks - 1));
    const int32_t token = key - static_cast<int32_t>(block_of(p.block_divisor, key)) * p.block_size;
    keys[t] = make_window(a.keys + (static_cast<uint64_t>(id) * a.key_block +
                                    static_cast<uint64_t>(kElement * decode_key_offset(p, token))));
    values[t] = make_window(a.values + (static_cast<uint64_t>(id) * a.value_block +
                                        static_cast<uint64_t>(kElement * decode_value_offset<kTokens>(p, token))));
  }
  SEXTANT_UNROLL
  for (int t = 0; t < 2; ++t) {
    const int32_t key = lane % 16, first = item.key_lo - key0 - 16 * t, count = item.key_hi - key0 - 16 * t;
    const uint32_t away = outside_unless(key < count && (!kFirst || key >= first));
    SEXTANT_UNROLL
    for (int s = 0; s < Tile::kSteps; ++s)
      tile.k[t][s] = load_words<typename Tile::KeyWords>(keys[t], a.key_at[s] | away, 0);
  }
  const auto token_bytes = kElement * static_cast<int32_t>(p.v_addr.token_outer_stride);
  SEXTANT_UNROLL
  for (int t = 0; t < 2; ++t) {
    const int32_t key = 4 * group, first = item.key_lo - key0 - 16 * t, count = item.key_hi - key0 - 16 * t;
    SEXTANT_UNROLL
    for (int e = 0; e < 4; ++e) {
      // Of four tokens that come together some may not exist; they are masked when they are multiplied.
      const uint32_t away = outside_unless(kTokens ? key < count && (!kFirst || key >= first - 3)
                                                   : key < count - e && (!kFirst || key >= first - e));
      SEXTANT_UNROLL
      for (int c = 0; c < Tile::kColumns; ++c)
        tile.v[c][4 * t + e] = load_words<typename Tile::ValueWords>(values[t], a.value_at[c][kTokens ? e : 0] | away,
                                                                     kTokens ? 0 : e * token_bytes);
    }
  }
}

// Bits of a 16-bit pair that stay: of four tokens that come together some may be outside the partition.
SEXTANT_DEVICE uint32_t pair_mask(bool low, bool high) { return (low ? 0xffffu : 0u) | (high ? 0xffff0000u : 0u); }

template <class T, int D, bool kFp8, bool kTokens>
SEXTANT_DEVICE void multiply_decode_values(const WorkItem& item, int32_t key0, bool masked,
                                           const DecodeTile<T, D, kFp8>& tile, const f32x4 (&s)[2],
                                           f32x4 (&o)[D / 64][4]) {
  const int first = key0 + 4 * (lane_index() / 16);
  bool inside[8];
  SEXTANT_UNROLL
  for (int e = 0; e < 8; ++e) {
    const int32_t key = first + 16 * (e / 4) + e % 4;
    inside[e] = !masked || (key >= item.key_lo && key < item.key_hi);
  }
  const Fragment<T> weights =
      make_weights<T>(Floats8{{s[0][0], s[0][1], s[0][2], s[0][3], s[1][0], s[1][1], s[1][2], s[1][3]}});
  SEXTANT_UNROLL
  for (int c = 0; c < D / 64; ++c) {
    Quad<T> quads[8];
    SEXTANT_UNROLL
    for (int e = 0; e < 8; ++e) quads[e] = widen_values<T>(tile.v[c][e]);
    SEXTANT_UNROLL
    for (int n = 0; n < 4; ++n) {
      Fragment<T> v;
      if constexpr (kTokens) {
        v = {u32x4{quads[n].words[0], quads[n].words[1], quads[4 + n].words[0], quads[4 + n].words[1]}};
      } else {
        v = transpose<T>(quads, n);
      }
      if (kTokens && masked) {
        SEXTANT_UNROLL
        for (int i = 0; i < 4; ++i) v.words[i] &= pair_mask(inside[2 * i], inside[2 * i + 1]);
      }
      o[c][n] = multiply<T>(v, weights, o[c][n]);
    }
  }
}

// The waves' states to one: every wave scales its sums to the common maximum, waves 1 to 3 hand theirs over.
template <int kColumns>
SEXTANT_DEVICE void join_waves(RowState& row, f32x4 (&o)[kColumns][4], char* shared) {
  const int lane = lane_index(), wave = wave_index();
  float* stats = reinterpret_cast<float*>(shared);             // [wave][max, sum][row]
  auto* parts = reinterpret_cast<f32x4*>(stats + 4 * 2 * 16);  // [wave - 1][column][n][lane]
  const float sum = sum_over_groups(row.sum);
  if (lane < 16) {
    stats[wave * 32 + lane] = row.max;
    stats[wave * 32 + 16 + lane] = sum;
  }
  barrier();
  float top = kNegInf;
  SEXTANT_UNROLL
  for (int w = 0; w < kDecodeWaves; ++w) top = max(top, stats[w * 32 + lane % 16]);
  float total = 0;
  SEXTANT_UNROLL
  for (int w = 0; w < kDecodeWaves; ++w) {
    const float wave_max = stats[w * 32 + lane % 16];
    if (wave_max != kNegInf) total += stats[w * 32 + 16 + lane % 16] * exp2(wave_max - top);
  }
  const float factor = row.max == kNegInf ? 0.0f : exp2(row.max - top);
  SEXTANT_UNROLL
  for (int c = 0; c < kColumns; ++c) {
    SEXTANT_UNROLL
    for (int n = 0; n < 4; ++n) {
      o[c][n] *= factor;
      if (wave > 0) parts[(((wave - 1) * kColumns + c) * 4 + n) * 64 + lane] = o[c][n];
    }
  }
  barrier();
  row.max = top;
  row.sum = total;
  if (wave > 0) return;
  SEXTANT_UNROLL
  for (int w = 0; w < kDecodeWaves - 1; ++w) {
    SEXTANT_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      SEXTANT_UNROLL
      for (int n = 0; n < 4; ++n) o[c][n] += parts[((w * kColumns + c) * 4 + n) * 64 + lane];
    }
  }
}

// Where dims lie in o: by the transposition as in the other kernels, by tokens o[c][n][r] is 64 c + 16 n + 4 group + r.
template <class T, bool kTokens, int kColumns>
SEXTANT_DEVICE void store_decode_row(const RowTarget& target, int32_t head_dim, const f32x4 (&o)[kColumns][4]) {
  const int group = lane_index() / 16;
  SEXTANT_UNROLL
  for (int c = 0; c < kColumns; ++c) {
    if constexpr (!kTokens) {
      store_output16<T, true>(target, 64 * c + 16 * group, head_dim, o[c]);
    } else {
      SEXTANT_UNROLL
      for (int n = 0; n < 4; ++n) {
        const int d = 64 * c + 16 * n + 4 * group;
        if (d >= head_dim) continue;
        store_quad<T, true>(target, d, o[c][n]);
      }
    }
  }
}

template <class T, int D, bool kFp8, bool kTokens>
SEXTANT_DEVICE void decode_attention(const AttentionParams& p) {
  WorkItem item;
  if (!find_item(p, block_index(), &item)) return;
  char* shared = shared_memory<4 * 2 * 16 * 4 + 3 * 16 * D * 4>();
  const int32_t row0 = item.row_tile * kDecodeRows;
  RowState row = make_row(p, item, row0 + lane_index() % 16);
  Fragment<T> q[D / 32];
  load_query<T, true>(p, item, row.row, row.valid, 0, q);
  const float k_scale = key_scale(p, item.kv_head), v_scale = value_scale(p, item.kv_head);
  const ScoreRule rule = make_score_rule(p, k_scale);
  f32x4 o[D / 64][4] = {};
  using Tile = DecodeTile<T, D, kFp8>;
  const DecodePlace<T, D, kTokens> place = decode_place<T, D, kFp8, kTokens>(p, item);
  // Keys that all rows see.
  const Request& r = item.request;
  const int32_t all_first = first_seen(p.reach, r.context_len + query_of(p, row0 + kDecodeRows - 1), item.key_lo);
  const int32_t all_end = end_seen(p.reach, r.context_len + query_of(p, row0), item.key_hi);
  constexpr int kStride = kDecodeKeys * kDecodeWaves;
  int32_t key0 = (item.key_lo < item.key_hi ? item.key_lo & ~15 : item.key_hi) + kDecodeKeys * wave_index();
  DecodeIds ids = decode_ids(p, item, place, key0);
  // Of a tile past the end all is outside.
  const auto load = [&](auto first, int32_t at, Tile& tile) {
    load_decode_tile<T, D, kFp8, kTokens, decltype(first)::value>(p, item, place, ids, at, tile);
    ids = decode_ids(p, item, place, at + kStride);
    order_fence();
  };
  const auto multiply_tile = [&](int32_t at, const Tile& tile) {
    f32x4 s[2] = {};
    SEXTANT_UNROLL
    for (int t = 0; t < 2; ++t) {
      SEXTANT_UNROLL
      for (int i = 0; i < D / 32; ++i) s[t] = multiply<T>(widen_keys<T>(tile.k[t][i]), q[i], s[t]);
    }
    const bool edge = at < item.key_lo || at + kDecodeKeys > item.key_hi;
    finish_scores<2>(item, rule, row, at, item.key_hi, at < all_first || at + kDecodeKeys > all_end, s);
    exponentiate_seldom_raised<T, 2>(row, s, o);
    multiply_decode_values<T, D, kFp8, kTokens>(item, at, edge, tile, s, o);
  };
  if (key0 < item.key_hi) {
    Tile one, other;
    load(std::true_type{}, key0, one);
    // Pairs, and then what is left: a turn without its second tile would be a way on which loads of the turn before are
    // still to be waited for.
    for (; key0 + kStride < item.key_hi; key0 += 2 * kStride) {
      load(std::false_type{}, key0 + kStride, other);
      multiply_tile(key0, one);
      load(std::false_type{}, key0 + 2 * kStride, one);
      multiply_tile(key0 + kStride, other);
    }
    if (key0 < item.key_hi) multiply_tile(key0, one);
  }
  join_waves(row, o, shared);
  if (wave_index() > 0 || !row.valid) return;
  const RowTarget target = end_row(p, item, row.row, row.row - row0, row.max, row.sum, v_scale, lane_index() < 16);
  store_decode_row<T, kTokens>(target, p.head_dim_v, o);
}

}  // namespace sextant::hip
