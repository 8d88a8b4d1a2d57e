// Attention of one item on a matrix unit that works beside the vector units.
//
// The rows are cut into blocks, and every pair (tile of keys, block of rows) is a phase:
//
//   vector units:   [pack K of the next tile]  [pack its V]  softmax of phase i, S -> P
//   matrix unit:    O += P V of phase i-1,     S = Q K^T of phase i+1
//
// The products of a phase are queued and issued between the vector instructions (amx_products.h). Two buffers of S and
// P, used in turns, keep the three phases apart. A row's output is rescaled one phase late, between two products that
// touch it, in the order in which a plain loop would do it: interleaving changes no bit.
#pragma once

#include "devices/cpu/kernels/attention_kernel.h"
#include "devices/cpu/kernels/prefetch.h"
#include "devices/cpu/kernels/softmax_amx.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

template <class E>
class InterleavedTiles {
  using Run = AttentionRun<E>;
  using Elem = typename E::Elem;

 public:
  // Keys [from, to) of the run's current source.
  InterleavedTiles(Run& run, int64_t from, int64_t to)
      : run_(run), it_(run.it), m_(run.m), from_(from), to_(to), next_row_(run.rows) {
    run_.tile_begin = from / it_.tile_keys * it_.tile_keys - it_.tile_keys;
  }

  void attend() {
    Phase previous, current, next;
    if (!find_phase(current)) return;
    products_.add(scores(current));
    pack_values();
    products_.finish();
    for (bool more = true; more; previous = current, current = next) {
      if (previous.count > 0) {
        rescale(previous);
        products_.add(output(previous));
        waiting_v_ = previous.v;
      }
      more = find_phase(next);
      if (more) products_.add(scores(next));
      pack_values();
      softmax(current);
      products_.finish();
    }
    rescale(previous);
    products_.add(output(previous));
    products_.finish();
  }

 private:
  struct Phase {
    int64_t row = 0, count = 0;
    typename Run::Columns columns;
    int64_t tile_begin = 0, begin = 0, end = 0;
    const Elem* v = nullptr;
    int buffer = 0;
  };

  // The next block of rows that sees something, packing the next tile when this one is done.
  bool find_phase(Phase& phase) {
    for (;;) {
      for (; next_row_ < run_.rows; next_row_ += E::kRowBlock) {
        const int64_t count = smaller(E::kRowBlock, run_.rows - next_row_);
        const auto columns = run_.visible_columns(next_row_, next_row_ + count);
        if (columns.from >= columns.to) continue;
        phase = {next_row_, count, columns, run_.tile_begin, run_.begin, run_.end, v_, buffer_};
        buffer_ ^= 1;
        next_row_ += E::kRowBlock;
        return true;
      }
      if (!next_tile()) return false;
      next_row_ = 0;
    }
  }

  bool next_tile() {
    run_.tile_begin += it_.tile_keys;
    if (run_.tile_begin >= to_) return false;
    run_.set_range(from_, to_);
    const auto all = run_.visible_columns(0, run_.rows);
    if (all.from >= all.to) return true;
    v_ = v_ == m_.v[0] ? m_.v[1] : m_.v[0];
    ahead_.finish();
    fetch_next_tile();
    for (int64_t j = all.from; j < all.to; j += kTokensAtOnce)
      run_.pack_keys(j, smaller(all.to - j, kTokensAtOnce), m_.k + j * m_.depth, between());
    if (v_ == waiting_v_) products_.finish();  // the tile between had one phase only
    values_ = all;
    return true;
  }
  void pack_values() {
    for (int64_t j = values_.from; j < values_.to; j += kTokensAtOnce)
      run_.pack_values(j, smaller(values_.to - j, kTokensAtOnce), m_.v_tokens, v_ + j * kPanel, between());
    values_ = {};
  }
  // Packing waits for memory and shuffles; the products that are queued meanwhile, and the next tile's lines, do not
  // disturb it.
  auto between() {
    return [this]() __attribute__((always_inline)) {
      ahead_.step();
      products_.steps(1);
    };
  }

  // While this tile is packed and at work the next one comes into the second-level cache, a few lines at every step.
  void fetch_next_tile() {
    const KeySource& source = *run_.source;
    const int64_t first = run_.tile_begin + it_.tile_keys, last = smaller(first + it_.tile_keys, to_);
    ahead_ = {};
    if (first >= last) return;
    const int64_t bytes = element_bytes(source.dtype);
    int64_t runs = 0, run_bytes = it_.head_dim * bytes;
    if (source.packed_layout) {
      if (source.block_size % kPanel != 0) return;
      for (int64_t position = first; position < last; position += kPanel) {
        ahead_rows_[runs++] = run_.block_at(source.k, source.k_addr, position);
        ahead_rows_[runs++] = run_.block_at(source.v, source.v_addr, position);
      }
      run_bytes *= kPanel;
    } else {
      runs = run_.locate_tile(first, last, ahead_rows_);
      if (runs == 0) return;
    }
    ahead_.add(ahead_rows_, runs, 0, run_bytes, 0, 1);
    ahead_.start(run_.rows + it_.tile_keys * (source.packed_layout ? 9 : m_.depth / 32 + 8) / kPanel);
  }

  TileProduct scores(const Phase& p) const {
    TileProduct product;
    product.a = m_.q + p.row * m_.depth;
    product.a_stride = 16 * m_.depth;
    product.b = m_.k + p.columns.from * m_.depth;
    product.b_stride = m_.depth * kPanel;
    product.c = m_.s[p.buffer] + p.columns.from;
    product.c_stride = m_.s_stride;
    product.rows = p.count;
    product.panels = (p.columns.to - p.columns.from) / kPanel;
    product.depth = E::depth(it_.head_dim);
    return product;
  }
  TileProduct output(const Phase& p) {
    TileProduct product;
    product.a = m_.p[p.buffer] + p.columns.from / 32 * kTileElements;
    product.a_stride = 16 * it_.tile_keys;
    product.b = p.v + p.columns.from * kPanel;
    product.b_stride = m_.v_tokens * kPanel;
    product.c = m_.o + p.row * m_.o_stride;
    product.c_stride = m_.o_stride;
    product.rows = p.count;
    product.panels = round_up(it_.head_dim_v, kPanel) / kPanel;
    product.depth = p.columns.to - p.columns.from;
    product.accumulate = run_.has_output(p.row);
    run_.blocks_with_output |= uint64_t{1} << p.row / E::kRowBlock;
    return product;
  }

  void rescale(const Phase& p) {
    for (int64_t i = 0; i < p.count; ++i)
      if (alpha_[i] != 1.0f) scale_row(m_.o + (p.row + i) * m_.o_stride, m_.dv_padded, alpha_[i]);
  }

  void softmax(const Phase& p) {
    const typename Run::Columns& c = p.columns;
    ScoreShape shape;
    shape.scale = it_.scale * run_.source->k_scale;
    shape.soft_cap = it_.soft_cap;
    const bool whole = c.from == 0 && c.to == kRegisterColumns && !c.masked;
    // Steps after each row, beyond those inside.
    const int64_t steps = (products_.steps_left() + p.count - 1) / p.count;
    for (int64_t i = 0; i < p.count; ++i) {
      const int64_t r = p.row + i;
      ahead_.step();
      float* s = m_.s[p.buffer] + i * m_.s_stride;
      Elem* weights = m_.p[p.buffer] + i / 16 * 16 * it_.tile_keys + i % 16 * 32;
      const RowState row = {m_.row_max + r, m_.row_sum + r, alpha_ + i};
      if (it_.alibi_slopes != nullptr) {
        shape.alibi_slope = it_.alibi_slopes + r % it_.num_heads;
        shape.origin = it_.context_len[r / it_.num_heads];
      }
      if (shape.shaped() || !whole) {
        shape_and_mask(p, shape, r, s);
        const int64_t before = products_.steps_left();
        softmax_columns(s, weights, c.from, c.to, shape.remaining_scale(), row, products_);
        products_.steps(steps - (before - products_.steps_left()));
        continue;
      }
      const float scale = shape.remaining_scale();
      if (products_.steps_left() >= kStepsInside) {
        softmax_256<true>(s, weights, scale, row, products_);
        products_.steps(steps - kStepsInside);
      } else {
        softmax_256<false>(s, weights, scale, row, products_);
      }
    }
  }
  void shape_and_mask(const Phase& p, const ScoreShape& shape, int64_t r, float* s) const {
    const typename Run::Columns& c = p.columns;
    if (shape.shaped()) shape_scores<E::kExpDegree>(shape, s, c.from, c.to, p.tile_begin);
    if (c.masked)
      mask_scores(s, c.from, c.to, larger(m_.lo[r], p.begin) - p.tile_begin, smaller(m_.hi[r], p.end) - p.tile_begin);
  }

  static constexpr int64_t kMaxTileKeys = 512;
  static constexpr int64_t kStepsInside = 2;  // of softmax_256

  Run& run_;
  const AttentionItem& it_;
  AttentionScratch<E>& m_;
  const int64_t from_, to_;
  int64_t next_row_;
  int buffer_ = 0;
  Elem* v_ = nullptr;
  typename Run::Columns values_;     // still to be packed into v_
  const Elem* waiting_v_ = nullptr;  // what the queued output product reads
  TileProducts products_;
  Prefetcher ahead_;
  const char* ahead_rows_[2 * kMaxTileKeys];
  float alpha_[E::kRowBlock];
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
