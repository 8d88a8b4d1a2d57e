// Decode by products of tiles: for up to 16 rows of a KV head, each 64 keys of it are found, or brought into the form
// of tiles, and multiplied by the matrix unit.
//
//   cache                    keys, panels [dim / 2][16][2]          values, pairs of tokens [dim][2]
//   packed, bf16             in place                               in place, 16 tokens a tile
//   packed, 8-bit codes      widened into L1                        widened into L1
//   rows, any of the types   transposed into L1                     joined into L1
//
// A step is one KV head of 64 keys. What the vector units make is spread over the products of the other operand:
//
//   matrix unit:    S = Q K^T              O += P V
//   vector units:   values       softmax   keys of the next step
#pragma once

#include "devices/cpu/kernels/stream_kernel.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

constexpr int64_t kStreamPanels = kStreamKeys / kPanel;

template <class S>
class StreamTiles {
  using Run = StreamRun<S>;
  using Elem = typename S::Elem;
  using Packing = typename S::Packing;

 public:
  explicit StreamTiles(Run& run)
      : run_(run),
        it_(run.it),
        m_(run.m),
        value_tokens_(tokens_of_values(run)),
        // Copies and collected rows take less than the other half of each.
        keys_(reinterpret_cast<Elem*>(m_.k_staging) + kStreamKeys * m_.depth),
        values_(reinterpret_cast<Elem*>(m_.v_staging) + kStreamKeys * m_.dv_padded) {}

  void attend() {
    S::begin_tiles(m_.rows, value_tokens_);
    // Nobody writes behind the last dim, where zeros of Q are multiplied: 0 * NaN is NaN.
    if (it_.head_dim % 32 != 0)
      __builtin_memset(m_.k_staging, 0, static_cast<size_t>(kStreamKeys * m_.depth) * sizeof(float));
    if (run_.panels && !run_.codes)
      attend_as(InPlace{*this});
    else if (!run_.panels)
      attend_as(Rows{*this});
    else
      with_code_type(run_.source.dtype, [&]<DType T>() { attend_as(Codes<T>{*this}); });
    S::end_tiles();
  }

 private:
  // Of a tile of values: 32 fill it. In place it is 16, which lie together in blocks of 16 tokens too: sums of 32 would
  // have other bits, and the block size must change none. Of few keys, 16 are made sooner.
  static int64_t tokens_of_values(const Run& run) {
    constexpr int64_t kFewKeys = 256;
    if (run.panels && !run.codes) return kPanel;
    return run.last_key - run.first_key < kFewKeys ? 16 : 32;
  }

  struct Step {
    const StreamTile* tile = nullptr;
    const StreamTile* next = nullptr;
    typename Run::Columns columns;
    int64_t h = 0;
    int64_t groups() const { return (columns.to - columns.from) / kPanel; }
  };

  // `form` says where a step's operands lie. Keys and values at once: what is stored first has left the store buffer
  // when it is loaded as a tile.
  template <class Form>
  void attend_as(const Form& form) {
    const int64_t dims = round_up(it_.head_dim, 32) / 32, dims_v = round_up(it_.head_dim_v, kPanel) / kPanel;
    const auto beside = [this]() __attribute__((always_inline)) { run_.ahead.step(); };
    Step now;
    for (bool more = first_step(now); more; more = next_step(now)) {
      const typename Run::Columns c = now.columns;
      const int64_t v0 = c.from / value_tokens_ * value_tokens_, v1 = round_up(c.to, value_tokens_);
      run_.prefetch(now.next, now.h, now.groups() * dims + (v1 - v0) / value_tokens_ * dims_v);
      form.bind(now, v0, v1);
      S::template tile_scores<true>(k_, k_tails_, now.groups(), it_.head_dim, queries(now.h), m_.depth, m_.s + c.from,
                                    beside);
      run_.softmax(*now.tile, now.h, c);
      clear_weights(v0, c, v1);
      S::template tile_output<true>(v_, strides_, (v1 - v0) / value_tokens_, value_tokens_, it_.head_dim_v, m_.p + v0,
                                    output(now.h), m_.dv_padded, beside);
    }
  }

  const Elem* queries(int64_t h) const { return m_.q + h * m_.rows * m_.depth; }
  float* output(int64_t h) const { return m_.o + h * m_.rows * m_.dv_padded; }

  bool first_step(Step& step) {
    if (run_.first_key >= run_.last_key) return false;
    begin_ = run_.first_key / kStreamKeys * kStreamKeys - kStreamKeys;
    current_ = 1;
    run_.find_tile(begin_ + kStreamKeys, m_.tiles[0]);
    return next_tile(step);
  }
  bool next_step(Step& step) {
    if (++step.h < it_.num_kv_heads) return true;
    return next_tile(step);
  }
  // The tile that was the next one until now has been found.
  bool next_tile(Step& step) {
    for (begin_ += kStreamKeys; begin_ < run_.last_key; begin_ += kStreamKeys) {
      current_ ^= 1;
      step.h = 0;
      step.tile = m_.tiles + current_;
      step.next = begin_ + kStreamKeys < run_.last_key ? m_.tiles + (current_ ^ 1) : nullptr;
      if (step.next != nullptr) run_.find_tile(begin_ + kStreamKeys, m_.tiles[current_ ^ 1]);
      step.columns = run_.visible_columns(*step.tile);
      if (step.columns.from < step.columns.to) return true;
    }
    return false;
  }

  // Half a tile of values beside the columns.
  void clear_weights(int64_t v0, typename Run::Columns c, int64_t v1) const {
    for (int64_t r = 0; r < m_.rows && v1 - v0 > c.to - c.from; ++r) {
      Elem* p = m_.p + r * kStreamKeys;
      if (v0 < c.from) __builtin_memset(p + v0, 0, kPanel * sizeof(Elem));
      if (v1 > c.to) __builtin_memset(p + c.to, 0, kPanel * sizeof(Elem));
    }
  }

  // ---- where the operands come from
  // -----------------------------------------------------------------------------------

  const char* values_at(const StreamTile& tile, int64_t h, int64_t i) const {
    return tile.v[i] + h * run_.source.v_head_stride * run_.source_bytes;
  }

  void bind_key_panels(const Step& step) {
    run_.find_key_panels(*step.tile, step.h, step.columns, k_);
    const int64_t whole = it_.head_dim / 32 * 32;
    for (int64_t g = 0; g < step.groups(); ++g) {
      k_tails_[g] = k_[g] + 2 * whole * kPanel;
      if (whole == it_.head_dim || run_.source.block_size % kPanel != 0) continue;
      Elem* tail = keys_ + g * kPanel * 32;
      __builtin_memcpy(tail, k_tails_[g], static_cast<size_t>(2 * (it_.head_dim - whole) * kPanel));
      k_tails_[g] = reinterpret_cast<const char*>(tail);
    }
  }
  void bind_value_pairs(const Step& step, int64_t v0, int64_t v1) {
    const StreamTile& tile = *step.tile;
    const bool whole_blocks = run_.source.block_size % value_tokens_ == 0;
    int64_t g = 0;
    for (int64_t j = v0; j < v1; j += value_tokens_, ++g) {
      if (whole_blocks && j >= tile.from && j + value_tokens_ <= tile.to && it_.head_dim_v % kPanel == 0) {
        v_[g] = values_at(tile, step.h, j);
        strides_[g] = run_.source.v_addr.token_outer_stride * run_.source_bytes;
        continue;
      }
      v_[g] = m_.v_staging + j * m_.dv_padded * run_.source_bytes;
      strides_[g] = 2 * m_.dv_padded * run_.source_bytes;
      for (int64_t i = j; i < j + value_tokens_; i += 2) {
        if (!whole_blocks || i < tile.from || i + 2 > tile.to)
          run_.copy_value_pair(tile, step.h, i);
        else
          Packing::copy_value_pairs(reinterpret_cast<const Elem*>(values_at(tile, step.h, i)), ~0u, it_.head_dim_v,
                                    2 * kPanel, reinterpret_cast<Elem*>(m_.v_staging) + i * m_.dv_padded);
      }
    }
  }

  struct InPlace {
    StreamTiles& x;
    void bind(const Step& step, int64_t v0, int64_t v1) const {
      x.bind_key_panels(step);
      x.bind_value_pairs(step, v0, v1);
    }
  };

  // What has been made, in its halves of the buffers.
  void bind_made(const Step& step, int64_t v0, int64_t v1) {
    for (int64_t g = 0; g < step.groups(); ++g) {
      k_[g] = reinterpret_cast<const char*>(keys_ + g * kPanel * m_.depth);
      k_tails_[g] = k_[g] + 2 * (it_.head_dim / 32 * 32) * kPanel;
    }
    for (int64_t g = 0; g < (v1 - v0) / value_tokens_; ++g) {
      v_[g] = reinterpret_cast<const char*>(values_ + (v0 + g * value_tokens_) * m_.dv_padded);
      strides_[g] = 4 * m_.dv_padded;
    }
  }

  template <DType T>
  struct Codes {
    StreamTiles& x;
    __attribute__((noinline)) void bind(const Step& step, int64_t v0, int64_t v1) const {
      const StreamTile& tile = *step.tile;
      const int64_t block = x.run_.source.block_size, pair_bytes = 2 * x.m_.dv_padded;
      x.run_.find_key_panels(tile, step.h, step.columns, x.k_);
      for (int64_t j = v0, g = 0; j < v1; j += kPanel, ++g) {
        if (j >= tile.from && j + kPanel <= tile.to && block % kPanel == 0) {
          x.v_[g] = x.values_at(tile, step.h, j);
          x.strides_[g] = x.run_.source.v_addr.token_outer_stride;
          continue;
        }
        x.v_[g] = x.run_.copy_value_pair(tile, step.h, j);
        for (int64_t i = 2; i < kPanel; i += 2) x.run_.copy_value_pair(tile, step.h, j + i);
        x.strides_[g] = pair_bytes;
      }
      const CodeTables<T> tables;  // in registers from here on
      for (int64_t g = 0; g < step.groups(); ++g)
        Packing::widen_key_panel(tables, x.k_[g], x.it_.head_dim, nullptr, x.keys_ + g * kPanel * x.m_.depth);
      Elem* pair = x.values_ + v0 * x.m_.dv_padded;
      for (int64_t g = 0; g < (v1 - v0) / kPanel; ++g) {
        const char* codes = x.v_[g];
        for (int64_t i = 0; i < kPanel; i += 2, codes += x.strides_[g], pair += pair_bytes)
          Packing::widen_value_pairs(tables, codes, ~0u, x.it_.head_dim_v, nullptr, 2 * kPanel, pair);
      }
      x.bind_made(step, v0, v1);
    }
  };

  // Rows of any layout; codes become rows of bf16 first.
  void widen_rows(const StreamTile& tile, int64_t dim, int64_t stride, char* staging, const char** rows) const {
    if (!run_.codes) return;
    with_code_type(run_.source.dtype, [&]<DType T>() {
      const CodeTables<T> tables;
      for (int64_t i = tile.from; i < tile.to; ++i) {
        auto* row = reinterpret_cast<Elem*>(staging) + i * stride;
        Packing::widen_row(tables, rows[i], dim, row);
        rows[i] = reinterpret_cast<const char*>(row);
      }
    });
  }
  struct Rows {
    StreamTiles& x;
    void bind(const Step& step, int64_t v0, int64_t v1) const {
      const Run& run = x.run_;
      const int64_t dim = x.it_.head_dim, dim_v = x.it_.head_dim_v;
      run.bind_rows(*step.tile, step.tile->k, run.source.k_addr, run.source.k_head_stride, step.h, dim, x.m_.k_staging,
                    x.m_.k_rows);
      x.widen_rows(*step.tile, dim, x.m_.depth, x.m_.k_staging, x.m_.k_rows);
      if (!run.latent) {
        run.bind_rows(*step.tile, step.tile->v, run.source.v_addr, run.source.v_head_stride, step.h, dim_v,
                      x.m_.v_staging, x.m_.v_rows);
        x.widen_rows(*step.tile, dim_v, x.m_.dv_padded, x.m_.v_staging, x.m_.v_rows);
      }
      for (int64_t g = 0; g < step.groups(); ++g)
        for (int64_t d = 0; d < dim; d += 32)
          Packing::pack_key_tile(x.m_.k_rows + step.columns.from + g * kPanel, dim, d,
                                 x.keys_ + (g * x.m_.depth + d) * kPanel);
      const char* const* rows = run.latent ? x.m_.k_rows : x.m_.v_rows;
      for (int64_t j = v0; j < v1; j += 2)
        Packing::join_value_rows(rows[j], rows[j + 1], dim_v, x.values_ + j * x.m_.dv_padded);
      x.bind_made(step, v0, v1);
    }
  };

  Run& run_;
  const AttentionItem& it_;
  StreamScratch<S>& m_;
  const int64_t value_tokens_;
  Elem* const keys_;  // halves of buffers
  Elem* const values_;
  int64_t begin_ = 0, current_ = 0;
  // Of the step at work; the last dims of keys, where they are no 32, have zeros behind them.
  const char* k_[kStreamPanels];
  const char* k_tails_[kStreamPanels];
  const char* v_[kStreamPanels];
  int64_t strides_[kStreamPanels];  // from pair to pair
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
