// Attention of one decode item: all query rows of several KV heads against a range of keys.
//
//   for each tile of 64 keys:   rows found through the block table once, for all heads
//     for each KV head:         a share of the next tile is prefetched;  S = Q K^T;  online softmax;  O += P V
//
// One pass over tiles for all heads reads whole blocks in the order in which they lie, whatever the layout: every byte
// of the cache crosses the memory bus once and in long runs. Tiles begin at multiples of 64 positions and rows past a
// sequence's end are replaced by zeros, so a row's bits depend on its own data and positions alone.
#pragma once

#include "devices/cpu/kernels/attention_kernel.h"
#include "devices/cpu/kernels/stream_rows.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

// The keys of one tile, of the item's first KV head. Rows [from, to) exist.
struct StreamTile {
  int64_t begin = 0, from = 0, to = 0;
  const char* k[kStreamKeys];
  const char* v[kStreamKeys];
  // Where the heads of a token lie apart: the first token of every block.
  bool heads_inside = true;
  int64_t num_blocks = 0;
  const char* k_blocks[kStreamKeys];
  const char* v_blocks[kStreamKeys];
  // Where scales a token lie, from those of the KV head.
  int64_t scales[kStreamKeys];
};

template <class S>
struct StreamScratch {
  using Elem = typename S::Elem;
  int64_t rows, depth, dv_padded;  // rows of one KV head
  Elem* q;                         // [kv_heads, rows, depth]
  float* o;                        // [kv_heads, rows, dv_padded]
  float* row_max;                  // [kv_heads, rows], base 2
  float* row_sum;
  float* s;             // [rows, 64]
  Elem* p;              // [rows, 64]
  float* k_scales;      // [64], of the KV head at work, where every token has its own
  float* v_scales;      // [64]
  StreamTile* tiles;    // this one and the next
  const char** k_rows;  // [64], of the KV head at work
  const char** v_rows;
  char* k_staging;     // [64, depth] of up to 4 bytes: rows collected from other layouts, or widened, or packed
  char* v_staging;     // [64, dv_padded]
  char* code_staging;  // [64, widest] rows of 8-bit codes, collected
  char* zeros;         // one row
  size_t bytes;

  StreamScratch(void* base, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t head_dim_v) {
    rows = tokens * (heads / kv_heads);
    depth = round_up(head_dim, 2 * kChunk);
    dv_padded = round_up(head_dim_v, 2 * kChunk);
    const int64_t all_rows = rows * kv_heads, widest = larger(depth, dv_padded);
    ScratchSpace space(base);
    q = space.take<Elem>(all_rows * depth);
    o = space.take<float>(all_rows * dv_padded);
    row_max = space.take<float>(all_rows);
    row_sum = space.take<float>(all_rows);
    s = space.take<float>(rows * kStreamKeys);
    p = space.take<Elem>(rows * kStreamKeys);
    k_scales = space.take<float>(kStreamKeys);
    v_scales = space.take<float>(kStreamKeys);
    tiles = space.take<StreamTile>(2);
    k_rows = space.take<const char*>(kStreamKeys);
    v_rows = space.take<const char*>(kStreamKeys);
    k_staging = space.take<char>(kStreamKeys * depth, 4);
    v_staging = space.take<char>(kStreamKeys * dv_padded, 4);
    code_staging = space.take<char>(kStreamKeys * widest, 1);
    zeros = space.take<char>(widest, 4);
    bytes = space.bytes();
  }
};

// The products of tiles: stream_tiles.h.
template <class S>
class StreamTiles;

template <class S>
struct StreamRun {
  using Elem = typename S::Elem;
  const AttentionItem& it;
  const KeySource& source;
  StreamScratch<S> m;
  const int64_t group;         // query heads a KV head
  const int64_t source_bytes;  // of one stored element
  const bool codes;            // of 8 bits, fp8 or int8
  const bool panels;           // the cache holds the panels that the products want
  const bool tiles;            // ... which are of tiles: of panels as they lie, or of what is brought into their form
  const bool widened;          // codes become rows of bf16 first, which is exact: S does not read them
  const DType key_type;        // what the products read
  const bool latent;           // V is the first columns of K
  int64_t first_key = INT64_MAX, last_key = 0;
  Prefetcher ahead;

  explicit StreamRun(const AttentionItem& item)
      : it(item),
        source(item.sources[0]),
        m(item.scratch, item.num_tokens, item.num_heads, item.num_kv_heads, item.head_dim, item.head_dim_v),
        group(item.num_heads / item.num_kv_heads),
        source_bytes(element_bytes(source.dtype)),
        codes(source_bytes == 1),
        panels(S::kReadsPanels && source.packed_layout),
        tiles(takes_tiles(m.rows, item.head_dim, panels, codes)),
        widened(codes && !S::kReadsCodes),
        key_type(widened ? DType::kBF16 : source.dtype),
        latent(source.k == source.v && source.block_table != nullptr) {}

  static bool takes_tiles(int64_t rows, int64_t dim, bool panels, bool codes) {
    if constexpr (S::kReadsTiles) return S::takes_tiles(rows, dim, panels, codes);
    return false;
  }

  int64_t row_lo(int64_t token) const { return larger(it.key_lo[token], it.key_begin); }
  int64_t row_hi(int64_t token) const { return smaller(it.key_hi[token], it.key_end); }

  void load_queries() {
    const char* q = static_cast<const char*>(it.q);
    const int64_t bytes = element_bytes(it.dtype);
    // Panels want pairs in their order, as rows of bf16 do.
    dispatch_dtype(it.dtype, [&]<DType T>() {
      for (int64_t h = 0; h < it.num_heads; ++h)
        for (int64_t t = 0; t < it.num_tokens; ++t) {
          Elem* row = m.q + (h / group * m.rows + t * group + h % group) * m.depth;
          const char* query = q + (t * it.q_token_stride + h * it.q_head_stride) * bytes;
          if constexpr (S::kReadsCodes)
            if (codes && !panels && !tiles) {
              S::template pack_query_of_codes<T>(query, it.head_dim, m.depth, row);
              continue;
            }
          S::template pack_query<T>(query, it.head_dim, m.depth, key_type, row);
        }
    });
    const int64_t all_rows = m.rows * it.num_kv_heads;
    __builtin_memset(m.o, 0, static_cast<size_t>(all_rows * m.dv_padded) * sizeof(float));
    __builtin_memset(m.zeros, 0, static_cast<size_t>(larger(m.depth, m.dv_padded)) * 4);
    for (int64_t r = 0; r < all_rows; ++r) {
      m.row_max[r] = kNegInf;
      m.row_sum[r] = 0.0f;
    }
    for (int64_t t = 0; t < it.num_tokens; ++t) {
      if (row_hi(t) <= row_lo(t)) continue;
      first_key = smaller(first_key, row_lo(t));
      last_key = larger(last_key, row_hi(t));
    }
    first_key = larger(first_key, source.begin);
    last_key = smaller(last_key, source.end);
  }

  // ---- finding keys
  // --------------------------------------------------------------------------------------------------

  void find_tile(int64_t begin, StreamTile& tile) const {
    tile.begin = begin;
    tile.from = larger(first_key - begin, 0);
    tile.to = smaller(last_key - begin, kStreamKeys);
    const KeyTensor k = {static_cast<const char*>(source.k), &source.k_addr, source.k_row_stride, it.head_dim};
    const KeyTensor v = {static_cast<const char*>(source.v), &source.v_addr, source.v_row_stride, it.head_dim_v};
    locate_rows(source, k, begin, tile.from, tile.to, tile.k);
    if (!latent) locate_rows(source, v, begin, tile.from, tile.to, tile.v);
    if (source.k_row_scales != nullptr)
      for (int64_t i = tile.from; i < tile.to; ++i) {
        const int64_t position = begin + i, block = source.block_table[position / source.block_size];
        tile.scales[i] = block * source.scale_block_stride + position % source.block_size * source.scale_token_stride;
        __builtin_prefetch(source.k_row_scales + tile.scales[i]);
        __builtin_prefetch(source.v_row_scales + tile.scales[i]);
      }
    tile.heads_inside = source.block_table == nullptr ||
                        (dims_adjacent(source.k_addr) && source.k_addr.token_outer_stride > source.k_head_stride);
    tile.num_blocks = 0;
    if (tile.heads_inside) return;
    for (int64_t i = tile.from; i < tile.to; i = round_up(begin + i + 1, source.block_size) - begin) {
      tile.k_blocks[tile.num_blocks] = tile.k[i];
      tile.v_blocks[tile.num_blocks++] = tile.v[i];
    }
  }

  // The part of the next tile that this KV head's turn brings into L2, over `steps` steps of its products and the
  // softmax between them.
  void prefetch(const StreamTile* next, int64_t h, int64_t steps) {
    ahead.finish();
    if (next == nullptr) return;
    if (!latent) add_ahead(*next, next->v, next->v_blocks, source.v_head_stride, it.head_dim_v, h);
    add_ahead(*next, next->k, next->k_blocks, source.k_head_stride, it.head_dim, h);
    ahead.start(steps + m.rows * S::kSoftmaxSteps);
  }
  void add_ahead(const StreamTile& next, const char* const* rows, const char* const* blocks, int64_t head_stride,
                 int64_t dim, int64_t h) {
    const int64_t heads = it.num_kv_heads, count = next.to - next.from;
    if (next.heads_inside)  // all heads of a token lie together
      ahead.add(rows + next.from, count, 0, ((heads - 1) * head_stride + dim) * source_bytes, h, heads);
    else if (source.block_size <= kStreamKeys)  // all heads of a block
      ahead.add(blocks, next.num_blocks, 0, heads * head_stride * source_bytes, h, heads);
    else  // the tile's tokens of a block and head
      ahead.add(blocks, next.num_blocks, h * head_stride * source_bytes, count * dim * source_bytes, 0, 1);
  }

  // Rows of KV head h, ready to be multiplied: in place where possible.
  void bind_rows(const StreamTile& tile, const char* const* first_head, const KvAddressing& addr, int64_t head_stride,
                 int64_t h, int64_t dim, char* staging, const char** rows) const {
    const int64_t offset = h * head_stride * source_bytes;
    const bool direct = source.block_table == nullptr || dims_adjacent(addr);
    for (int64_t i = 0; i < tile.from; ++i) rows[i] = m.zeros;
    for (int64_t i = tile.to; i < kStreamKeys; ++i) rows[i] = m.zeros;
    for (int64_t i = tile.from; i < tile.to; ++i) rows[i] = first_head[i] + offset;
    if (!direct)
      collect_rows(addr, source_bytes, dim, tile.from, tile.to, codes ? m.code_staging : staging, dim * source_bytes,
                   rows);
    if (!widened) return;
    for (int64_t i = tile.from; i < tile.to; ++i) {
      char* row = staging + i * dim * 2;
      widen_codes_row(source.dtype, rows[i], dim, reinterpret_cast<uint16_t*>(row));
      rows[i] = row;
    }
  }

  // ---- one KV head of one tile
  // ---------------------------------------------------------------------------------------

  struct Columns {
    int64_t from, to;  // multiples of 16
    bool masked;
    int64_t last;  // values from here on have no weight; even
  };
  Columns visible_columns(const StreamTile& tile) const {
    int64_t lo_min = INT64_MAX, lo_max = 0, hi_min = INT64_MAX, hi_max = 0;
    for (int64_t t = 0; t < it.num_tokens; ++t) {
      const int64_t lo = larger(row_lo(t), first_key), hi = smaller(row_hi(t), last_key);
      lo_max = larger(lo_max, lo);
      hi_min = smaller(hi_min, hi);
      if (hi <= lo) continue;
      lo_min = smaller(lo_min, lo);
      hi_max = larger(hi_max, hi);
    }
    const int64_t from = larger(lo_min - tile.begin, 0), to = smaller(hi_max - tile.begin, kStreamKeys);
    if (from >= to) return {0, 0, false, 0};
    const int64_t c0 = from / kPanel * kPanel, c1 = round_up(to, kPanel);
    return {c0, c1, lo_max > tile.begin + c0 || hi_min < tile.begin + c1, round_up(to, 2)};
  }

  float scale_of(const float* scales, int64_t h) const {
    return scales == nullptr ? 1.0f : scales[h * source.scale_step];
  }

  // Scales of the tile's tokens; 0 for those that do not exist, whose probabilities are 0 too.
  void load_row_scales(const StreamTile& tile, int64_t h) {
    for (int64_t i = 0; i < kStreamKeys; ++i) m.k_scales[i] = m.v_scales[i] = 0.0f;
    const int64_t head = h * source.scale_head_stride;
    for (int64_t i = tile.from; i < tile.to; ++i) {
      m.k_scales[i] = source.k_row_scales[tile.scales[i] + head];
      m.v_scales[i] = source.v_row_scales[tile.scales[i] + head];
    }
  }

  void softmax(const StreamTile& tile, int64_t h, Columns c) {
    const bool row_scales = source.k_row_scales != nullptr;
    if (row_scales) load_row_scales(tile, h);
    ScoreShape shape;
    shape.scale = it.scale * scale_of(source.k_scales, h);
    shape.soft_cap = it.soft_cap;
    for (int64_t r = 0; r < m.rows; ++r) {
      ahead.step(S::kSoftmaxSteps);
      const int64_t token = r / group, row = h * m.rows + r;
      float* s = m.s + r * kStreamKeys;
      if (it.alibi_slopes != nullptr) {
        shape.alibi_slope = it.alibi_slopes + h * group + r % group;
        shape.origin = it.context_len[token];
      }
      if (row_scales)
        for (int64_t j = c.from; j < c.to; j += kLanes) store(s + j, mul(load(s + j), load(m.k_scales + j)));
      if (shape.shaped()) shape_scores<S::kExpDegree>(shape, s, c.from, c.to, tile.begin);
      if (c.masked) mask_scores(s, c.from, c.to, row_lo(token) - tile.begin, row_hi(token) - tile.begin);
      Elem* p = m.p + r * kStreamKeys;
      const float alpha =
          row_scales ? softmax_row<S, true>(s, p, c.from, c.to, shape.remaining_scale(), m.row_max[row], m.row_sum[row],
                                            m.v_scales)
                     : softmax_row<S>(s, p, c.from, c.to, shape.remaining_scale(), m.row_max[row], m.row_sum[row]);
      if (alpha != 1.0f) scale_row(m.o + row * m.dv_padded, m.dv_padded, alpha);
    }
  }

  void attend_rows(const StreamTile& tile, const StreamTile* next, int64_t h, Columns c) {
    prefetch(next, h, score_steps(m.rows, c.to - c.from) + output_steps(m.rows, c.to - c.from, it.head_dim_v));
    bind_rows(tile, tile.k, source.k_addr, source.k_head_stride, h, it.head_dim, m.k_staging, m.k_rows);
    multiply_keys(h, c);
    softmax(tile, h, c);
    const char* const* values = m.k_rows;
    if (!latent) {
      bind_rows(tile, tile.v, source.v_addr, source.v_head_stride, h, it.head_dim_v, m.v_staging, m.v_rows);
      values = m.v_rows;
    }
    multiply_values(values, h, c);
  }
  void multiply_keys(int64_t h, Columns c) {
    const char* const* keys = m.k_rows + c.from;
    const Elem* q = m.q + h * m.rows * m.depth;
    if constexpr (S::kReadsCodes)
      if (codes)
        return S::scores_of_codes(source.dtype, keys, c.to - c.from, it.head_dim, q, m.depth, m.rows, m.s + c.from,
                                  ahead);
    S::scores(key_type, keys, c.to - c.from, it.head_dim, q, m.depth, m.rows, m.s + c.from, ahead);
  }
  void multiply_values(const char* const* values, int64_t h, Columns c) {
    float* o = m.o + h * m.rows * m.dv_padded;
    if constexpr (S::kReadsCodes)
      if (codes)
        return S::output_of_codes(source.dtype, values + c.from, c.last - c.from, it.head_dim_v, m.p + c.from, m.rows,
                                  o, m.dv_padded, ahead);
    S::output(key_type, values + c.from, c.last - c.from, it.head_dim_v, m.p + c.from, m.rows, o, m.dv_padded, ahead);
  }

  void attend() {
    load_queries();
    if (tiles)
      attend_tiles();
    else
      attend_heads();
    for (int64_t h = 0; h < it.num_kv_heads; ++h)
      for (int64_t r = 0; r < m.rows; ++r) write(h, r);
  }
  void attend_tiles() {
    if constexpr (S::kReadsTiles) StreamTiles<S>(*this).attend();
  }
  void attend_heads() {
    const int64_t start = first_key / kStreamKeys * kStreamKeys;
    if (first_key < last_key) find_tile(start, m.tiles[0]);
    for (int64_t begin = start, current = 0; begin < last_key; begin += kStreamKeys, current ^= 1) {
      const StreamTile& tile = m.tiles[current];
      StreamTile* next = begin + kStreamKeys < last_key ? m.tiles + (current ^ 1) : nullptr;
      if (next != nullptr) find_tile(begin + kStreamKeys, *next);
      const Columns c = visible_columns(tile);
      if (c.from >= c.to) continue;
      for (int64_t h = 0; h < it.num_kv_heads; ++h) {
        if constexpr (S::kReadsPanels)
          if (panels) {
            attend_panels(tile, next, h, c);
            continue;
          }
        attend_rows(tile, next, h, c);
      }
    }
  }

  // The packed cache layout: panels of 16 keys and pairs of values are multiplied where they lie. Blocks that are no
  // multiple of 16 tokens long are brought into the same form, so that the block size changes no bit.
  void attend_panels(const StreamTile& tile, const StreamTile* next, int64_t h, Columns c);
  const char* copy_key_panel(const StreamTile& tile, int64_t h, int64_t j) const;
  const char* copy_value_pair(const StreamTile& tile, int64_t h, int64_t j) const;
  void find_key_panels(const StreamTile& tile, int64_t h, Columns c, const char** k) const;

  void write(int64_t h, int64_t r) {
    const int64_t row = h * m.rows + r, token = r / group, head = h * group + r % group;
    const ChunkOrder order = panels || tiles     ? ChunkOrder::kNatural
                             : codes && !widened ? ChunkOrder::kCodes
                                                 : S::order(key_type);
    // [dv_padded] fits the staging: 64 rows of depth.
    const float* natural =
        in_natural_order(order, m.o + row * m.dv_padded, m.dv_padded, reinterpret_cast<float*>(m.k_staging));
    const float factor = scale_of(source.v_scales, h);
    const int64_t out_row = token * it.num_heads + head;
    if (it.partial_out == nullptr) return write_output(it, out_row, natural, factor, m.row_max[row], m.row_sum[row]);
    float* out = it.partial_out + out_row * it.head_dim_v;
    for (int64_t d = 0; d < it.head_dim_v; ++d) out[d] = natural[d] * factor;
    it.partial_max[out_row] = m.row_max[row];
    it.partial_sum[out_row] = m.row_sum[row];
  }
};

// Keys j .. j + 15 of blocks that hold no whole panels.
template <class S>
const char* StreamRun<S>::copy_key_panel(const StreamTile& tile, int64_t h, int64_t j) const {
  const char* tokens[kPanel];
  for (int64_t t = 0; t < kPanel; ++t)
    tokens[t] =
        j + t >= tile.from && j + t < tile.to ? tile.k[j + t] + h * source.k_head_stride * source_bytes : nullptr;
  char* panel = m.k_staging + j * m.depth * source_bytes;
  if (codes)
    S::Packing::template collect_key_panel<1>(tokens, it.head_dim, panel);
  else
    S::Packing::template collect_key_panel<2>(tokens, it.head_dim, panel);
  return panel;
}

// A half that does not exist may hold anything, NaN too, and 0 * NaN is NaN: it becomes 0.
template <class S>
const char* StreamRun<S>::copy_value_pair(const StreamTile& tile, int64_t h, int64_t j) const {
  const bool first = j >= tile.from && j < tile.to, second = j + 1 >= tile.from && j + 1 < tile.to;
  char* pair = m.v_staging + j * m.dv_padded * source_bytes;
  using Packing = typename S::Packing;
  using Half = typename Packing::HalfOfPairs;
  const auto half = [&](int64_t i) {
    return Packing::half_of_pairs(tile.v[i] + h * source.v_head_stride * source_bytes,
                                  (tile.begin + i) % source.block_size, source_bytes);
  };
  const Half a = first ? half(j) : Half{}, b = second ? half(j + 1) : Half{};
  if (codes)
    Packing::join_value_codes(a, b, it.head_dim_v, pair);
  else
    Packing::join_value_tokens(a, b, it.head_dim_v, 2 * kPanel, reinterpret_cast<uint16_t*>(pair));
  return pair;
}

template <class S>
void StreamRun<S>::find_key_panels(const StreamTile& tile, int64_t h, Columns c, const char** k) const {
  for (int64_t j = c.from; j < c.to; j += kPanel) {
    // Any token of a panel leads to it; columns outside [from, to) are masked, whatever they hold.
    const int64_t i = larger(j, tile.from), inside = (i - j) * source.k_addr.token_inner_stride;
    k[(j - c.from) / kPanel] = source.block_size % kPanel == 0
                                   ? tile.k[i] + (h * source.k_head_stride - inside) * source_bytes
                                   : copy_key_panel(tile, h, j);
  }
}

template <class S>
void StreamRun<S>::attend_panels(const StreamTile& tile, const StreamTile* next, int64_t h, Columns c) {
  if constexpr (S::kReadsPanels) {
    const char* k[kStreamKeys / kPanel];
    const char* v[kStreamKeys / 2];
    find_key_panels(tile, h, c, k);
    const int64_t groups = (c.to - c.from) / kPanel;
    const Elem* q = m.q + h * m.rows * m.depth;
    float* o = m.o + h * m.rows * m.dv_padded;
    for (int64_t j = c.from; j < c.last; j += 2) {
      const bool direct = j >= tile.from && j + 1 < tile.to && source.block_size % 2 == 0;
      v[j / 2] = direct ? tile.v[j] + h * source.v_head_stride * source_bytes : copy_value_pair(tile, h, j);
    }
    prefetch(next, h, round_up(m.rows, 4) / 4 * it.head_dim / 8 + output_steps(m.rows, c.to - c.from, it.head_dim_v));
    if (codes)
      S::scores_of_code_panels(source.dtype, k, groups, it.head_dim, q, m.depth, m.rows, m.s + c.from, ahead);
    else
      S::scores_of_panels(k, groups, it.head_dim, q, m.depth, m.rows, m.s + c.from, ahead);
    softmax(tile, h, c);
    if (codes)
      S::output_of_code_pairs(source.dtype, v + c.from / 2, c.last - c.from, it.head_dim_v, m.p + c.from, m.rows, o,
                              m.dv_padded, ahead);
    else
      S::output_of_pairs(v + c.from / 2, c.last - c.from, it.head_dim_v, m.p + c.from, m.rows, o, m.dv_padded, ahead);
  }
}

template <class S>
void stream(const AttentionItem& item) {
  StreamRun<S>(item).attend();
}
template <class S>
size_t stream_scratch_bytes(int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t head_dim_v) {
  return StreamScratch<S>(nullptr, tokens, heads, kv_heads, head_dim, head_dim_v).bytes;
}

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
