// Tuned forward attention for prefill and extend.
//
//   workgroup   8 waves (4 at head size 256), 32 query rows each: products of 32x32, one row of scores in two lanes
//   Q, O        in registers;  K, V tiles in shared memory, double-buffered (gfx950: four buffers, loads two tiles
//               ahead), chunks permuted by row against bank conflicts
//   S^T, O^T    S^T = K Q^T, O^T = V^T P^T: the first product's result is the second one's operand, so probabilities
//               stay in their lanes. A lane's 16 keys of a product are 4 h + {0..3, 8..11} of 16, h its half
//   V^T         gfx950 reads V transposed from shared memory; others write it transposed
//   softmax     the maximum is raised only when it grows by more than 8 (fp16: 4; log2): most tiles compare and go on,
//               without a word between lanes. Exponentials of 16 keys lie between the products of the 16 before
//   order       one barrier a tile. The first half of the waves, one of two on each SIMD, goes first where both want
//               the matrix unit; the other's softmax then falls into its products
//
// Tiles without masks run in a loop of their own; so do those with nothing but a softcap (softcap_curve.h).
//
// Caches of 16 bits or the chip's own fp8 whose tokens lie at one stride, and packed keys; the rest takes the portable
// kernel.
#pragma once

#include "devices/hip/kernels/forward_fetch.h"
#include "devices/hip/kernels/softcap_curve.h"

namespace sextant::hip {

// How scores become exponents. `kTerms`: they stay raw where all are small, and a SoftcapCurve of so many terms makes
// them exponents; 0: none does.
struct PlainRule {
  static constexpr bool kCapped = false, kMasked = false;
  static constexpr int kTerms = 0;
};
template <int kTerms_>
struct CappedRule {
  static constexpr bool kCapped = true, kMasked = false;
  static constexpr int kTerms = kTerms_;
};
// Masks and ALiBi besides.
template <class Rule>
struct Masked : Rule {
  static constexpr bool kMasked = true;
  static constexpr int kTerms = 0;
};
// The curve of a rule, of any where it has none.
template <class Rule>
using CurveOf = SoftcapCurve<Rule::kTerms == 0 ? 2 : Rule::kTerms>;

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

// Fragments of K that are read together; step i of a tile is part i % steps of k, keys of subtile i / steps.
template <class S>
struct KeyGroup {
  static constexpr int kSteps = S::DK / 16, kSize = group_size<S>(), kGroups = S::kSubtiles * kSteps / kSize;
  static_assert(S::kSubtiles * kSteps % kSize == 0);
  Fragment<typename S::T> k[kSize];

  SEXTANT_DEVICE_MEMBER void read(const char* keys, int group, int e) {
    const int step = group * kSize + e;
    k[e] = forward_key<S>(keys, step / kSteps, step % kSteps);
  }
};
// The first group of a tile, to be asked for long before it is multiplied.
template <class S>
SEXTANT_DEVICE KeyGroup<S> first_keys(const char* keys) {
  KeyGroup<S> group;
  SEXTANT_UNROLL
  for (int e = 0; e < KeyGroup<S>::kSize; ++e) group.read(keys, 0, e);
  order_fence();
  return group;
}

// S^T of the tile: s[t][r] is key 32 t + 8 (r / 4) + 4 h + r % 4 of the lane's row.
template <class S>
SEXTANT_DEVICE void forward_scores(const char* keys, const KeyGroup<S>& first,
                                   const Fragment<typename S::T> (&q)[S::DK / 16], f32x16 (&s)[S::kSubtiles]) {
  using Group = KeyGroup<S>;
  Group groups[2] = {first, first};
  SEXTANT_UNROLL
  for (int t = 0; t < S::kSubtiles; ++t) s[t] = f32x16{};
  SEXTANT_UNROLL
  for (int g = 0; g < Group::kGroups; ++g) {
    order_fence();
    SEXTANT_UNROLL
    for (int e = Group::kSize - 1; e >= 0; --e) {
      const int step = g * Group::kSize + e, t = step / Group::kSteps;
      s[t] = multiply_tall<typename S::T, S::kWide>(groups[g % 2].k[e], q[step % Group::kSteps], s[t]);
    }
    if (g + 1 < Group::kGroups) {
      SEXTANT_UNROLL
      for (int e = 0; e < Group::kSize; ++e) groups[(g + 1) % 2].read(keys, g + 1, e);
      // A read after each product.
      SEXTANT_UNROLL
      for (int e = 0; e < Group::kSize; ++e) {
        order_next<kMatrixGroup, S::kWide ? 1 : 2>();
        order_next<kSharedReadGroup, 1>();
      }
    }
  }
  // The last products lie among what follows.
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

// Raw scores to log2 units under the cap: cap tanh(x) = cap - 2 cap / (e^2x + 1). The rule's scale makes x of them.
template <class S>
SEXTANT_DEVICE void cap_scores(const ScoreRule& rule, f32x16 (&s)[S::kSubtiles]) {
  const float scale = made_here(rule.scale_log2) * (2.0f * kLog2E);
  const float cap = made_here(rule.cap_log2), height = -2.0f * cap;
  SEXTANT_UNROLL
  for (int t = 0; t < S::kSubtiles; ++t) {
    s[t] *= scale;
    SEXTANT_UNROLL
    for (int e = 0; e < 16; ++e) s[t][e] = exp2(s[t][e]);
    s[t] += 1.0f;
    SEXTANT_UNROLL
    for (int e = 0; e < 16; ++e) s[t][e] = reciprocal(s[t][e]);
    s[t] = s[t] * height + cap;
  }
}

// Scores to log2 units, softcap and masks in them.
template <class S, class Rule>
SEXTANT_DEVICE void finish_forward_scores(const AttentionParams& p, const WorkItem& item, const ScoreRule& rule,
                                          const ForwardRow& row, const ForwardTile& tile, f32x16 (&s)[S::kSubtiles]) {
  const int32_t first_key = tile.key0 + 4 * (lane_index() / 32);  // of this lane
  if constexpr (Rule::kCapped) {
    cap_scores<S>(rule, s);
  } else {
    SEXTANT_UNROLL
    for (int t = 0; t < S::kSubtiles; ++t) s[t] *= rule.scale_log2;
  }
  if constexpr (Rule::kMasked) {
    if (p.alibi_slopes != nullptr) {
      const float distance = static_cast<float>(first_key - item.request.context_len),
                  slope = made_here_by_lane(row.slope);
      SEXTANT_UNROLL
      for (int t = 0; t < S::kSubtiles; ++t) {
        SEXTANT_UNROLL
        for (int e = 0; e < 16; ++e) {
          const int key = 32 * t + 8 * (e / 4) + e % 4;
          s[t][e] += slope * (distance + static_cast<float>(key));
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

template <class S>
SEXTANT_DEVICE float largest(const f32x16 (&s)[S::kSubtiles]) {
  float top = kNegInf;
  SEXTANT_UNROLL
  for (int t = 0; t < S::kSubtiles; ++t) {
    SEXTANT_UNROLL
    for (int e = 0; e < 16; ++e) top = max_of(top, s[t][e]);
  }
  return top;
}

// Raises the row's maximum where a score exceeds it by more than the slack, for all lanes at once and seldom. `top`:
// largest score of this lane.
template <class S>
SEXTANT_DEVICE void raise_maximum(ForwardRow& row, float top, f32x16 (&o)[S::DV / 32]) {
  using Range = SeldomRaised<typename S::T>;
  if (__builtin_expect(ballot(top > row.max + Range::kMost) == 0, 1)) return;
  top = max_of(top, shuffle_xor(top, 32));
  top = top > row.max + Range::kMost ? top - Range::kShift : row.max;
  const float next = top == kNegInf ? 0.0f : top;
  const float factor = exp2(row.max - next);
  row.max = top;
  row.base = next;
  row.sum *= factor;
  SEXTANT_UNROLL
  for (int m = 0; m < S::DV / 32; ++m) o[m] *= factor;
}

// The same for raw scores under a cap; false: one is too large for the curve. Mostly one comparison of the largest
// |score| says that the curve holds and that the maximum stays.
template <class S, int kTerms>
SEXTANT_DEVICE bool raise_curved_maximum(const SmallScores<kTerms>& small, ForwardRow& row,
                                         const f32x16 (&s)[S::kSubtiles], f32x16 (&o)[S::DV / 32]) {
  float most = 0.0f;
  SEXTANT_UNROLL
  for (int t = 0; t < S::kSubtiles; ++t) {
    SEXTANT_UNROLL
    for (int e = 0; e < 16; ++e) most = max_of(most, __builtin_fabsf(s[t][e]));
  }
  // The curve lies below its tangent at 0.
  most *= small.curve.a[0];
  const float stays = row.max + SeldomRaised<typename S::T>::kMost;
  if (__builtin_expect(ballot(most > min(stays, small.most)) == 0, 1)) return true;
  if (ballot(most > small.most) != 0) return false;
  raise_maximum<S>(row, on_curve(small.curve, largest<S>(s)), o);
  return true;
}

// Probabilities of 16 keys as operand.
template <class S, class Rule>
SEXTANT_DEVICE Fragment<typename S::T> forward_weights(ForwardRow& row, const CurveOf<Rule>& curve, const f32x16& s,
                                                       int i) {
  f32x2 x[4];
  SEXTANT_UNROLL
  for (int e = 0; e < 4; ++e) x[e] = f32x2{s[8 * i + 2 * e], s[8 * i + 2 * e + 1]};
  if constexpr (Rule::kTerms > 0) {
    on_curve(curve, row.base, x);
  } else {
    SEXTANT_UNROLL
    for (int e = 0; e < 4; ++e) x[e] -= row.base;
  }
  Fragment<typename S::T> weights;
  SEXTANT_UNROLL
  for (int e = 0; e < 4; ++e) {
    const f32x2 y = {exp2(x[e][0]), exp2(x[e][1])};
    row.sum += y;
    weights.words[e] = pack_weights<S>(y[0], y[1]);
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

// From raw scores on; under a curve from raised maxima on. `between`: what else is to be done where waits are few;
// `at_end`: scalar work for among the last products.
template <class S, class Rule, class Between, class AtEnd>
SEXTANT_DEVICE void forward_tile(const AttentionParams& p, const WorkItem& item, const ScoreRule& rule,
                                 const CurveOf<Rule>& curve, const ForwardTile& tile, const char* values,
                                 f32x16 (&s)[S::kSubtiles], ForwardState<S>& f, const Between& between,
                                 const AtEnd& at_end) {
  using T = typename S::T;
  constexpr int kColumns = S::DV / 32, kSteps = S::kKeys / 16;
  if constexpr (Rule::kTerms == 0) {
    finish_forward_scores<S, Rule>(p, item, rule, f.row, tile, s);
    raise_maximum<S>(f.row, largest<S>(s), f.o);
  }
  between();
  Fragment<T> v[2][kColumns];
  SEXTANT_UNROLL
  for (int m = 0; m < kColumns; ++m) v[0][m] = forward_value<S>(values, m, 0);
  constexpr int kProducts = kColumns * (S::kWide ? 1 : 2);
  constexpr int kVectors = 20 + 4 * Rule::kTerms;  // of a step's probabilities
  order_fence();
  Fragment<T> weights = forward_weights<S, Rule>(f.row, curve, s[0], 0);
  SEXTANT_UNROLL
  for (int j = 0; j < kSteps; ++j) {
    const Fragment<T> now = weights;
    if (j + 1 < kSteps) {
      SEXTANT_UNROLL
      for (int m = 0; m < kColumns; ++m) v[(j + 1) % 2][m] = forward_value<S>(values, m, j + 1);
      order_fence();
      weights = forward_weights<S, Rule>(f.row, curve, s[(j + 1) / 2], (j + 1) % 2);
    } else {
      at_end();
    }
    SEXTANT_UNROLL
    for (int m = kColumns - 1; m >= 0; --m) f.o[m] = multiply_tall<T, S::kWide>(v[j % 2][m], now, f.o[m]);
    SEXTANT_UNROLL
    for (int i = 0; i < kProducts; ++i) {
      order_next<kMatrixGroup, 1>();
      if (j + 1 < kSteps) order_next<kVectorGroup, (kVectors + kProducts - 1) / kProducts>();
      if (j + 1 == kSteps && S::kDirect) order_next<kScalarGroup, 6>();
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
  ShareSource source;
  // Asks for tile t. `first`: it is the item's first. `may_switch`: it may be the first packed one after the cache.
  const auto fetch = [&](auto first, auto may_switch, int32_t t) {
    constexpr bool kFirst = decltype(first)::value;
    if (S::kHasPacked && decltype(may_switch)::value && t == tiles.cache_tiles) {
      seldom();
      place = key_place<S>(p, item, tiles, true);
      lanes = share_lanes<S>(p, place, wave, true);
      position = tiles.packed_begin + wave * S::kWaveKeys;
      source = share_source(place, position, id);
    }
    if constexpr (!S::kDirect) source = share_source(place, position, id);
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
  // Where loads go straight to shared memory, there is time for this among the last products of a tile.
  const auto find_source = [&] {
    if constexpr (S::kDirect) source = share_source(place, made_here(position), made_here(id));
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

  constexpr bool kCurved = Rule::kTerms > 0;
  SmallScores<kCurved ? Rule::kTerms : 2> small{};
  if constexpr (kCurved) small = small_scores<Rule::kTerms>(rule.scale_log2, rule.cap_log2);
  find_source();
  fetch(Yes{}, No{}, 0);
  receive_keys(0);
  if constexpr (S::kDirect) {
    find_source();
    fetch(No{}, Yes{}, 1);
    receive_keys(1);
    find_source();
    // For Q as well. The compiler does not see the loads to shared memory, and would wait for Q where it is multiplied,
    // in the loop: each time for all that is on its way.
    wait_for_loads<0>();
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
    f32x16 s[S::kSubtiles];
    bool scored = false;
    for (; t < plain_end; ++t) {
      const KeyGroup<S> first = first_keys<S>(keys_at(t));
      fetch(No{}, No{}, t + S::kAhead);
      forward_scores<S>(keys_at(t), first, f.q, s);
      if constexpr (kCurved) {
        scored = !raise_curved_maximum<S>(small, f.row, s, f.o);
        if (scored) break;
      }
      forward_tile<S, Rule>(
          p, item, rule, small.curve, tile, values_at(t), s, f, [&] { receive_keys(t + 1); }, find_source);
      receive_rest(t + 1);
    }
    if (t >= tiles.tiles) return;
    tile = tile_at<S>(tiles, t);
    if (!scored) fetch(No{}, Yes{}, t + S::kAhead);
    if constexpr (kCurved && S::kLongCurve) {
      // A tile without masks whose scores the curve is too short for: the longer one may do.
      const auto longer = small_scores<3>(made_here_by_lane(rule.scale_log2), made_here_by_lane(rule.cap_log2));
      if (scored && raise_curved_maximum<S>(longer, f.row, s, f.o)) {
        forward_tile<S, CappedRule<3>>(
            p, item, rule, longer.curve, tile, values_at(t), s, f, [&] { receive_keys(t + 1); }, find_source);
        receive_rest(t + 1);
        continue;
      }
    }
    if (tile.key0 <= reach.last && tile.key0 + S::kKeys > reach.first) {
      if (!scored) forward_scores<S>(keys_at(t), first_keys<S>(keys_at(t)), f.q, s);
      forward_tile<S, Masked<Rule>>(
          p, item, rule, small.curve, tile, values_at(t), s, f, [&] { receive_keys(t + 1); }, find_source);
    } else {
      receive_keys(t + 1);
      find_source();
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

  const int32_t last_query = query_of(p, min(row0 + S::kRows, num_rows) - 1);
  const int32_t begin = seen_keys(p, r, query_of(p, row0), item.key_lo, item.key_hi).first;
  const int32_t end = seen_keys(p, r, last_query, item.key_lo, item.key_hi).end;
  const int32_t wave_first = query_of(p, wave_row0), wave_last = query_of(p, wave_row0 + 31);
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
  ScoreRule rule = make_score_rule(p, key_scale(p, item.kv_head));
  // In scalar registers, of which some are left.
  rule.scale_log2 = uniform(rule.has_cap ? rule.scale_log2 * rule.cap_inverse : rule.scale_log2);
  rule.cap_log2 = uniform(rule.cap_log2);
  SEXTANT_UNROLL
  for (int m = 0; m < S::DV / 32; ++m) f.o[m] = f32x16{};
  if (tiles.tiles > 0) {
    if (rule.has_cap) {
      forward_loop<S, CappedRule<S::kCurves ? 2 : 0>>(p, item, rule, tiles, reach, f);
    } else {
      forward_loop<S, PlainRule>(p, item, rule, tiles, reach, f);
    }
  }
  if (!has_rows) return;
  const float sum = f.row.sum[0] + f.row.sum[1];
  const float total = sum + shuffle_xor(sum, 32);
  const int32_t row = made_here_by_lane(wave_row0 + lane_index() % 32);
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
