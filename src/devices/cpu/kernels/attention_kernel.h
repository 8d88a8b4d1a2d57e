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
#include "devices/cpu/kernels/softmax.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

// Scratch of one item, carved out of one allocation; the same walk gives its size.
template <class E>
struct AttentionScratch {
  using Elem = typename E::Elem;
  static constexpr int kBuffers = E::kInterleaved ? 2 : 1;
  int64_t rows_padded, depth, dv_padded, o_stride, s_stride, v_tokens, block;
  Elem* q;             // [rows_padded, depth]; interleaved: tiles of 16 x 32
  float* o;            // [rows_padded, o_stride]
  Elem* k;             // [tile / 16][depth / unit][16][unit]
  Elem* v[kBuffers];   // [dv_padded / 16][v_tokens / unit][16][unit]
  float* s[kBuffers];  // [block, s_stride]
  Elem* p[kBuffers];   // [block, tile]; interleaved: tiles of 16 x 32
  float* row_max;      // [rows_padded], base 2
  float* row_sum;      // [rows_padded]
  int32_t* lo;         // [rows_padded] visible positions relative to the item's first
  int32_t* hi;
  const char** pointers;  // [kTokensAtOnce]
  char* staging;          // [kTokensAtOnce, max dim] of up to 4 bytes
  char* zeros;            // one row of zeros
  size_t bytes;

  AttentionScratch(void* base, int64_t rows, int64_t head_dim, int64_t head_dim_v, int64_t tile) {
    rows_padded = round_up(rows, E::kRowPad);
    block = round_up(E::kRowBlock < rows ? E::kRowBlock : rows, E::kRowPad);
    depth = round_up(head_dim, 32);
    dv_padded = round_up(head_dim_v, 32);
    // Tiles are stored sixteen rows at once, values of a token into all panels at once: 2^n bytes apart these would
    // share a few sets of the cache.
    o_stride = dv_padded + (E::kInterleaved ? 16 : 0);
    s_stride = tile + (E::kInterleaved ? 16 : 0);
    v_tokens = tile + 64 / kPanel / static_cast<int64_t>(sizeof(Elem));
    const int64_t widest = larger(depth, dv_padded);
    char* next = static_cast<char*>(base);
    const auto take = [&next](int64_t count, size_t size) {
      char* taken = next;
      next +=
          round_up(count * static_cast<int64_t>(size), 64) + 64;  // + 64: tensors of 2^n bytes do not share all sets
      return taken;
    };
    q = reinterpret_cast<Elem*>(take(rows_padded * depth, sizeof(Elem)));
    o = reinterpret_cast<float*>(take(rows_padded * o_stride, 4));
    k = reinterpret_cast<Elem*>(take(tile * depth, sizeof(Elem)));
    for (auto& x : v) x = reinterpret_cast<Elem*>(take(v_tokens * dv_padded, sizeof(Elem)));
    for (auto& x : s) x = reinterpret_cast<float*>(take(block * s_stride, 4));
    for (auto& x : p) x = reinterpret_cast<Elem*>(take(block * tile, sizeof(Elem)));
    row_max = reinterpret_cast<float*>(take(rows_padded, 4));
    row_sum = reinterpret_cast<float*>(take(rows_padded, 4));
    lo = reinterpret_cast<int32_t*>(take(rows_padded, 4));
    hi = reinterpret_cast<int32_t*>(take(rows_padded, 4));
    pointers = reinterpret_cast<const char**>(take(kTokensAtOnce, sizeof(char*)));
    staging = take(kTokensAtOnce * widest, 4);
    zeros = take(widest, 4);
    bytes = static_cast<size_t>(next - static_cast<char*>(base));
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

  explicit AttentionRun(const AttentionItem& item)
      : it(item),
        m(item.scratch, item.num_tokens * item.num_heads, item.head_dim, item.head_dim_v, item.tile_keys),
        rows(item.num_tokens * item.num_heads) {}

  // Tokens of other heads lie between those of an item, too far apart for the prefetcher of the machine.
  static constexpr int64_t kTokensAhead = 4;

  void load_queries() {
    const int64_t bytes = element_bytes(it.dtype);
    const char* q = static_cast<const char*>(it.q);
    // Rows of padding are zero.
    for (int64_t i = rows / E::kRowPad * E::kRowPad * m.depth; i < m.rows_padded * m.depth; ++i) m.q[i] = Elem{};
    dispatch_dtype(it.dtype, [&]<DType T>() {
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t token = r / it.num_heads, head = r % it.num_heads;
        if (head == 0 && token + kTokensAhead < it.num_tokens) {
          const char* ahead = q + (token + kTokensAhead) * it.q_token_stride * bytes;
          for (int64_t b = 0; b < it.num_heads * it.q_head_stride * bytes; b += 64) __builtin_prefetch(ahead + b);
        }
        E::template pack_query<T>(q + (token * it.q_token_stride + head * it.q_head_stride) * bytes, it.head_dim,
                                  m.depth, r, m.q);
      }
    });
    if constexpr (!E::kInterleaved) clear_output(0, m.rows_padded);
    for (int64_t i = 0; i < larger(m.depth, m.dv_padded) * 4; ++i) m.zeros[i] = 0;
    first_key = INT64_MAX;
    last_key = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t token = r / it.num_heads;
      const int64_t lo = larger(it.key_lo[token], it.key_begin), hi = smaller(it.key_hi[token], it.key_end);
      m.lo[r] = static_cast<int32_t>(lo);
      m.hi[r] = static_cast<int32_t>(hi > lo ? hi : lo);
      m.row_max[r] = kNegInf;
      m.row_sum[r] = 0.0f;
      if (hi <= lo) continue;
      first_key = smaller(first_key, lo);
      last_key = larger(last_key, hi);
    }
  }

  // The visible positions of rows [r0, r1): their union and their intersection.
  struct RowBounds {
    int64_t lo_min = INT64_MAX, lo_max = 0, hi_min = INT64_MAX, hi_max = 0;
  };
  RowBounds bounds_of(int64_t r0, int64_t r1) const {
    RowBounds x;
    for (int64_t r = r0; r < r1; ++r) {
      x.lo_max = larger(x.lo_max, m.lo[r]);
      x.hi_min = smaller(x.hi_min, m.hi[r]);
      if (m.hi[r] <= m.lo[r]) continue;
      x.lo_min = smaller(x.lo_min, m.lo[r]);
      x.hi_max = larger(x.hi_max, m.hi[r]);
    }
    return x;
  }
  // An item has at most 1024 rows (kernel tables), 16 blocks.
  bool has_output(int64_t row) const { return (blocks_with_output >> row / E::kRowBlock & 1) != 0; }

  // Columns [from, to) of the tile that some of these rows see, and whether a mask is needed there.
  struct Columns {
    int64_t from = 0, to = 0;
    bool masked = false;
  };
  Columns visible_columns(const RowBounds& x) const {
    const int64_t from = larger(x.lo_min, begin), to = smaller(x.hi_max, end);
    if (from >= to) return {};
    const int64_t c0 = (from - tile_begin) / 32 * 32, c1 = round_up(to - tile_begin, 32);
    return {
        c0, c1,
        x.lo_max > tile_begin + c0 || begin > tile_begin + c0 || x.hi_min < tile_begin + c1 || end < tile_begin + c1};
  }
  Columns visible_columns(int64_t r0, int64_t r1) const { return visible_columns(bounds_of(r0, r1)); }

  // A cache that already holds the pairs the products want: whole groups of 16 tokens are copied as they lie.
  bool copies_pairs() const { return E::kUnit == 2 && source->packed_layout && source->block_size % kPanel == 0; }
  const Elem* block_at(const void* base, const KvAddressing& addr, int64_t position) const {
    const int64_t block = source->block_table[position / source->block_size];
    return static_cast<const Elem*>(base) + block * addr.block_stride +
           position % source->block_size / addr.token_tile * addr.token_outer_stride;
  }

  template <class Between = NothingBetween>
  void pack_keys(int64_t column, int64_t count, Elem* dst, const Between& between = {}) {
    if (copies_pairs()) {
      for (int64_t t = 0; t < count; t += kPanel) {
        const int64_t position = tile_begin + column + t;
        // Columns outside [begin, end) are masked later, whatever they hold.
        const bool used = position < end && position + kPanel > begin;
        copy_or_clear(used ? block_at(source->k, source->k_addr, position) : nullptr, it.head_dim * kPanel,
                      m.depth * kPanel, dst + t * m.depth);
        between();
      }
      return;
    }
    const KeyTensor t = {static_cast<const char*>(source->k), &source->k_addr, source->k_row_stride, it.head_dim};
    find_rows(*source, t, tile_begin + column, count, begin, end, m.zeros, m.staging, m.pointers);
    dispatch_dtype(source->dtype,
                   [&]<DType T>() { E::template pack_keys<T>(m.pointers, count, it.head_dim, m.depth, dst, between); });
  }
  static void copy_or_clear(const Elem* src, int64_t count, int64_t padded, Elem* dst) {
    if (src == nullptr) count = 0;
    if (count > 0) __builtin_memcpy(dst, src, static_cast<size_t>(count) * sizeof(Elem));
    if (padded > count) __builtin_memset(dst + count, 0, static_cast<size_t>(padded - count) * sizeof(Elem));
  }

  template <class Between = NothingBetween>
  void pack_values(int64_t column, int64_t count, int64_t panel_tokens, Elem* dst, const Between& between = {}) {
    if constexpr (E::kUnit == 2)
      if (copies_pairs()) {
        for (int64_t t = 0; t < count; t += 2) {
          const int64_t position = tile_begin + column + t;
          const bool first = position >= begin && position < end, second = position + 1 >= begin && position + 1 < end;
          const Elem* pairs = first || second ? block_at(source->v, source->v_addr, position) : nullptr;
          // An invisible half may hold anything, NaN too, and 0 * NaN is NaN: it becomes 0.
          E::copy_value_pairs(pairs, (first ? 0xffffu : 0u) | (second ? 0xffff0000u : 0u), it.head_dim_v,
                              panel_tokens * kPanel, dst + t * kPanel);
          between();
        }
        return;
      }
    const KeyTensor t = {static_cast<const char*>(source->v), &source->v_addr, source->v_row_stride, it.head_dim_v};
    find_rows(*source, t, tile_begin + column, count, begin, end, m.zeros, m.staging, m.pointers);
    dispatch_dtype(source->dtype, [&]<DType T>() {
      E::template pack_values<T>(m.pointers, count, it.head_dim_v, panel_tokens, dst, between);
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
      if (shape.shaped()) shape_scores(shape, row, c.from, c.to, tile_begin);
      if (c.masked)
        mask_scores(row, c.from, c.to, larger(m.lo[r], begin) - tile_begin, smaller(m.hi[r], end) - tile_begin);
      const float alpha = softmax_row<E>(row, p + (r - r0) * it.tile_keys, c.from, c.to, shape.remaining_scale(),
                                         m.row_max[r], m.row_sum[r]);
      if (alpha != 1.0f) scale_row(m.o + r * m.o_stride, m.dv_padded, alpha);
    }
  }

  void scores(int64_t r0, int64_t count, int64_t from, int64_t to, const Elem* k, float* s) {
    E::gemm(count, (to - from) / kPanel, E::depth(it.head_dim), m.q + r0 * m.depth, m.depth, k, m.depth * kPanel,
            s + from, m.s_stride, false);
  }
  void weigh_values(int64_t r0, int64_t count, int64_t from, int64_t to, const Elem* p, const Elem* v,
                    int64_t panel_tokens) {
    E::gemm(count, round_up(it.head_dim_v, kPanel) / kPanel, to - from, p + from, it.tile_keys, v,
            panel_tokens * kPanel, m.o + r0 * m.o_stride, m.o_stride, true);
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
    for (int64_t j = c.from; j < c.to; j += kTokensAtOnce) {
      const int64_t to = smaller(c.to, j + kTokensAtOnce);
      pack_values(j, to - j, kTokensAtOnce, m.v[0]);
      weigh_values(0, rows, j, to, m.p[0], m.v[0], kTokensAtOnce);
    }
  }

  void tile_of_many_rows() {
    const Columns all = visible_columns(0, rows);
    if (all.from >= all.to) return;
    for (int64_t j = all.from; j < all.to; j += kTokensAtOnce) {
      const int64_t count = smaller(all.to - j, kTokensAtOnce);
      pack_keys(j, count, m.k + j * m.depth);
      pack_values(j, count, m.v_tokens, m.v[0] + j * kPanel);
    }
    for (int64_t r0 = 0; r0 < rows; r0 += E::kRowBlock) {
      const int64_t count = smaller(E::kRowBlock, rows - r0);
      const Columns c = visible_columns(r0, r0 + count);
      if (c.from >= c.to) continue;
      scores(r0, count, c.from, c.to, m.k + c.from * m.depth, m.s[0]);
      softmax_block(r0, r0 + count, m.s[0], m.p[0], c);
      weigh_values(r0, count, c.from, c.to, m.p[0], m.v[0] + c.from * kPanel, m.v_tokens);
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
          if (rows <= E::kRowBlock)
            tile_of_few_rows();
          else
            tile_of_many_rows();
        }
      }
    }
    E::end(state);
    if constexpr (E::kInterleaved)
      for (int64_t r = 0; r < rows; r += E::kRowBlock)
        if (!has_output(r)) clear_output(r, smaller(r + E::kRowBlock, rows));
    for (int64_t r = 0; r < rows; ++r) {
      if (it.partial_out != nullptr) {
        write_partial(r);
        continue;
      }
      if (r % it.num_heads == 0 && r / it.num_heads + kTokensAhead < it.num_tokens) {
        const int64_t bytes = element_bytes(it.out_dtype);
        const char* ahead =
            static_cast<const char*>(it.out) + (r / it.num_heads + kTokensAhead) * it.out_token_stride * bytes;
        for (int64_t b = 0; b < it.num_heads * it.out_head_stride * bytes; b += 64) __builtin_prefetch(ahead + b, 1);
      }
      write_row(r);
    }
  }

  void write_partial(int64_t r) {
    const F32 factor = set1(out_factor);
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
  float lse;
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
  if (top == kNegInf) return {0.0f, kNegInf};
  return {shift / sum, (top + __builtin_log2f(sum)) * kLn2};
}

template <DType T>
inline void write_scaled(const float* o, float factor, int64_t dim, void* out) {
  char* p = static_cast<char*>(out);
  for (int64_t d = 0; d < dim; d += kLanes)
    store_first<T>(p + d * kElementBytes<T>, mul(load_first<DType::kF32>(o + d, dim - d), set1(factor)), dim - d);
}

template <class Item>
inline void write_output(const Item& it, int64_t row, const float* o, float out_factor, float row_max, float row_sum) {
  const int64_t token = row / it.num_heads, head = row % it.num_heads;
  const Normaliser n = normalise(row_max, row_sum, it.sinks != nullptr ? it.sinks + head : nullptr);
  if (it.lse != nullptr) it.lse[token * it.lse_token_stride + head * it.lse_head_stride] = n.lse;
  char* out = static_cast<char*>(it.out) +
              (token * it.out_token_stride + head * it.out_head_stride) * element_bytes(it.out_dtype);
  dispatch_dtype(it.out_dtype, [&]<DType T>() { write_scaled<T>(o, n.factor * out_factor, it.head_dim_v, out); });
}

template <class E>
void AttentionRun<E>::write_row(int64_t r) {
  write_output(it, r, m.o + r * m.o_stride, out_factor, m.row_max[r], m.row_sum[r]);
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
  for (int64_t r = 0; r < it.num_tokens * it.num_heads; ++r) {
    float top = kNegInf, sum = 0.0f;
    for (int32_t i = 0; i < it.num_partials; ++i) top = it.partial_max[i][r] > top ? it.partial_max[i][r] : top;
    if (top != kNegInf)
      for (int32_t i = 0; i < it.num_partials; ++i)
        sum += it.partial_sum[i][r] * __builtin_exp2f(it.partial_max[i][r] - top);
    const int64_t token = r / it.num_heads, head = r % it.num_heads;
    const Normaliser n = normalise(top, sum, it.sinks != nullptr ? it.sinks + head : nullptr);
    if (it.lse != nullptr) it.lse[token * it.lse_token_stride + head * it.lse_head_stride] = n.lse;
    char* out = static_cast<char*>(it.out) +
                (token * it.out_token_stride + head * it.out_head_stride) * element_bytes(it.out_dtype);
    for (int64_t d0 = 0; d0 < it.head_dim_v; d0 += kStrip) {
      const int64_t width = smaller(kStrip, it.head_dim_v - d0);
      float o[kStrip] = {};
      for (int32_t i = 0; i < it.num_partials; ++i) {
        if (it.partial_max[i][r] == kNegInf) continue;
        const F32 weight = set1(__builtin_exp2f(it.partial_max[i][r] - top));
        const float* partial = it.partial_out[i] + r * it.head_dim_v + d0;
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
