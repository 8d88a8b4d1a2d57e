// Tuned forward attention for prefill and extend.
//
//   workgroup   8 waves (4 at head size 256), 32 query rows each: products of 32x32, one row of scores in two lanes
//   Q, O        in registers;  K, V tiles in shared memory, double-buffered (gfx950: four buffers, loads two tiles
//               ahead), chunks permuted by row against bank conflicts
//   S^T, O^T    S^T = K Q^T, O^T = V^T P^T: the first product's result is the second one's operand, so probabilities
//               stay in their lanes. A lane's 16 keys of a product are 4 h + {0..3, 8..11} of 16, h its half
//   V^T         gfx950 reads V transposed from shared memory; others write it transposed
//   softmax     the maximum is raised only when it grows by more than 8 (log2): most tiles compare and go on, without a
//               word between lanes. Exponentials of 16 keys lie between the products of the 16 before
//   order       one barrier a tile. The first half of the waves, one of two on each SIMD, goes first where both want
//   the
//               matrix unit; the other's softmax then falls into its products
//
// Tiles without masks run in a loop of their own; so do those with nothing but a softcap.
//
// Caches of 16 bits or the chip's own fp8 whose tokens lie at one stride, and packed keys; the rest takes the portable
// kernel.
#pragma once

#include "devices/hip/kernels/forward_fetch.h"

namespace sextant::hip {

// How scores become exponents.
struct PlainRule {
  static constexpr bool kCapped = false, kMasked = false;
};
struct CappedRule {
  static constexpr bool kCapped = true, kMasked = false;
};
// Masks and ALiBi besides.
template <class Rule>
struct Masked : Rule {
  static constexpr bool kMasked = true;
};

// One query row as its two lanes l and l + 32 see it; they hold different keys.
struct ForwardRow {
  int32_t first, end;  // keys that it sees
  float slope;         // ALiBi, log2 units
  float max, base;
  f32x2 sum;  // this lane's share
};

// Two probabilities as operand, rounded: half of the last place is added before the rest is cut off, which takes one
// instruction an element less than ties to even. gfx950 has an instruction that rounds to bf16.
template <class S>
SEXTANT_DEVICE uint32_t pack_weights(float a, float b) {
  if constexpr (TypeTraits<typename S::T>::kFormat == Format::kF16) {
    constexpr uint32_t kHalf = 1u << 12;  // of 13 bits that go
    return cut_to_halves(float_of(bits_of(a) + kHalf), float_of(bits_of(b) + kHalf));
  } else if constexpr (S::kWide) {
    return pack_pair<bf16>(a, b);
  } else {
    constexpr uint32_t kHalf = 1u << 15;
    return high_halves(bits_of(a) + kHalf, bits_of(b) + kHalf);
  }
}

// Reads of shared memory come in groups that are asked for while the group before is multiplied, and the last to come
// is multiplied first: one wait a group. gfx950 has the registers for larger groups, because nothing is on its way in
// them.
template <class S>
SEXTANT_DEVICE constexpr int group_size() {
  if (!S::kDirect) return 4;
  return S::kSubtiles * S::DK / 16 % 8 == 0 ? 8 : 6;
}

// Fragment i of K's rows 32 t to + 32: dims 16 i + 8 h to + 8.
template <class S>
SEXTANT_DEVICE Fragment<typename S::T> forward_key(const char* keys, int t, int i) {
  const int row = lane_index() % 32, half = lane_index() / 32;
  const int first = (row * S::kKeyChunks + (half ^ key_swizzle<S>(row))) * 16;
  // Chunk 2 i + half, permuted: the bits above the permuted ones are added.
  constexpr int kPeriodBytes = (S::kWide && S::kKeyChunks >= 16 ? 16 : 8) * 16;
  const int low = 32 * i % kPeriodBytes, high = 32 * i - low;
  return load_fragment<typename S::T>(keys + (first ^ low) + high + 32 * t * S::kKeyChunks * 16);
}

// S^T of the tile: s[t][r] is key 32 t + 8 (r / 4) + 4 h + r % 4 of the lane's row.
template <class S>
SEXTANT_DEVICE void forward_scores(const char* keys, const Fragment<typename S::T> (&q)[S::DK / 16],
                                   f32x16 (&s)[S::kSubtiles]) {
  using T = typename S::T;
  constexpr int kSteps = S::DK / 16, kGroup = group_size<S>(), kGroups = S::kSubtiles * kSteps / kGroup;
  static_assert(S::kSubtiles * kSteps % kGroup == 0);
  Fragment<T> k[2][kGroup];
  SEXTANT_UNROLL
  for (int e = 0; e < kGroup; ++e) k[0][e] = forward_key<S>(keys, e / kSteps, e % kSteps);
  order_fence();
  SEXTANT_UNROLL
  for (int t = 0; t < S::kSubtiles; ++t) s[t] = f32x16{};
  SEXTANT_UNROLL
  for (int g = 0; g < kGroups; ++g) {
    if (g + 1 < kGroups) {
      SEXTANT_UNROLL
      for (int e = 0; e < kGroup; ++e) {
        const int step = (g + 1) * kGroup + e;
        k[(g + 1) % 2][e] = forward_key<S>(keys, step / kSteps, step % kSteps);
      }
      order_fence();
    }
    SEXTANT_UNROLL
    for (int e = kGroup - 1; e >= 0; --e) {
      const int step = g * kGroup + e;
      s[step / kSteps] = multiply_tall<T, S::kWide>(k[g % 2][e], q[step % kSteps], s[step / kSteps]);
    }
    if (g + 1 < kGroups) order_fence();
  }
}

// V^T of dims 32 m to + 32 and keys 16 j to + 16.
template <class S>
SEXTANT_DEVICE Fragment<typename S::T> forward_value(const char* values, int m, int j) {
  using T = typename S::T;
  const int lane = lane_index(), half = lane / 32;
  if constexpr (S::kDirect) {
    const int row = 4 * half + lane % 16 / 4, chunk = 2 * (lane / 16 & 1) + (lane & 2) / 2;
    const int first = (row * S::kValueChunks + (chunk ^ value_swizzle<S>(row))) * 16 + (lane & 1) * 8;
    constexpr int kPeriodBytes = (S::kValueChunks >= 16 ? 16 : 8) * 16;
    const int low = 64 * m % kPeriodBytes, high = 64 * m - low;
    const char* from = values + (first ^ low) + high + 16 * j * S::kValueChunks * 16;
    const u32x2 a = read_transposed(from), b = read_transposed(from + 8 * S::kValueChunks * 16);
    return {u32x4{a[0], a[1], b[0], b[1]}};
  } else {
    const int dim = lane % 32, first = (dim * (S::kKeys / 8) + (half ^ transposed_swizzle<S>(dim))) * 16;
    return load_fragment<T>(values + (first ^ (32 * j)) + 32 * m * S::kKeys * 2);
  }
}

// Scores to log2 units, softcap and masks in them.
template <class S, class Rule>
SEXTANT_DEVICE void finish_forward_scores(const AttentionParams& p, const WorkItem& item, const ScoreRule& rule,
                                          const ForwardRow& row, const ForwardTile& tile, f32x16 (&s)[S::kSubtiles]) {
  const int32_t first_key = tile.key0 + 4 * (lane_index() / 32);  // of this lane
  if constexpr (Rule::kCapped) {
    // cap tanh(x) = cap - 2 cap / (e^2x + 1)
    const float scale = rule.scale_log2 * rule.cap_inverse * (2.0f * kLog2E), height = -2.0f * rule.cap_log2;
    SEXTANT_UNROLL
    for (int t = 0; t < S::kSubtiles; ++t) {
      s[t] *= scale;
      SEXTANT_UNROLL
      for (int e = 0; e < 16; ++e) s[t][e] = exp2(s[t][e]);
      s[t] += 1.0f;
      SEXTANT_UNROLL
      for (int e = 0; e < 16; ++e) s[t][e] = reciprocal(s[t][e]);
      s[t] = s[t] * height + rule.cap_log2;
    }
  } else {
    SEXTANT_UNROLL
    for (int t = 0; t < S::kSubtiles; ++t) s[t] *= rule.scale_log2;
  }
  if constexpr (Rule::kMasked) {
    if (p.alibi_slopes != nullptr) {
      const float distance = static_cast<float>(first_key - item.request.context_len);
      SEXTANT_UNROLL
      for (int t = 0; t < S::kSubtiles; ++t) {
        SEXTANT_UNROLL
        for (int e = 0; e < 16; ++e) {
          const int key = 32 * t + 8 * (e / 4) + e % 4;
          s[t][e] += row.slope * (distance + static_cast<float>(key));
        }
      }
    }
    // No score may be seen at or after `last`, nor before `first`; counted from this lane's first key.
    const int32_t last = min(row.end, tile.end) - first_key;
    const int32_t first = max(row.first, tile.first) - first_key;
    SEXTANT_UNROLL
    for (int t = 0; t < S::kSubtiles; ++t) {
      SEXTANT_UNROLL
      for (int e = 0; e < 16; ++e) {
        const int key = 32 * t + 8 * (e / 4) + e % 4;
        s[t][e] = key < last && key >= first ? s[t][e] : kNegInf;
      }
    }
  }
}

// Raises the row's maximum where a score exceeds it by more than 8, for all lanes at once and seldom.
template <class S>
SEXTANT_DEVICE void raise_maximum(ForwardRow& row, const f32x16 (&s)[S::kSubtiles], f32x16 (&o)[S::DV / 32]) {
  float top = kNegInf;
  SEXTANT_UNROLL
  for (int t = 0; t < S::kSubtiles; ++t) {
    SEXTANT_UNROLL
    for (int e = 0; e < 16; ++e) top = max_of(top, s[t][e]);
  }
  if (__builtin_expect(ballot(top > row.max + 8.0f) == 0, 1)) return;
  top = max_of(top, shuffle_xor(top, 32));
  if (!(top > row.max + 8.0f)) top = row.max;
  const float next = top == kNegInf ? 0.0f : top;
  const float factor = exp2(row.max - next);
  row.max = top;
  row.base = next;
  row.sum *= factor;
  SEXTANT_UNROLL
  for (int m = 0; m < S::DV / 32; ++m) o[m] *= factor;
}

// Probabilities of 16 keys as operand.
template <class S>
SEXTANT_DEVICE Fragment<typename S::T> forward_weights(ForwardRow& row, const f32x16& s, int i) {
  Fragment<typename S::T> weights;
  SEXTANT_UNROLL
  for (int e = 0; e < 8; e += 2) {
    const f32x2 x = f32x2{s[8 * i + e], s[8 * i + e + 1]} - row.base;
    const f32x2 y = {exp2(x[0]), exp2(x[1])};
    row.sum += y;
    weights.words[e / 2] = pack_weights<S>(y[0], y[1]);
  }
  return weights;
}

// What a workgroup carries through its tiles.
template <class S>
struct ForwardState {
  Fragment<typename S::T> q[S::DK / 16];
  f32x16 o[S::DV / 32];
  ForwardRow row;
};

// `between`: what else is to be done where waits are few.
template <class S, class Rule, class Between>
SEXTANT_DEVICE void forward_tile(const AttentionParams& p, const WorkItem& item, const ScoreRule& rule,
                                 const ForwardTile& tile, const char* keys, const char* values, ForwardState<S>& f,
                                 const Between& between) {
  using T = typename S::T;
  constexpr int kColumns = S::DV / 32, kSteps = S::kKeys / 16;
  f32x16 s[S::kSubtiles];
  forward_scores<S>(keys, f.q, s);
  finish_forward_scores<S, Rule>(p, item, rule, f.row, tile, s);
  raise_maximum<S>(f.row, s, f.o);
  between();
  Fragment<T> v[2][kColumns];
  SEXTANT_UNROLL
  for (int m = 0; m < kColumns; ++m) v[0][m] = forward_value<S>(values, m, 0);
  constexpr int kProducts = kColumns * (S::kWide ? 1 : 2);
  order_fence();
  Fragment<T> weights = forward_weights<S>(f.row, s[0], 0);
  SEXTANT_UNROLL
  for (int j = 0; j < kSteps; ++j) {
    const Fragment<T> now = weights;
    if (j + 1 < kSteps) {
      SEXTANT_UNROLL
      for (int m = 0; m < kColumns; ++m) v[(j + 1) % 2][m] = forward_value<S>(values, m, j + 1);
      order_fence();
      weights = forward_weights<S>(f.row, s[(j + 1) / 2], (j + 1) % 2);
    }
    SEXTANT_UNROLL
    for (int m = kColumns - 1; m >= 0; --m) f.o[m] = multiply_tall<T, S::kWide>(v[j % 2][m], now, f.o[m]);
    SEXTANT_UNROLL
    for (int i = 0; i < kProducts; ++i) {
      order_next<kMatrixGroup, 1>();
      if (j + 1 < kSteps) order_next<kVectorGroup, (20 + kProducts - 1) / kProducts>();
    }
    order_fence();
  }
}

// Keys that a wave's rows see.
struct ForwardReach {
  int32_t first, last;         // seen by some row
  int32_t all_first, all_end;  // [all_first, all_end) seen by all rows
};

// All tiles of an item.
template <class S, class Rule>
SEXTANT_DEVICE void forward_loop(const AttentionParams& p, const WorkItem& item, const ScoreRule& rule,
                                 const ForwardTiles& tiles, const ForwardReach& reach, ForwardState<S>& f) {
  char* shared = shared_memory<S::kSharedBytes>();
  const auto keys_at = [&](int32_t t) { return shared + (t & (S::kBuffers - 1)) * S::kStep; };
  const auto values_at = [&](int32_t t) { return keys_at(t) + S::kKeyBytes; };
  const int wave = wave_index();
  const bool all_packed = S::kHasPacked && tiles.cache_tiles == 0;
  KeyPlace place = key_place<S>(p, item, tiles, all_packed);
  ShareLanes<S> lanes = share_lanes<S>(p, place, wave, all_packed);
  ShareWords<S> words;
  // The wave's share of the tile to be asked for next, and its block.
  int32_t position = tile_at<S>(tiles, 0).key0 + wave * S::kWaveKeys;
  int32_t id = block_id(place, position);
  // Asks for tile t. `first`: it is the item's first. `may_switch`: it may be the first packed one after the cache.
  const auto fetch = [&](auto first, auto may_switch, int32_t t) {
    constexpr bool kFirst = decltype(first)::value;
    if (S::kHasPacked && decltype(may_switch)::value && t == tiles.cache_tiles) {
      seldom();
      place = key_place<S>(p, item, tiles, true);
      lanes = share_lanes<S>(p, place, wave, true);
      position = tiles.packed_begin + wave * S::kWaveKeys;
    }
    const ShareSource source = share_source(place, position, id);
    if constexpr (S::kDirect) {
      send_share<S, kFirst>(source, lanes, keys_at(t), values_at(t));
    } else {
      fetch_share<S, kFirst>(place, source, lanes, words);
    }
  };
  // In the middle of a tile, while tile t is on its way: the block id of the share after it, which is there when the
  // next barrier is passed; and the keys that came, whose registers the rest of the tile can use.
  const auto receive_keys = [&](int32_t t) {
    position += S::kKeys;
    id = block_id(place, position);
    if constexpr (!S::kDirect) {
      wait_for_loads<4 * S::kValueLoads>();
      put_keys<S>(words, lanes, keys_at(t));
    }
  };
  const auto receive_rest = [&](int32_t t) {
    if constexpr (S::kDirect) {
      wait_for_loads<(S::kAhead - 1) * (S::kKeyLoads + S::kValueLoads)>();
    } else {
      wait_for_loads<0>();
      put_values<S>(words, lanes, values_at(t));
    }
    barrier();
  };
  using Yes = std::true_type;
  using No = std::false_type;

  fetch(Yes{}, No{}, 0);
  receive_keys(0);
  if constexpr (S::kDirect) {
    fetch(No{}, Yes{}, 1);
    receive_keys(1);
  }
  receive_rest(0);
  if (wave < S::kWaves / 2) set_priority<1>();
  for (int32_t t = 0; t < tiles.tiles; ++t) {
    ForwardTile tile = tile_at<S>(tiles, t);
    // Tiles from here on that all rows see whole; the one that asks for the first packed tile is left to what follows.
    const int32_t border = min(tile.end, reach.all_end);
    const bool inside = tile.key0 >= max(tile.first, reach.all_first) && border > tile.key0;
    int32_t plain_end = inside ? t + (border - tile.key0) / S::kKeys : t;
    if (S::kHasPacked && t + S::kAhead <= tiles.cache_tiles) plain_end = min(plain_end, tiles.cache_tiles - S::kAhead);
    for (; t < plain_end; ++t) {
      fetch(No{}, No{}, t + S::kAhead);
      forward_tile<S, Rule>(p, item, rule, tile, keys_at(t), values_at(t), f, [&] { receive_keys(t + 1); });
      receive_rest(t + 1);
    }
    if (t >= tiles.tiles) return;
    tile = tile_at<S>(tiles, t);
    fetch(No{}, Yes{}, t + S::kAhead);
    if (tile.key0 <= reach.last && tile.key0 + S::kKeys > reach.first) {
      forward_tile<S, Masked<Rule>>(p, item, rule, tile, keys_at(t), values_at(t), f, [&] { receive_keys(t + 1); });
    } else {
      receive_keys(t + 1);
    }
    receive_rest(t + 1);
  }
}

template <class S>
SEXTANT_DEVICE void forward_attention(const AttentionParams& p) {
  using T = typename S::T;
  WorkItem item;
  if (!find_item(p, block_index(), &item)) return;
  const Request& r = item.request;
  const int32_t row0 = item.row_tile * S::kRows, num_rows = r.query_len * p.group_size;
  const int32_t wave_row0 = row0 + 32 * wave_index();
  const bool has_rows = wave_row0 < num_rows;
  ForwardState<S> f;
  const RowState lane_row = make_row(p, item, wave_row0 + lane_index() % 32);
  f.row = {lane_row.first, lane_row.end, lane_row.slope, kNegInf, 0.0f, f32x2{0, 0}};
  load_tall_query<T>(p, item, lane_row.row, lane_row.valid, f.q);

  const int32_t last_query = (min(row0 + S::kRows, num_rows) - 1) / p.group_size;
  const int32_t begin = seen_keys(p, r, row0 / p.group_size, item.key_lo, item.key_hi).first;
  const int32_t end = seen_keys(p, r, last_query, item.key_lo, item.key_hi).end;
  const int32_t wave_first = wave_row0 / p.group_size, wave_last = (wave_row0 + 31) / p.group_size;
  ForwardReach reach;
  reach.first = seen_keys(p, r, wave_first, begin, end).first;
  reach.last = seen_keys(p, r, min(wave_last, last_query), begin, end).end - 1;
  reach.all_first = first_seen(p.reach, r.context_len + wave_last, begin);  // spans only add to that
  reach.all_end = end_seen(p.reach, r.context_len + wave_first, end);
  if (p.alibi_slopes != nullptr) reach.all_end = reach.all_first;  // no tile is plain
  if (!has_rows) {
    reach.last = reach.first - 1;
    reach.all_end = reach.all_first;
  }

  const ForwardTiles tiles = forward_tiles<S>(p, item, begin, max(begin, end));
  const ScoreRule rule = make_score_rule(p, key_scale(p, item.kv_head));
  SEXTANT_UNROLL
  for (int m = 0; m < S::DV / 32; ++m) f.o[m] = f32x16{};
  if (tiles.tiles > 0) {
    if (rule.has_cap) {
      forward_loop<S, CappedRule>(p, item, rule, tiles, reach, f);
    } else {
      forward_loop<S, PlainRule>(p, item, rule, tiles, reach, f);
    }
  }
  if (!has_rows) return;
  const float sum = f.row.sum[0] + f.row.sum[1];
  const float total = sum + shuffle_xor(sum, 32);
  const int32_t row = wave_row0 + lane_index() % 32;
  if (row >= num_rows) return;
  const int half = lane_index() / 32;
  const RowTarget target = end_row(p, item, row, row - row0, f.row.max, total, value_scale(p, item.kv_head), half == 0);
  SEXTANT_UNROLL
  for (int m = 0; m < S::DV / 32; ++m) {
    SEXTANT_UNROLL
    for (int e = 0; e < 16; e += 4) {
      const int d = 32 * m + 2 * e + 4 * half;
      if (d < p.head_dim_v)
        store_quad<T, true>(target, d, f32x4{f.o[m][e], f.o[m][e + 1], f.o[m][e + 2], f.o[m][e + 3]});
    }
  }
}

}  // namespace sextant::hip
