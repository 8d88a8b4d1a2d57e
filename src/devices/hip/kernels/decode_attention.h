// Tuned paged decode: up to 16 query rows (queries x heads of a KV head), keys straight from the cache into the
// registers of the matrix instructions. No shared memory and no barrier until the end.
//
//   workgroup   4 waves; wave w takes key tiles w, w + 4, ... of 32 keys of the item's partition, each with its own
//               softmax state; the states meet in shared memory at the end
//   K           operand A of S^T = K Q^T: a lane loads 8 dims of one key: 16 bytes, and the four lanes of a key 64
//   V           operand A of O^T = V^T P^T, by what lies together in the layout:
//                 dims    (NHD, HND): 4 dims of 4 + 4 keys, transposed in registers
//                 tokens  (split-K, shuffled): 4 tokens of one dim are the operand as they lie
//
// All loads of a tile are issued before its first product; four waves a SIMD hide the rest. Tiles start on multiples of
// 4 keys, so that 4 tokens lie in one block whenever 4 divides the block size. Keys outside the partition are read
// where the nearest one inside lies, and count as zeros.
#pragma once

#include <type_traits>

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
  return make_fragment<T>(unpack_fp8<kNativeFp8>(words));
}
template <class T>
SEXTANT_DEVICE Quad<T> widen_values(u32x2 words) {
  return {words};
}
template <class T>
SEXTANT_DEVICE Quad<T> widen_values(uint32_t word) {
  const Floats8 x = unpack_fp8<kNativeFp8>(u32x2{word, 0});
  return {u32x2{pack_pair<T>(x.x[0], x.x[1]), pack_pair<T>(x.x[2], x.x[3])}};
}

// Position whose place in the cache stands for `position`: itself inside [first, last], else the nearest.
SEXTANT_DEVICE int32_t clamp_position(int32_t position, int32_t first, int32_t last) {
  return min(max(position, first), last);
}

template <class T, int D, bool kFp8, bool kTokens>
SEXTANT_DEVICE void load_decode_tile(const AttentionParams& p, const WorkItem& item, int32_t key0,
                                     DecodeTile<T, D, kFp8>& tile) {
  using Tile = DecodeTile<T, D, kFp8>;
  constexpr int kElement = kFp8 ? 1 : 2;
  const int lane = lane_index(), group = lane / 16;
  const char* keys = static_cast<const char*>(p.cache_k);
  const char* values = static_cast<const char*>(p.cache_v);
  SEXTANT_UNROLL
  for (int t = 0; t < 2; ++t) {
    const int32_t key = clamp_position(key0 + 16 * t + lane % 16, item.key_lo, item.key_hi - 1);
    const BlockToken at = find_token(p, item.request, key);
    const int64_t row = token_offset(p.k_addr, at.block, item.kv_head, at.token);
    SEXTANT_UNROLL
    for (int s = 0; s < Tile::kSteps; ++s) {
      const int chunk = 4 * s + group;
      // Dims past the head size read the first dims; Q has zeros there.
      const int inside = 8 * chunk < p.head_dim ? chunk : 0, tile_chunks = 1 << p.k_tile_shift;
      const int64_t index =
          row + static_cast<int64_t>(inside >> p.k_tile_shift) * p.k_tile_stride + 8 * (inside & (tile_chunks - 1));
      tile.k[t][s] = *reinterpret_cast<const typename Tile::KeyWords*>(keys + index * kElement);
    }
  }
  SEXTANT_UNROLL
  for (int t = 0; t < 2; ++t) {
    // Four tokens of one block; clamped as a whole.
    const int32_t key = clamp_position(key0 + 16 * t + 4 * group, item.key_lo & ~3, (item.key_hi - 1) & ~3);
    const BlockToken at = find_token(p, item.request, key);
    const int64_t row = token_offset(p.v_addr, at.block, item.kv_head, at.token);
    SEXTANT_UNROLL
    for (int c = 0; c < Tile::kColumns; ++c) {
      SEXTANT_UNROLL
      for (int e = 0; e < 4; ++e) {
        int64_t index = row;
        if constexpr (kTokens) {
          const int d = 64 * c + 16 * e + lane % 16;
          index += static_cast<int64_t>(d < p.head_dim_v ? d : 0) * p.v_addr.dim_outer_stride;
        } else {
          const int d = 64 * c + 4 * (lane % 16);
          index += static_cast<int64_t>(e) * p.v_addr.token_outer_stride + (d < p.head_dim_v ? d : 0);
        }
        tile.v[c][4 * t + e] = *reinterpret_cast<const typename Tile::ValueWords*>(values + index * kElement);
      }
    }
  }
}

// Bits of a 16-bit pair that stay: keys outside the partition become zeros, whatever lies there.
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
      if (masked) {
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
      store_output16<T>(target, 64 * c + 16 * group, head_dim, o[c]);
    } else {
      SEXTANT_UNROLL
      for (int n = 0; n < 4; ++n) {
        const int d = 64 * c + 16 * n + 4 * group;
        if (d >= head_dim) continue;
        store_quad<T>(target, d, o[c][n]);
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
  load_query<T>(p, item, row.row, row.valid, q);
  const float k_scale = key_scale(p, item.kv_head), v_scale = value_scale(p, item.kv_head);
  const ScoreRule rule = make_score_rule(p, k_scale);
  f32x4 o[D / 64][4] = {};
  const int32_t begin = item.key_lo & ~3;
  for (int32_t key0 = begin + kDecodeKeys * wave_index(); key0 < item.key_hi; key0 += kDecodeKeys * kDecodeWaves) {
    DecodeTile<T, D, kFp8> tile;
    load_decode_tile<T, D, kFp8, kTokens>(p, item, key0, tile);
    f32x4 s[2] = {};
    SEXTANT_UNROLL
    for (int t = 0; t < 2; ++t) {
      SEXTANT_UNROLL
      for (int i = 0; i < D / 32; ++i) s[t] = multiply<T>(widen_keys<T>(tile.k[t][i]), q[i], s[t]);
    }
    const bool edge = key0 < item.key_lo || key0 + kDecodeKeys > item.key_hi;
    finish_scores<2>(p, item, rule, row, key0, item.key_hi, true, s);
    scale_output(exponentiate<2>(row, 8.0f, s), o);
    multiply_decode_values<T, D, kFp8, kTokens>(item, key0, edge, tile, s, o);
  }
  join_waves(row, o, shared);
  if (wave_index() > 0 || !row.valid) return;
  const RowTarget target = end_row(p, item, row.row, row.row - row0, row.max, row.sum, v_scale, lane_index() < 16);
  store_decode_row<T, kTokens>(target, p.head_dim_v, o);
}

}  // namespace sextant::hip
