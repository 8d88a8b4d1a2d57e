// Attention of one item: query rows of one KV head against a range of keys, by tiles of keys.
//
//   for each tile of keys:    K, V packed once into scratch that stays in L2   (many rows; few rows: 64 tokens at a
//   time, in L1)
//     for each block of rows: S = Q K^T;  online softmax -> P;  O = diag(alpha) O + P V
//
// Masks are one interval of visible positions a row, so a tile or row block that sees nothing is skipped before memory
// is touched. A row's arithmetic depends on its own data and on absolute positions alone: tiles begin at multiples of
// tile_keys, columns left out or added contribute exact zeros. So the bits of a row are the same whatever other rows
// share the item and whatever the block size.
#pragma once

#include "devices/cpu/kernels/engine_fma.h"
#include "devices/cpu/kernels/key_rows.h"
#include "devices/cpu/kernels/prefetch.h"
#include "devices/cpu/kernels/scratch_space.h"
#include "devices/cpu/kernels/softmax.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

// Scratch of one item, carved out of one allocation; the same walk gives its size.
template <class E>
struct AttentionScratch {
  using Elem = typename E::Elem;
  static constexpr int kBuffers = E::kInterleaved ? 2 : 1;
  // Tiles of a group (key_groups.h): two groups share the second-level cache with the rows.
  static constexpr int64_t kGroupBytes = 320 << 10, kMostTiles = 4;
  int64_t rows_padded, depth, dv_padded, widest, o_stride, s_stride, p_stride, v_tokens, block;
  int64_t k_slot, v_slot, slots;  // tiles that K and V have room for; v[1] is the second half of v[0]
  Elem* q;                        // [rows_padded, depth]; interleaved: tiles of 16 x 32
  float* o;                       // [rows_padded, o_stride]
  Elem* k;                        // [slots][tile / 16][depth / unit][16][unit]
  Elem* v[kBuffers];              // [dv_padded / 16][v_tokens / unit][16][unit]
  float* s[kBuffers];             // [block, s_stride]; interleaved: two strips (strip_softmax.h) in s[0]
  Elem* p[kBuffers];              // [block, p_stride]; interleaved: [tile / 32][32 rows][32]
  float* row_max;                 // [rows_padded], base 2
  float* row_sum;                 // [rows_padded]
  // Interleaved: row_sum is of weights in 8 bits; these are of weights as they are, where the logarithm is wanted.
  float* row_exact;               // [rows_padded]
  float *lane_sums, *exact_sums;  // [rows_padded, kPanel]: what is still to be added
  int32_t* lo;                    // [rows_padded] visible positions relative to the item's first
  int32_t* hi;
  const char** pointers;  // [kTokensAtOnce]
  const char** next;      // [2 * tile] rows that the next tile reads
  char* staging;          // [kTokensAtOnce, max dim] of up to 4 bytes
  Elem* scaled;           // [kTokensAtOnce, max dim]: rows with a scale of their own, times it
  float* scales;          // [kPanel] of tokens
  char* zeros;            // one row of zeros
  size_t bytes;

  AttentionScratch(void* base, int64_t rows, int64_t head_dim, int64_t head_dim_v, int64_t tile) {
    rows_padded = round_up(rows, E::kRowPad);
    block = round_up(E::kRowBlock < rows ? E::kRowBlock : rows, E::kRowPad);
    const int64_t wide = round_up(head_dim, 32);
    depth = wide * E::kParts;
    dv_padded = round_up(head_dim_v, 32);
    // Tiles are stored sixteen rows at once, values of a token into all panels at once: 2^n bytes apart these would
    // share a few sets of the cache.
    o_stride = dv_padded + (E::kInterleaved ? 16 : 0);
    s_stride = tile + (E::kInterleaved ? 16 : 0);
    p_stride = tile * E::kParts;
    v_tokens = p_stride + 64 / kPanel / static_cast<int64_t>(sizeof(Elem));
    k_slot = tile * depth;
    v_slot = v_tokens * dv_padded;
    const int64_t in_group = kGroupBytes / ((k_slot + v_slot) * static_cast<int64_t>(sizeof(Elem)));
    slots = E::kInterleaved ? 2 * smaller(larger(in_group, 1), kMostTiles) : 1;
    widest = larger(wide, dv_padded);
    ScratchSpace space(base);
    q = space.take<Elem>(rows_padded * depth);
    o = space.take<float>(rows_padded * o_stride);
    k = space.take<Elem>(k_slot * slots);
    for (auto& x : v) x = space.take<Elem>(v_slot * (slots / kBuffers));
    for (auto& x : s) x = space.take<float>(block * s_stride);
    for (auto& x : p) x = space.take<Elem>(block * p_stride);
    row_max = space.take<float>(rows_padded);
    row_sum = space.take<float>(rows_padded);
    const int64_t lanes = E::kInterleaved ? kPanel : 0;
    row_exact = space.take<float>(lanes > 0 ? rows_padded : 0);
    lane_sums = space.take<float>(rows_padded * lanes);
    exact_sums = space.take<float>(rows_padded * lanes);
    lo = space.take<int32_t>(rows_padded);
    hi = space.take<int32_t>(rows_padded);
    pointers = space.take<const char*>(kTokensAtOnce);
    next = space.take<const char*>(E::kInterleaved ? 0 : 2 * tile);
    staging = space.take<char>(kTokensAtOnce * widest, 4);
    scaled = space.take<Elem>(kTokensAtOnce * widest);
    scales = space.take<float>(kPanel);
    zeros = space.take<char>(widest, 4);
    bytes = space.bytes();
  }
};

// Many rows, where the engine's products run beside the softmax: attention_interleaved.h.
template <class E>
class InterleavedTiles;
// The latent of MLA, on the same unit: latent_amx.h.
template <class E>
class LatentTiles;

template <class E>
struct AttentionRun {
  using Elem = typename E::Elem;
  const AttentionItem& it;
  AttentionScratch<E> m;
  int64_t rows;
  int64_t first_key = 0, last_key = 0;  // union of all rows' intervals
  float out_factor = 1.0f;              // v_scale of the values summed so far
  bool empty = true;                    // o holds nothing yet
  uint64_t blocks_with_output = 0;      // interleaved: the first product of a block writes its part of o
  // The tile at work.
  const KeySource* source = nullptr;
  int64_t tile_begin = 0;      // multiple of tile_keys
  int64_t begin = 0, end = 0;  // positions of the source in this tile
  Prefetcher prefetcher;       // of the next tile's rows, while this one is multiplied

  explicit AttentionRun(const AttentionItem& item)
      : it(item),
        m(item.scratch, item.num_tokens * item.num_heads, item.head_dim, item.head_dim_v, item.tile_keys),
        rows(item.num_tokens * item.num_heads) {}

  // Whether the logarithm of a row's sum is wanted, or may be later.
  bool exact() const { return it.lse != nullptr || it.partial_out != nullptr; }

  // Rows of tokens and heads in their order. Tokens of other heads lie between those of an item, too far apart for the
  // prefetcher of the machine: so each row's turn announces a later one, never many lines at once.
  class RowCursor {
   public:
    RowCursor(const void* base, int64_t token_stride, int64_t head_stride, int64_t heads, int64_t bytes)
        : row_(static_cast<const char*>(base)),
          head_step_(head_stride * bytes),
          token_step_((token_stride - (heads - 1) * head_stride) * bytes),
          heads_(heads) {}
    const char* next() {
      const char* row = row_;
      const bool last = ++head_ == heads_;
      row_ += last ? token_step_ : head_step_;
      if (last) head_ = 0;
      return row;
    }

   private:
    const char* row_;
    int64_t head_step_, token_step_, heads_, head_ = 0;
  };
  static constexpr int64_t kRowsAhead = 24;

  void load_queries() {
    const int64_t bytes = element_bytes(it.dtype);
    // Rows of padding are zero.
    for (int64_t i = rows / E::kRowPad * E::kRowPad * m.depth; i < m.rows_padded * m.depth; ++i) m.q[i] = Elem{};
    RowCursor queries(it.q, it.q_token_stride, it.q_head_stride, it.num_heads, bytes), ahead = queries;
    for (int64_t r = 0; r < smaller(kRowsAhead, rows); ++r) ahead.next();
    dispatch_dtype(it.dtype, [&]<DType T>() {
      for (int64_t r = 0; r < rows; ++r) {
        if (r + kRowsAhead < rows) {
          const char* row = ahead.next();
          for (int64_t b = 0; b < it.head_dim * bytes; b += 64) __builtin_prefetch(row + b);
        }
        E::template pack_query<T>(queries.next(), it.head_dim, m.depth, r, m.q);
      }
    });
    if constexpr (!E::kInterleaved) clear_output(0, m.rows_padded);
    if constexpr (E::kInterleaved) {
      __builtin_memset(m.lane_sums, 0, static_cast<size_t>(m.rows_padded * kPanel) * sizeof(float));
      __builtin_memset(m.row_exact, 0, static_cast<size_t>(m.rows_padded) * sizeof(float));
      if (exact()) __builtin_memset(m.exact_sums, 0, static_cast<size_t>(m.rows_padded * kPanel) * sizeof(float));
    }
    __builtin_memset(m.zeros, 0, static_cast<size_t>(m.widest) * 4);
    first_key = INT64_MAX;
    last_key = 0;
    for (int64_t token = 0, r = 0; token < it.num_tokens; ++token) {
      const int64_t lo = larger(it.key_lo[token], it.key_begin), hi = smaller(it.key_hi[token], it.key_end);
      for (const int64_t last = r + it.num_heads; r < last; ++r) {
        m.lo[r] = static_cast<int32_t>(lo);
        m.hi[r] = static_cast<int32_t>(hi > lo ? hi : lo);
        m.row_max[r] = kNegInf;
        m.row_sum[r] = 0.0f;
      }
      if (hi <= lo) continue;
      first_key = smaller(first_key, lo);
      last_key = larger(last_key, hi);
    }
  }

  // The visible positions of rows [r0, r1): their union and their intersection.
  struct RowBounds {
    int64_t lo_min, lo_max, hi_min, hi_max;
  };
  RowBounds bounds_of(int64_t r0, int64_t r1) const {
    RowBounds x = {INT64_MAX, 0, INT64_MAX, 0};
    for (int64_t r = r0; r < r1; r = (r / it.num_heads + 1) * it.num_heads) {  // rows of a token see the same
      x.lo_max = larger(x.lo_max, m.lo[r]);
      x.hi_min = smaller(x.hi_min, m.hi[r]);
      if (m.hi[r] <= m.lo[r]) continue;
      x.lo_min = smaller(x.lo_min, m.lo[r]);
      x.hi_max = larger(x.hi_max, m.hi[r]);
    }
    return x;
  }
  // An item has at most 1024 rows (kernel tables), 32 blocks.
  bool has_output(int64_t row) const { return (blocks_with_output >> row / E::kRowBlock & 1) != 0; }

  // Columns [from, to) of the tile that some of these rows see, and whether a mask is needed there. Scores are made by
  // whole panels; values from `last` on have no weight.
  struct Columns {
    int64_t from = 0, to = 0;
    bool masked = false;
    int64_t last = 0;
  };
  Columns visible_columns(const RowBounds& x) const {
    const int64_t from = larger(x.lo_min, begin), to = smaller(x.hi_max, end);
    if (from >= to) return {};
    const int64_t c0 = (from - tile_begin) / E::kColumns * E::kColumns, c1 = round_up(to - tile_begin, E::kColumns);
    return {
        c0, c1,
        x.lo_max > tile_begin + c0 || begin > tile_begin + c0 || x.hi_min < tile_begin + c1 || end < tile_begin + c1,
        round_up(to - tile_begin, E::kDepthStep)};
  }
  Columns visible_columns(int64_t r0, int64_t r1) const { return visible_columns(bounds_of(r0, r1)); }

  // A cache that already holds the pairs the products want: whole groups of 16 tokens are copied as they lie, others by
  // what lies together.
  bool has_pairs() const { return E::kReadsPairs && source->packed_layout && !has_codes(); }
  bool copies_pairs() const { return has_pairs() && source->block_size % kPanel == 0; }
  // ... or, of keys, read as they lie: where nothing is to be cleared behind their dims.
  bool keys_in_place() const { return E::kInterleaved && copies_pairs() && it.head_dim == m.depth; }
  // ... or the same of codes, which are widened on the way.
  bool has_codes() const { return element_bytes(source->dtype) == 1; }
  bool widens_pairs() const {
    return E::kReadsPairs && source->packed_layout && has_codes() && source->block_size % kPanel == 0;
  }
  // m.pointers of the tokens of columns [column, column + count), null for those that nobody sees.
  void locate_pairs(const KeyTensor& t, int64_t column, int64_t count) {
    const int64_t first = tile_begin + column;
    const int64_t from = larger(begin - first, 0), to = smaller(end - first, count);
    for (int64_t i = 0; i < count; ++i) m.pointers[i] = nullptr;
    if (from < to) locate_rows(*source, t, first, from, to, m.pointers);
  }
  const char* block_at(const void* base, const KvAddressing& addr, int64_t position) const {
    const int64_t block = source->block_table[position / source->block_size];
    return static_cast<const char*>(base) +
           (block * addr.block_stride + position % source->block_size / addr.token_tile * addr.token_outer_stride) *
               element_bytes(source->dtype);
  }
  // Scales of `count` tokens from `position` on, of one block; 0 for those that nobody sees, whose codes may be
  // anything.
  const float* token_scales(const float* scales, int64_t position, int64_t count) {
    if (scales == nullptr) return nullptr;
    const int64_t block = source->block_table[position / source->block_size];
    const float* first =
        scales + block * source->scale_block_stride + position % source->block_size * source->scale_token_stride;
    for (int64_t i = 0; i < count; ++i)
      m.scales[i] = position + i >= begin && position + i < end ? first[i * source->scale_token_stride] : 0.0f;
    return m.scales;
  }

  template <class Between = NothingBetween>
  void pack_keys(int64_t column, int64_t count, Elem* dst, const Between& between = {}) {
    if (copies_pairs()) {
      for (int64_t t = 0; t < count; t += kPanel) {
        const int64_t position = tile_begin + column + t;
        // Columns outside [begin, end) are masked later, whatever they hold.
        const bool used = position < end && position + kPanel > begin;
        copy_or_clear(used ? reinterpret_cast<const Elem*>(block_at(source->k, source->k_addr, position)) : nullptr,
                      it.head_dim * kPanel, m.depth * kPanel, dst + t * m.depth);
        between();
      }
      return;
    }
    if constexpr (E::kReadsPairs)
      if (widens_pairs()) return widen_keys(column, count, dst, between);
    const KeyTensor t = {static_cast<const char*>(source->k), &source->k_addr, source->k_row_stride, it.head_dim};
    if constexpr (E::kReadsPairs)
      if (has_pairs()) {
        locate_pairs(t, column, count);
        for (int64_t i = 0; i < count; i += kPanel, dst += kPanel * m.depth) {
          E::template collect_key_panel<2>(m.pointers + i, it.head_dim, reinterpret_cast<char*>(dst));
          // Beyond the head size the products read zeros of Q, and what lies here: 0 * NaN is NaN.
          const int64_t collected = round_up(it.head_dim, 2) * kPanel;
          __builtin_memset(dst + collected, 0, static_cast<size_t>(m.depth * kPanel - collected) * sizeof(Elem));
          between();
        }
        return;
      }
    find_rows(*source, t, tile_begin + column, count, begin, end, m.zeros, m.staging, m.pointers);
    dispatch_dtype(scale_rows(source->k_row_scales, t, column, count),
                   [&]<DType T>() { E::template pack_keys<T>(m.pointers, count, it.head_dim, m.depth, dst, between); });
  }
  // Multiplies rows that have scales of their own, in place of m.pointers. Gives the type that the rows then have.
  DType scale_rows(const float* scales, const KeyTensor& t, int64_t column, int64_t count) {
    if (scales == nullptr) return source->dtype;
    const int64_t first = tile_begin + column, row = round_up(t.dim, 16);
    const int64_t from = larger(begin - first, 0), to = smaller(end - first, count);
    for (int64_t i = from; i < to; ++i) {
      const int64_t position = first + i, block = source->block_table[position / source->block_size];
      const int64_t at =
          block * source->scale_block_stride + position % source->block_size * source->scale_token_stride;
      scale_row_to<E::kRowType>(source->dtype, m.pointers[i], scales[at], t.dim, m.scaled + i * row);
      m.pointers[i] = reinterpret_cast<const char*>(m.scaled + i * row);
    }
    return E::kRowType;
  }
  static void copy_or_clear(const Elem* src, int64_t count, int64_t padded, Elem* dst) {
    if (src == nullptr) count = 0;
    if (count > 0) __builtin_memcpy(dst, src, static_cast<size_t>(count) * sizeof(Elem));
    if (padded > count) __builtin_memset(dst + count, 0, static_cast<size_t>(padded - count) * sizeof(Elem));
  }

  template <class Between = NothingBetween>
  void pack_values(int64_t column, int64_t count, int64_t panel_tokens, Elem* dst, const Between& between = {}) {
    if constexpr (E::kReadsPairs)
      if (copies_pairs()) {
        for (int64_t t = 0; t < count; t += 2) {
          const int64_t position = tile_begin + column + t;
          const bool first = position >= begin && position < end, second = position + 1 >= begin && position + 1 < end;
          const Elem* pairs =
              first || second ? reinterpret_cast<const Elem*>(block_at(source->v, source->v_addr, position)) : nullptr;
          // An invisible half may hold anything, NaN too, and 0 * NaN is NaN: it becomes 0.
          E::copy_value_pairs(pairs, (first ? 0xffffu : 0u) | (second ? 0xffff0000u : 0u), it.head_dim_v,
                              panel_tokens * kPanel, dst + t * kPanel);
          between();
        }
        return;
      }
    if constexpr (E::kReadsPairs)
      if (widens_pairs()) return widen_values(column, count, panel_tokens, dst, between);
    const KeyTensor t = {static_cast<const char*>(source->v), &source->v_addr, source->v_row_stride, it.head_dim_v};
    if constexpr (E::kReadsPairs)
      if (has_pairs()) {
        locate_pairs(t, column, count);
        for (int64_t i = 0; i < count; i += 2) {
          typename E::HalfOfPairs halves[2];
          for (int64_t j = 0; j < 2; ++j)
            if (m.pointers[i + j] != nullptr)
              halves[j] = E::half_of_pairs(m.pointers[i + j], (tile_begin + column + i + j) % source->block_size, 2);
          E::join_value_tokens(halves[0], halves[1], it.head_dim_v, panel_tokens * kPanel, dst + i * kPanel);
          between();
        }
        return;
      }
    find_rows(*source, t, tile_begin + column, count, begin, end, m.zeros, m.staging, m.pointers);
    dispatch_dtype(scale_rows(source->v_row_scales, t, column, count), [&]<DType T>() {
      E::template pack_values<T>(m.pointers, count, it.head_dim_v, panel_tokens, dst, between);
    });
  }

  // Panels of codes become the same of bf16, times the scales of tokens where those have any.
  template <class Between>
  void widen_keys(int64_t column, int64_t count, Elem* dst, const Between& between) {
    E::with_tables(source->dtype, [&](const auto& tables) {
      for (int64_t t = 0; t < count; t += kPanel, dst += kPanel * m.depth) {
        const int64_t position = tile_begin + column + t;
        const bool used = position < end && position + kPanel > begin;
        if (used)
          E::widen_key_panel(tables, block_at(source->k, source->k_addr, position), it.head_dim,
                             token_scales(source->k_row_scales, position, kPanel), dst);
        const int64_t done = used ? it.head_dim * kPanel : 0;
        copy_or_clear(nullptr, 0, m.depth * kPanel - done, dst + done);
        between();
      }
    });
  }
  template <class Between>
  void widen_values(int64_t column, int64_t count, int64_t panel_tokens, Elem* dst, const Between& between) {
    E::with_tables(source->dtype, [&](const auto& tables) {
      for (int64_t t = 0; t < count; t += 2, dst += 2 * kPanel) {
        const int64_t position = tile_begin + column + t;
        const bool first = position >= begin && position < end, second = position + 1 >= begin && position + 1 < end;
        if (first || second)
          E::widen_value_pairs(tables, block_at(source->v, source->v_addr, position),
                               (first ? 0xffffu : 0u) | (second ? 0xffff0000u : 0u), it.head_dim_v,
                               token_scales(source->v_row_scales, position, 2), panel_tokens * kPanel, dst);
        else
          E::copy_value_pairs(nullptr, 0, it.head_dim_v, panel_tokens * kPanel, dst);
        between();
      }
    });
  }

  void softmax_block(int64_t r0, int64_t r1, float* s, Elem* p, Columns c) {
    ScoreShape shape;
    shape.scale = it.scale * source->k_scale;
    shape.soft_cap = it.soft_cap;
    for (int64_t r = r0; r < r1; ++r) {
      if (it.alibi_slopes != nullptr) {
        shape.alibi_slope = it.alibi_slopes + r % it.num_heads;
        shape.origin = it.context_len[r / it.num_heads];
      }
      float* row = s + (r - r0) * m.s_stride;
      if (shape.shaped()) shape_scores<E::kExpDegree>(shape, row, c.from, c.to, tile_begin);
      if (c.masked)
        mask_scores(row, c.from, c.to, larger(m.lo[r], begin) - tile_begin, smaller(m.hi[r], end) - tile_begin);
      const float alpha = softmax_row<E>(row, p + (r - r0) * m.p_stride, c.from, c.to, shape.remaining_scale(),
                                         m.row_max[r], m.row_sum[r]);
      if (alpha != 1.0f) scale_row(m.o + r * m.o_stride, m.dv_padded, alpha);
    }
  }

  // Rows of the source's positions [first, last): keys, then values unless these are a part of the keys. Gives their
  // number; 0 where a row's dims do not lie together.
  int64_t locate_tile(int64_t first, int64_t last, const char** found) const {
    if (source->block_table != nullptr && (!dims_adjacent(source->k_addr) || !dims_adjacent(source->v_addr))) return 0;
    const KeyTensor k = {static_cast<const char*>(source->k), &source->k_addr, source->k_row_stride, it.head_dim};
    const KeyTensor v = {static_cast<const char*>(source->v), &source->v_addr, source->v_row_stride, it.head_dim_v};
    const int64_t count = last - first;
    locate_rows(*source, k, first, 0, count, found);
    if (source->v == source->k) return count;
    locate_rows(*source, v, first, 0, count, found + count);
    return 2 * count;
  }
  // What the next tile of the source's positions below `to` reads comes while this one is multiplied, where rows lie by
  // themselves: too far apart for the machine's own prefetcher.
  void announce_next_tile(int64_t to) {
    prefetcher = {};
    const int64_t first = tile_begin + it.tile_keys, last = smaller(first + it.tile_keys, to), count = last - first;
    if (count <= 0 || (E::kReadsPairs && source->packed_layout)) return;
    const int64_t found = locate_tile(first, last, m.next), bytes = element_bytes(source->dtype);
    if (found > 0) prefetcher.add(m.next, count, 0, it.head_dim * bytes, 0, 1);
    if (found > count) prefetcher.add(m.next + count, count, 0, it.head_dim_v * bytes, 0, 1);
    const auto blocks = [](int64_t extent, int64_t of_block) { return (extent + of_block - 1) / of_block; };
    prefetcher.start(blocks(rows, E::kBlockRows) *
                     (blocks(it.tile_keys, E::kBlockColumns) + blocks(it.head_dim_v, E::kBlockColumns)));
  }

  void scores(int64_t r0, int64_t count, int64_t from, int64_t to, const Elem* k, float* s) {
    product(count, (to - from) / kPanel, E::depth(it.head_dim), m.q + r0 * m.depth, m.depth, k, m.depth * kPanel,
            s + from, m.s_stride, false);
  }
  void weigh_values(int64_t r0, int64_t count, int64_t from, int64_t to, const Elem* p, const Elem* v,
                    int64_t panel_tokens) {
    product(count, round_up(it.head_dim_v, kPanel) / kPanel, (to - from) * E::kParts, p + from * E::kParts, m.p_stride,
            v, panel_tokens * kPanel, m.o + r0 * m.o_stride, m.o_stride, true);
  }
  void product(int64_t count, int64_t panels, int64_t depth, const Elem* a, int64_t lda, const Elem* b,
               int64_t panel_stride, float* c, int64_t ldc, bool accumulate) {
    if constexpr (!E::kInterleaved)
      if (!prefetcher.idle())
        return E::gemm(count, panels, depth, a, lda, b, panel_stride, c, ldc, accumulate,
                       [this] { prefetcher.step(); });
    E::gemm(count, panels, depth, a, lda, b, panel_stride, c, ldc, accumulate);
  }

  // Few rows: each 64 tokens go through the first-level cache, packed and used at once.
  void tile_of_few_rows() {
    const Columns c = visible_columns(0, rows);
    if (c.from >= c.to) return;
    for (int64_t j = c.from; j < c.to; j += kTokensAtOnce) {
      const int64_t to = smaller(c.to, j + kTokensAtOnce);
      pack_keys(j, to - j, m.k);
      scores(0, rows, j, to, m.k, m.s[0]);
    }
    softmax_block(0, rows, m.s[0], m.p[0], c);
    for (int64_t j = c.from; j < c.last; j += kTokensAtOnce) {
      const int64_t to = smaller(c.last, j + kTokensAtOnce);
      pack_values(j, to - j, kTokensAtOnce * E::kParts, m.v[0]);
      weigh_values(0, rows, j, to, m.p[0], m.v[0], kTokensAtOnce * E::kParts);
    }
  }

  // Lines that a block's rows are about to be written to come while its products are made.
  void prefetch_output(int64_t r0, int64_t count) const {
    if (it.partial_out != nullptr || it.stream_output) return;
    const int64_t bytes = element_bytes(it.out_dtype);
    for (int64_t r = r0; r < r0 + count; ++r) {
      const char* out = static_cast<const char*>(it.out) +
                        (r / it.num_heads * it.out_token_stride + r % it.num_heads * it.out_head_stride) * bytes;
      for (int64_t b = 0; b < it.head_dim_v * bytes; b += 64) __builtin_prefetch(out + b, 1);
    }
  }

  void tile_of_many_rows(bool last) {
    const Columns all = visible_columns(0, rows);
    if (all.from >= all.to) return;
    for (int64_t j = all.from; j < all.to; j += kTokensAtOnce) {
      const int64_t count = smaller(all.to - j, kTokensAtOnce);
      pack_keys(j, count, m.k + j * m.depth);
      pack_values(j, smaller(all.last - j, count), m.v_tokens, m.v[0] + j * E::kParts * kPanel);
    }
    for (int64_t r0 = 0, count = 0; r0 < rows; r0 += count) {
      count = smaller(E::kRowBlock, rows - r0);
      Columns c = visible_columns(r0, r0 + count);
      if (c.masked && count > E::kMaskedRows) {  // fewer rows see more nearly the same columns
        count = E::kMaskedRows;
        c = visible_columns(r0, r0 + count);
      }
      if (c.from >= c.to) continue;
      if (last) prefetch_output(r0, count);
      scores(r0, count, c.from, c.to, m.k + c.from * m.depth, m.s[0]);
      softmax_block(r0, r0 + count, m.s[0], m.p[0], c);
      weigh_values(r0, count, c.from, c.last, m.p[0], m.v[0] + c.from * E::kParts * kPanel, m.v_tokens);
    }
  }

  void clear_output(int64_t r0, int64_t r1) {
    __builtin_memset(m.o + r0 * m.o_stride, 0, static_cast<size_t>((r1 - r0) * m.o_stride) * sizeof(float));
  }
  void set_range(int64_t from, int64_t to) {
    begin = larger(tile_begin, from);
    end = smaller(tile_begin + it.tile_keys, to);
  }

  void attend() {
    const auto state = E::begin();
    load_queries();
    for (int32_t i = 0; i < it.num_sources && first_key < last_key; ++i) {
      source = &it.sources[i];
      const int64_t from = larger(first_key, source->begin), to = smaller(last_key, source->end);
      if (from >= to) continue;
      if (!empty && out_factor != source->v_scale) {  // bring the sum to the unit of the values that follow
        const F32 ratio = set1(out_factor / source->v_scale);
        for (int64_t j = 0; j < rows * m.o_stride; j += kLanes) store(m.o + j, mul(load(m.o + j), ratio));
      }
      out_factor = source->v_scale;
      empty = false;
      if constexpr (E::kInterleaved) {
        if (source->block_table != nullptr && source->k == source->v)  // V is the first columns of K
          LatentTiles<E>(*this, from, to).attend();
        else
          InterleavedTiles<E>(*this, from, to).attend();
      } else {
        for (tile_begin = from / it.tile_keys * it.tile_keys; tile_begin < to; tile_begin += it.tile_keys) {
          set_range(from, to);
          announce_next_tile(to);
          if (rows <= E::kRowBlock)
            tile_of_few_rows();
          else
            tile_of_many_rows(i + 1 == it.num_sources && tile_begin + it.tile_keys >= to);
        }
      }
    }
    E::end(state);
    if constexpr (E::kInterleaved)
      for (int64_t r = 0; r < rows; r += E::kRowBlock)
        if (!has_output(r)) clear_output(r, smaller(r + E::kRowBlock, rows));
    if (it.partial_out != nullptr) {
      for (int64_t r = 0; r < rows; ++r) write_partial(r);
      return;
    }
    const int64_t bytes = element_bytes(it.out_dtype);
    RowCursor ahead(it.out, it.out_token_stride, it.out_head_stride, it.num_heads, bytes);
    for (int64_t r = 0; r < smaller(kRowsAhead, rows); ++r) ahead.next();
    for (int64_t r = 0; r < rows; ++r) {
      if (r + kRowsAhead < rows && !it.stream_output) {
        const char* row = ahead.next();
        for (int64_t b = 0; b < it.head_dim_v * bytes; b += 64) __builtin_prefetch(row + b, 1);
      }
      write_row(r);
    }
    if (it.stream_output) stream_fence();
  }

  // Where a row has an exact sum, that is its sum, and the output is brought to it.
  float row_factor(int64_t r) {
    if constexpr (E::kInterleaved)
      if (m.row_exact[r] > 0.0f && m.row_sum[r] > 0.0f) {
        const float factor = m.row_exact[r] / m.row_sum[r];
        m.row_sum[r] = m.row_exact[r];
        return out_factor * factor;
      }
    return out_factor;
  }
  void write_partial(int64_t r) {
    const F32 factor = set1(row_factor(r));
    const float* o = m.o + r * m.o_stride;
    float* out = it.partial_out + r * it.head_dim_v;
    for (int64_t d = 0; d < it.head_dim_v; d += kLanes)
      store_first<DType::kF32>(out + d, mul(load(o + d), factor), it.head_dim_v - d);
    it.partial_max[r] = m.row_max[r];
    it.partial_sum[r] = m.row_sum[r];
  }
  void write_row(int64_t r);
};

// What normalises a row: the sink joins the denominator, and the maximum, so that neither can overflow.
struct Normaliser {
  float factor;  // of the accumulated row
  float top, sum;
  float lse() const { return top == kNegInf ? kNegInf : (top + __builtin_log2f(sum)) * kLn2; }
};
inline Normaliser normalise(float row_max, float row_sum, const float* sink) {
  float top = row_max, sum = row_sum, shift = 1.0f;
  if (sink != nullptr && *sink != kNegInf) {
    const float logit = *sink * kLog2E;
    if (logit > top) {
      shift = row_max == kNegInf ? 0.0f : __builtin_exp2f(row_max - logit);
      sum = sum * shift;
      top = logit;
    }
    sum += __builtin_exp2f(logit - top);
  }
  return {top == kNegInf ? 0.0f : shift / sum, top, sum};
}

template <DType T>
inline void write_scaled(const float* o, float factor, int64_t dim, void* out) {
  char* p = static_cast<char*>(out);
  for (int64_t d = 0; d < dim; d += kLanes)
    store_first<T>(p + d * kElementBytes<T>, mul(load_first<DType::kF32>(o + d, dim - d), set1(factor)), dim - d);
}

// The same around the caches: whole, aligned lines of a row.
template <DType T>
inline void stream_scaled(const float* o, float factor, int64_t dim, void* out) {
  char* p = static_cast<char*>(out);
  for (int64_t d = 0; d < dim; d += kLanes) stream_as<T>(p + d * kElementBytes<T>, mul(load(o + d), set1(factor)));
}
inline bool whole_lines(const AttentionItem& it, const char* out, int64_t row_bytes) {
  return it.stream_output && row_bytes % 64 == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0;
}
inline bool whole_lines(const ReduceItem&, const char*, int64_t) { return false; }

template <class Item>
inline void write_output(const Item& it, int64_t row, const float* o, float out_factor, float row_max, float row_sum) {
  const int64_t token = row / it.num_heads, head = row % it.num_heads;
  const Normaliser n = normalise(row_max, row_sum, it.sinks != nullptr ? it.sinks + head : nullptr);
  if (it.lse != nullptr) it.lse[token * it.lse_token_stride + head * it.lse_head_stride] = n.lse();
  char* out = static_cast<char*>(it.out) +
              (token * it.out_token_stride + head * it.out_head_stride) * element_bytes(it.out_dtype);
  dispatch_dtype(it.out_dtype, [&]<DType T>() {
    if constexpr (kElementBytes<T> > 1)
      if (whole_lines(it, out, it.head_dim_v * kElementBytes<T>))
        return stream_scaled<T>(o, n.factor * out_factor, it.head_dim_v, out);
    write_scaled<T>(o, n.factor * out_factor, it.head_dim_v, out);
  });
}

template <class E>
void AttentionRun<E>::write_row(int64_t r) {
  const float factor = row_factor(r);
  write_output(it, r, m.o + r * m.o_stride, factor, m.row_max[r], m.row_sum[r]);
}

template <class E>
void attend(const AttentionItem& item) {
  AttentionRun<E>(item).attend();
}
template <class E>
size_t attention_scratch_bytes(int64_t rows, int64_t head_dim, int64_t head_dim_v, int64_t tile_keys) {
  return AttentionScratch<E>(nullptr, rows, head_dim, head_dim_v, tile_keys).bytes;
}

// Partials of a row, in the order of their keys.
inline void reduce_partials(const ReduceItem& it) {
  constexpr int64_t kStrip = 64;
  const auto part = [&](int32_t i) { return it.partials + it.offsets[i]; };
  for (int64_t r = 0; r < it.num_tokens * it.num_heads; ++r) {
    const int64_t row = it.first_row + r;
    const auto max_of = [&](int32_t i) { return part(i)[it.rows * it.head_dim_v + row]; };
    const auto sum_of = [&](int32_t i) { return part(i)[it.rows * (it.head_dim_v + 1) + row]; };
    float top = kNegInf, sum = 0.0f;
    for (int32_t i = 0; i < it.num_partials; ++i) top = max_of(i) > top ? max_of(i) : top;
    if (top != kNegInf)
      for (int32_t i = 0; i < it.num_partials; ++i) sum += sum_of(i) * __builtin_exp2f(max_of(i) - top);
    const int64_t token = r / it.num_heads, head = r % it.num_heads;
    const Normaliser n = normalise(top, sum, it.sinks != nullptr ? it.sinks + head : nullptr);
    if (it.lse != nullptr) it.lse[token * it.lse_token_stride + head * it.lse_head_stride] = n.lse();
    char* out = static_cast<char*>(it.out) +
                (token * it.out_token_stride + head * it.out_head_stride) * element_bytes(it.out_dtype);
    for (int64_t d0 = 0; d0 < it.head_dim_v; d0 += kStrip) {
      const int64_t width = smaller(kStrip, it.head_dim_v - d0);
      float o[kStrip] = {};
      for (int32_t i = 0; i < it.num_partials; ++i) {
        if (max_of(i) == kNegInf) continue;
        const F32 weight = set1(__builtin_exp2f(max_of(i) - top));
        const float* partial = part(i) + row * it.head_dim_v + d0;
        for (int64_t d = 0; d < width; d += kLanes)
          store(o + d, fmadd(load_first<DType::kF32>(partial + d, width - d), weight, load(o + d)));
      }
      dispatch_dtype(it.out_dtype,
                     [&]<DType T>() { write_scaled<T>(o, n.factor, width, out + d0 * kElementBytes<T>); });
    }
  }
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
