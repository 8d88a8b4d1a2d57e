// Portable attention: every feature, layout, type and head size up to 512, for query tiles of any length.
//
//   workgroup   4 waves x 16 query rows against one KV head; rows are (query, head of the group), so that G heads share
//               each key that is loaded
//   key tile    32 keys of K and V in shared memory, rows padded by 16 bytes against bank conflicts
//   products    S^T = K Q^T, O^T = V^T P^T by 16x16 MFMA. A lane then holds 4 keys of one query row in S^T's layout,
//               which is exactly what the second product wants of P^T: no shuffle, no trip through shared memory.
//               V^T comes from V's own rows: a lane reads 4 dims of 4 + 4 keys and transposes them in registers; which
//               dims a lane takes is free, so it takes 4 neighbours.
//
// Q stays in registers where O leaves room for it. `Wide`: latents of any width, whose keys come in slices as many as
// it takes, and some of O's dims in a launch.
#pragma once

#include "devices/hip/kernels/key_tile.h"
#include "devices/hip/kernels/lane_memory.h"

namespace sextant::hip {

constexpr int kTileRows = 64, kTileKeys = 32, kTileThreads = 256;

template <class T, int DK, int DV, bool kWide_ = false>
struct TileShape {
  static constexpr bool kWide = kWide_;
  static constexpr int kPad = 16 / sizeof(T);
  static constexpr int bytes(int dims) { return kTileKeys * (dims + kPad) * static_cast<int>(sizeof(T)); }
  // Dims of a row that are staged at once: all, or a half or a third where shared memory does not hold them.
  static constexpr int slice(int dims) {
    int parts = 1;
    while (bytes(dims / parts) > 64 * 1024 || dims % (64 * parts) != 0) ++parts;
    return dims / parts;
  }
  static constexpr int kKeyDims = slice(DK), kValueDims = slice(DV);
  static constexpr bool kKeepsQuery =
      kKeyDims == DK && !kWide;  // else each slice of keys is met by its slice of Q, loaded anew
  static constexpr int kKeyStride = kKeyDims + kPad, kValueStride = kValueDims + kPad;
  static constexpr int kKeyBytes = bytes(kKeyDims), kValueBytes = bytes(kValueDims);
  // Keys and values, or slices of them, take turns in one buffer where two do not fit.
  static constexpr bool kTakeTurns = kWide || kKeyDims < DK || kValueDims < DV || kKeyBytes + kValueBytes > 64 * 1024;
  static constexpr int kSharedBytes =
      kTakeTurns ? (kKeyBytes > kValueBytes ? kKeyBytes : kValueBytes) : kKeyBytes + kValueBytes;
};

// S^T of 32 keys += their kDims: s[t][e] is key 16 t + 4 (lane / 16) + e of the lane's row.
template <class T, int kDims, int kStride>
SEXTANT_DEVICE void multiply_keys(const T* tile, const Fragment<T> (&q)[kDims / 32], f32x4 (&s)[2]) {
  const int lane = lane_index();
  SEXTANT_UNROLL
  for (int t = 0; t < 2; ++t) {
    const T* row = tile + (16 * t + lane % 16) * kStride + 8 * (lane / 16);
    SEXTANT_UNROLL
    for (int i = 0; i < kDims / 32; ++i) s[t] = multiply<T>(load_fragment<T>(row + 32 * i), q[i], s[t]);
  }
}

// O^T += V^T P^T over 32 keys: o[c][n][r] is dim 64 c + 16 (lane / 16) + 4 r + n of the lane's row.
template <class T, int kColumns, int kStride>
SEXTANT_DEVICE void multiply_values(const T* tile, const f32x4 (&s)[2], f32x4 (*o)[4]) {
  const int lane = lane_index();
  const Fragment<T> weights =
      make_weights<T>(Floats8{{s[0][0], s[0][1], s[0][2], s[0][3], s[1][0], s[1][1], s[1][2], s[1][3]}});
  const T* corner = tile + 4 * (lane / 16) * kStride + 4 * (lane % 16);
  SEXTANT_UNROLL
  for (int c = 0; c < kColumns; ++c) {
    Quad<T> rows[8];
    SEXTANT_UNROLL
    for (int e = 0; e < 8; ++e) rows[e] = load_quad<T>(corner + (16 * (e / 4) + e % 4) * kStride + 64 * c);
    SEXTANT_UNROLL
    for (int n = 0; n < 4; ++n) o[c][n] = multiply<T>(transpose<T>(rows, n), weights, o[c][n]);
  }
}

template <int kColumns>
SEXTANT_DEVICE void scale_output(float factor, f32x4 (&o)[kColumns][4]) {
  if (ballot(factor != 1.0f) == 0) return;
  SEXTANT_UNROLL
  for (int c = 0; c < kColumns; ++c) {
    SEXTANT_UNROLL
    for (int n = 0; n < 4; ++n) o[c][n] *= factor;
  }
}

template <class T, int DK, int DV, bool kWide = false>
SEXTANT_DEVICE void tile_attention(const AttentionParams& p) {
  using Shape = TileShape<T, DK, DV, kWide>;
  WorkItem item;
  if (!find_item(p, block_index(), &item)) return;
  const Request& r = item.request;
  const int32_t row0 = item.row_tile * kTileRows, num_rows = r.query_len * p.group_size;
  const int32_t wave_row0 = row0 + 16 * wave_index();
  RowState row = make_row(p, item, wave_row0 + lane_index() % 16);
  Fragment<T> q[Shape::kKeyDims / 32];
  if (Shape::kKeepsQuery) load_query<T, false>(p, item, row.row, row.valid, 0, q);

  // Keys that some row of the tile may see.
  const int32_t last_query = query_of(p, min(row0 + kTileRows, num_rows) - 1);
  const int32_t begin = seen_keys(p, r, query_of(p, row0), item.key_lo, item.key_hi).first;
  const int32_t end = seen_keys(p, r, last_query, item.key_lo, item.key_hi).end;

  // Scales of a pure cache fold into the softmax scale and the row's weight; mixed origins are scaled on the way in.
  const bool fold = p.origin == KeyOrigin::kCache;
  const float k_scale = key_scale(p, item.kv_head), v_scale = value_scale(p, item.kv_head);
  const float k_staged = fold ? 1.0f : k_scale, v_staged = fold ? 1.0f : v_scale;
  const ScoreRule rule = make_score_rule(p, fold ? k_scale : 1.0f);
  char* shared = shared_memory<Shape::kSharedBytes>();
  T* keys = reinterpret_cast<T*>(shared);
  T* values = reinterpret_cast<T*>(shared + (Shape::kTakeTurns ? 0 : Shape::kKeyBytes));
  const bool has_rows = wave_row0 < num_rows;  // the same in all lanes of the wave
  wait_for_loads<0>();                         // for Q and scales: here, and not where they are used, in the loop
  const int first_value = kWide ? p.value_begin : 0;
  f32x4 o[DV / 64][4] = {};
  for (int32_t key0 = begin; key0 < end; key0 += kTileKeys) {
    f32x4 s[2] = {};
    const auto multiply_slice = [&](int d) {
      barrier();  // what was staged before has been read
      stage_tile<T, Staged::kKeys, kTileKeys, Shape::kKeyDims, Shape::kKeyStride, kTileThreads>(
          p, r, item.kv_head, key0, end, d, k_staged, keys);
      if (!Shape::kTakeTurns)
        stage_tile<T, Staged::kValues, kTileKeys, DV, Shape::kValueStride, kTileThreads>(p, r, item.kv_head, key0, end,
                                                                                         0, v_staged, values);
      barrier();
      if (!Shape::kKeepsQuery) load_query<T, false>(p, item, row.row, row.valid, d, q);
      if (has_rows) multiply_keys<T, Shape::kKeyDims, Shape::kKeyStride>(keys, q, s);
    };
    if constexpr (kWide) {
      SEXTANT_KEEP_LOOP
      for (int d = 0; d < p.head_dim; d += Shape::kKeyDims) multiply_slice(d);
    } else {
      SEXTANT_UNROLL
      for (int d = 0; d < DK; d += Shape::kKeyDims) multiply_slice(d);
    }
    if (has_rows) {
      finish_scores<2>(item, rule, row, key0, end, true, s);
      scale_output(exponentiate<T, 2>(row, s), o);
    }
    SEXTANT_UNROLL
    for (int d = 0; d < DV; d += Shape::kValueDims) {
      if (Shape::kTakeTurns) {
        barrier();
        stage_tile<T, Staged::kValues, kTileKeys, Shape::kValueDims, Shape::kValueStride, kTileThreads>(
            p, r, item.kv_head, key0, end, first_value + d, v_staged, values);
        barrier();
      }
      if (has_rows) multiply_values<T, Shape::kValueDims / 64, Shape::kValueStride>(values, s, o + d / 64);
    }
  }
  if (!has_rows) return;
  const float sum = sum_over_groups(row.sum);
  if (!row.valid) return;
  const int group = lane_index() / 16;
  const RowTarget target = end_row(p, item, row.row, row.row - row0, row.max, sum, fold ? v_scale : 1.0f, group == 0);
  SEXTANT_UNROLL
  for (int c = 0; c < DV / 64; ++c)
    store_output16<T, false>(target, first_value + 64 * c + 16 * group, p.head_dim_v, o[c]);
}

}  // namespace sextant::hip
