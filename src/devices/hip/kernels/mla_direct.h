// MLA decode over latents of 16 bits on chips whose loads go straight to shared memory (gfx950): as mla_attention.h,
// but
//
//   places      four tiles of 32 latent rows, 144 KiB: one meets its probabilities, the next one the queries, two are
//   on
//               their way. So 72 KiB a CU are asked for at once, and a wait leaves the later half on its way
//   order       S^T of the next tile comes before the softmax of this one, so that the parts of its scores have met in
//               shared memory by the one barrier of the tile; products of the one lie among the softmax of the other
//   V^T         read transposed
#pragma once

#include "devices/hip/kernels/latent_tile.h"
#include "devices/hip/kernels/mla_attention.h"

namespace sextant::hip {

template <int kRowTiles_>
struct MlaDirectShape {
  static constexpr int kRowTiles = kRowTiles_, kRows = 16 * kRowTiles, kSubtiles = 2, kParts = 2, kPlaces = 4;
  static constexpr int kStepsAPart = LatentTile::kDim / 32 / kParts;
  static constexpr int kPartBytes = kRows * LatentTile::kKeys * 4, kScoreBytes = kParts * kPartBytes;
  static constexpr int kSharedBytes = kPlaces * LatentTile::kBytes + 2 * kScoreBytes;
};

// A lane's place among the scores of a part: keys 4 (lane / 16) to + 4 of row lane % 16; keys 16 further on are 64
// bytes away, up or down. Rows of 128 bytes, permuted by row.
SEXTANT_DEVICE int score_place() {
  const int row = lane_index() % 16;
  return row * 128 + (lane_index() / 16 ^ row >> 1) * 16;
}

template <class T, class S>
SEXTANT_DEVICE void mla_direct(const AttentionParams& p) {
  constexpr int kRowTiles = S::kRowTiles, kLoads = LatentTile::kLoads;
  WorkItem item;
  if (!find_item(p, block_index(), &item)) return;
  const int lane = lane_index(), wave = wave_index(), subtile = wave % 2, part = wave / 2;
  const int32_t row0 = item.row_tile * S::kRows;
  char* shared = shared_memory<S::kSharedBytes>();
  const auto tile_at = [&](int32_t t) { return shared + (t & (S::kPlaces - 1)) * LatentTile::kBytes; };
  const auto scores_at = [&](int32_t t) { return shared + S::kPlaces * LatentTile::kBytes + (t & 1) * S::kScoreBytes; };

  const int32_t begin = item.key_lo & -kShareRows;
  const int32_t tiles = uniform(item.key_lo < item.key_hi ? ceil_div(item.key_hi - begin, LatentTile::kKeys) : 0);
  LatentSend share;
  if (tiles > 0) {
    share.start(p, item, begin);
    share.send<true>(p, item, tile_at(0));
    share.send<false>(p, item, tile_at(1));
    share.send<false>(p, item, tile_at(2));
  }
  RowState rows[kRowTiles];
  Fragment<T> q[kRowTiles][S::kStepsAPart];
  SEXTANT_UNROLL
  for (int m = 0; m < kRowTiles; ++m) {
    rows[m] = make_row(p, item, row0 + 16 * m + lane % 16);
    load_mla_query<T>(p, item, rows[m], S::kStepsAPart * part, q[m]);
  }
  LatentKeys keys;
  keys.start(subtile, S::kStepsAPart * part);
  LatentValues values;
  values.start(wave);
  const int place = score_place();

  const float scale = key_scale(p, 0);
  const ScoreRule rule = make_score_rule(p, scale);
  f32x4 o[kRowTiles][2][4] = {};
  const MlaReach all = seen_by_all<S>(p, item, row0);
  // This wave's part of S^T of tile t.
  const auto multiply_keys = [&](int32_t t) {
    f32x4 s[kRowTiles] = {};
    SEXTANT_UNROLL
    for (int i = 0; i < S::kStepsAPart; ++i) {
      const Fragment<T> k = keys.read<T>(tile_at(t), i);
      SEXTANT_UNROLL
      for (int m = 0; m < kRowTiles; ++m) s[m] = multiply<T>(k, q[m][i], s[m]);
    }
    char* to = scores_at(t) + part * S::kPartBytes + (place ^ (64 * subtile));
    SEXTANT_UNROLL
    for (int m = 0; m < kRowTiles; ++m) *reinterpret_cast<f32x4*>(to + 2048 * m) = s[m];
  };
  // The row tile's scores of tile t, the parts summed.
  const auto read_scores = [&](int32_t t, int m, f32x4(&s)[2]) {
    const char* from = scores_at(t) + 2048 * m;
    SEXTANT_UNROLL
    for (int i = 0; i < 2; ++i)
      s[i] = *reinterpret_cast<const f32x4*>(from + (place ^ (64 * i))) +
             *reinterpret_cast<const f32x4*>(from + S::kPartBytes + (place ^ (64 * i)));
  };

  if (tiles > 0) {
    wait_for_loads<0>();  // for Q as well
    barrier();
    multiply_keys(0);
  }
  for (int32_t t = 0; t < tiles; ++t) {
    barrier();  // scores of t and rows of t + 1 are there; rows of t - 1 have been read
    share.send<false>(p, item, tile_at(t + 3));
    multiply_keys(t + 1);
    const int32_t key0 = begin + t * LatentTile::kKeys;
    const bool masked = key0 < all.first || key0 + LatentTile::kKeys > all.end;
    Fragment<T> weights[kRowTiles];
    SEXTANT_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      f32x4 s[2];
      read_scores(t, m, s);
      weights[m] = mla_softmax<T, 2>(item, rule, key0, masked, rows[m], s, o[m]);
    }
    SEXTANT_UNROLL
    for (int n = 0; n < 8; ++n) {
      const Fragment<T> v = values.read<T>(tile_at(t), n);
      SEXTANT_UNROLL
      for (int m = 0; m < kRowTiles; ++m) o[m][n / 4][n % 4] = multiply<T>(v, weights[m], o[m][n / 4][n % 4]);
    }
    wait_for_loads<kLoads>();  // rows of t + 2
  }
  SEXTANT_UNROLL
  for (int m = 0; m < kRowTiles; ++m) {
    const float sum = sum_over_groups(rows[m].sum);
    if (!rows[m].valid) continue;
    const RowTarget target =
        end_row(p, item, rows[m].row, rows[m].row - row0, rows[m].max, sum, scale, wave == 0 && lane < 16);
    SEXTANT_UNROLL
    for (int n = 0; n < 8; ++n) {
      const int d = 128 * wave + 16 * n + 4 * (lane / 16);
      if (d < p.head_dim_v) store_quad<T, false>(target, d, o[m][n / 4][n % 4]);
    }
  }
}

}  // namespace sextant::hip
