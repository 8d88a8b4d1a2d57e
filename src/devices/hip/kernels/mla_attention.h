// MLA decode: queries of all heads against one latent row a token, V = the first columns of K (latent sizes up to 576 /
// 512, smaller ones zero-padded).
//
//   workgroup   4 waves; kRowTiles x 16 query rows, the same for all waves
//   key tile    32 latent rows (16 in fp32) in shared memory, loaded once for both products. Tuned: a tile comes to
//               registers, all of it at once, while the tile before is multiplied (latent_share.h): 36 KiB a CU in
//               flight, one wait and one block id a wave. On gfx950 rows of 16 bits go straight to shared memory
//               (mla_direct.h), and fp8's, which are widened on their way, have two places in turn there, which saves
//               the barrier between reading one and writing the next
//   S^T         divided among the waves by keys (16 each) and by k; the parts meet in shared memory
//   softmax     every wave does all of it: 4 + 4 exponentials a lane and row tile, less than a third barrier would cost
//   O^T         divided among the waves by columns: 128 of the 512 each
#pragma once

#include "devices/hip/kernels/latent_share.h"
#include "devices/hip/kernels/tile_attention.h"

namespace sextant::hip {

constexpr int kMlaDim = 576, kMlaValueDim = 512, kMlaThreads = 256;

// How tiles come: from any layout and format, each when it is needed; or rows of 16 bits or the chip's own fp8, ahead.
enum class MlaTiles { kAny, k16Ahead, kFp8Ahead };

template <class T, int kRowTiles_, MlaTiles kTiles_ = MlaTiles::kAny, bool kWide_ = false>
struct MlaShape {
  static constexpr bool kAhead = kTiles_ != MlaTiles::kAny, kFp8 = kTiles_ == MlaTiles::kFp8Ahead;
  static constexpr int kRowTiles = kRowTiles_, kRows = 16 * kRowTiles;
  static constexpr int kKeys = sizeof(T) == 4 ? 16 : 32, kSubtiles = kKeys / 16;
  static constexpr int kParts = 4 / kSubtiles;  // of k
  static constexpr int kSteps = kMlaDim / 32, kStepsAPart = (kSteps + kParts - 1) / kParts;
  static constexpr int kStride = kMlaDim + 16 / static_cast<int>(sizeof(T));
  static constexpr int kScoreStride = kKeys + 4;
  static constexpr int kKeyBytes = kKeys * kStride * static_cast<int>(sizeof(T));
  static constexpr int kPlaces = kAhead && kWide_ ? 2 : 1;  // for tiles
  static constexpr int kSharedBytes = kPlaces * kKeyBytes + kParts * kRows * kScoreStride * 4;
};

// This wave's part of S^T to shared memory: [part][row][key].
template <class T, class S>
SEXTANT_DEVICE void mla_scores(const T* tile, const Fragment<T> (&q)[S::kRowTiles][S::kStepsAPart], int steps,
                               float* scores) {
  const int lane = lane_index(), subtile = wave_index() % S::kSubtiles, part = wave_index() / S::kSubtiles;
  f32x4 s[S::kRowTiles] = {};
  const T* row = tile + (16 * subtile + lane % 16) * S::kStride + 8 * (lane / 16) + 32 * part * S::kStepsAPart;
  SEXTANT_UNROLL
  for (int i = 0; i < S::kStepsAPart; ++i) {
    if (i < steps) {
      const Fragment<T> k = load_fragment<T>(row + 32 * i);
      SEXTANT_UNROLL
      for (int m = 0; m < S::kRowTiles; ++m) s[m] = multiply<T>(k, q[m][i], s[m]);
    }
  }
  SEXTANT_UNROLL
  for (int m = 0; m < S::kRowTiles; ++m) {
    float* to = scores + ((part * S::kRowTiles + m) * 16 + lane % 16) * S::kScoreStride;
    *reinterpret_cast<f32x4*>(to + 16 * subtile + 4 * (lane / 16)) = s[m];
  }
}

// V^T fragments of 64 columns, made once for all row tiles.
template <class T, class S>
SEXTANT_DEVICE void mla_values(const T* tile, int column, const Fragment<T> (&weights)[S::kRowTiles],
                               f32x4 (&o)[S::kRowTiles][2][4], int c) {
  const int lane = lane_index();
  const T* corner = tile + 4 * (lane / 16) * S::kStride + 4 * (lane % 16) + column;
  Quad<T> rows[8] = {};
  SEXTANT_UNROLL
  for (int e = 0; e < 4 * S::kSubtiles; ++e) rows[e] = load_quad<T>(corner + (16 * (e / 4) + e % 4) * S::kStride);
  SEXTANT_UNROLL
  for (int n = 0; n < 4; ++n) {
    const Fragment<T> v = transpose<T>(rows, n);
    SEXTANT_UNROLL
    for (int m = 0; m < S::kRowTiles; ++m) o[m][c][n] = multiply<T>(v, weights[m], o[m][c][n]);
  }
}

// One row tile's scores, summed over the parts.
template <class S>
SEXTANT_DEVICE void mla_sum_scores(const float* scores, int m, f32x4 (&s)[S::kSubtiles]) {
  const int lane = lane_index();
  SEXTANT_UNROLL
  for (int t = 0; t < S::kSubtiles; ++t) {
    s[t] = f32x4{};
    SEXTANT_UNROLL
    for (int part = 0; part < S::kParts; ++part)
      s[t] += *reinterpret_cast<const f32x4*>(scores + ((part * S::kRowTiles + m) * 16 + lane % 16) * S::kScoreStride +
                                              16 * t + 4 * (lane / 16));
  }
}

// Gives the weights of the second product.
template <class T, int kSubtiles>
SEXTANT_DEVICE Fragment<T> mla_softmax(const WorkItem& item, const ScoreRule& rule, int32_t key0, bool masked,
                                       RowState& row, f32x4 (&s)[kSubtiles], f32x4 (&o)[2][4]) {
  finish_scores<kSubtiles>(item, rule, row, key0, item.key_hi, masked, s);
  exponentiate_seldom_raised<T, kSubtiles>(row, s, o);
  Floats8 weights = {};
  SEXTANT_UNROLL
  for (int e = 0; e < 4 * kSubtiles; ++e) weights.x[e] = s[e / 4][e % 4];
  return make_weights<T>(weights);
}

// A lane's row of Q from step `first` of 32 dims on; zeros where there is none.
template <class T, int kSteps>
SEXTANT_DEVICE void load_mla_query(const AttentionParams& p, const WorkItem& item, const RowState& row, int first,
                                   Fragment<T> (&q)[kSteps]) {
  const T* from = query_row<T>(p, item, row.row);
  SEXTANT_UNROLL
  for (int i = 0; i < kSteps; ++i) {
    const int d = 32 * (first + i) + 8 * (lane_index() / 16);
    q[i] = zero_fragment<T>();
    if (!row.valid || d >= p.head_dim) continue;
    q[i] = p.q_aligned != 0 ? load_fragment<T>(from + d)
                            : make_fragment<T>(load_wide8_by_element(TypeTraits<T>::kFormat, from + d));
  }
}

// Keys [first, end) that all rows of the tile see.
struct MlaReach {
  int32_t first, end;
};
template <class S>
SEXTANT_DEVICE MlaReach seen_by_all(const AttentionParams& p, const WorkItem& item, int32_t row0) {
  const Request& r = item.request;
  return {first_seen(p.reach, r.context_len + query_of(p, row0 + S::kRows - 1), item.key_lo),
          end_seen(p.reach, r.context_len + query_of(p, row0), item.key_hi)};
}

template <class T, class S>
SEXTANT_DEVICE void mla_attention(const AttentionParams& p) {
  constexpr int kRowTiles = S::kRowTiles;
  WorkItem item;
  if (!find_item(p, block_index(), &item)) return;
  const int lane = lane_index(), wave = wave_index();
  const int32_t row0 = item.row_tile * S::kRows;
  char* shared = shared_memory<S::kSharedBytes>();
  T* keys = reinterpret_cast<T*>(shared);
  float* scores = reinterpret_cast<float*>(shared + S::kPlaces * S::kKeyBytes);

  // The steps of k that are this wave's; none past the head size.
  const int first_step = wave / S::kSubtiles * S::kStepsAPart;
  const int steps = max(0, min(S::kStepsAPart, ceil_div(p.head_dim, 32) - first_step));
  RowState rows[kRowTiles];
  Fragment<T> q[kRowTiles][S::kStepsAPart];
  SEXTANT_UNROLL
  for (int m = 0; m < kRowTiles; ++m) {
    rows[m] = make_row(p, item, row0 + 16 * m + lane % 16);
    load_mla_query<T>(p, item, rows[m], first_step, q[m]);
  }
  // Here and not where Q is multiplied, in the loop: each step there is behind a branch, and each would wait.
  wait_for_loads<0>();

  const float scale = key_scale(p, 0);
  const ScoreRule rule = make_score_rule(p, scale);
  f32x4 o[kRowTiles][2][4] = {};
  const MlaReach all = seen_by_all<S>(p, item, row0);
  const auto multiply_tile = [&](int32_t key0, const T* tile) {
    mla_scores<T, S>(tile, q, steps, scores);
    barrier();
    const bool masked = key0 < all.first || key0 + S::kKeys > all.end;
    Fragment<T> weights[kRowTiles];
    SEXTANT_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      f32x4 s[S::kSubtiles];
      mla_sum_scores<S>(scores, m, s);
      weights[m] = mla_softmax<T, S::kSubtiles>(item, rule, key0, masked, rows[m], s, o[m]);
    }
    SEXTANT_UNROLL
    for (int c = 0; c < 2; ++c)
      if (128 * wave + 64 * c < p.head_dim_v) mla_values<T, S>(tile, 128 * wave + 64 * c, weights, o, c);
  };
  if constexpr (S::kAhead) {
    const int32_t begin = item.key_lo < item.key_hi ? item.key_lo & -kShareRows : item.key_hi;
    LatentShare<T, S::kFp8, kMlaDim, S::kStride> share;
    if (begin < item.key_hi) {
      share.start(p, item, begin);
      share.template fetch<true>(p, item, S::kKeys);
    }
    int place = 0;
    for (int32_t key0 = begin; key0 < item.key_hi; key0 += S::kKeys) {
      T* tile = keys + place * (S::kKeyBytes / 2);
      if (S::kPlaces == 1) barrier();  // the tile before has been read
      share.put(reinterpret_cast<char*>(tile));
      barrier();
      share.template fetch<false>(p, item, S::kKeys);
      multiply_tile(key0, tile);
      if (S::kPlaces == 2) place ^= 1;
    }
  } else {
    for (int32_t key0 = item.key_lo; key0 < item.key_hi; key0 += S::kKeys) {
      barrier();  // the tile before has been read
      stage_tile<T, Staged::kLatents, S::kKeys, kMlaDim, S::kStride, kMlaThreads>(p, item.request, 0, key0, item.key_hi,
                                                                                  0, 1.0f, keys);
      barrier();
      multiply_tile(key0, keys);
    }
  }
  SEXTANT_UNROLL
  for (int m = 0; m < kRowTiles; ++m) {
    const float sum = sum_over_groups(rows[m].sum);
    if (!rows[m].valid) continue;
    const RowTarget target =
        end_row(p, item, rows[m].row, rows[m].row - row0, rows[m].max, sum, scale, wave == 0 && lane < 16);
    SEXTANT_UNROLL
    for (int c = 0; c < 2; ++c)
      store_output16<T, false>(target, 128 * wave + 64 * c + 16 * (lane / 16), p.head_dim_v, o[m][c]);
  }
}

}  // namespace sextant::hip
