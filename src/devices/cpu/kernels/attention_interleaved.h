// Attention of one item on a matrix unit that works beside the vector units.
//
// The rows are cut into blocks of 32, and every pair (block of rows, tile of keys) is a phase, cut into strips of 32
// columns (64 where products are short). While the vector units make weights of a strip's scores, the matrix unit makes
// the scores of the next strip and a part of the output of the phase before:
//
//   vector units:   softmax of strip j, S -> P
//   matrix unit:    S = Q K^T of strip j+1,   O += P V of the phase before, some of its steps
//
// So scores live for two strips, in the first-level cache: a tile that is stored beyond it takes the core four times as
// long. A block of rows goes through a group of tiles (key_groups.h) before the next block does, so that its queries
// and its output stay close as well. Two buffers of P are used in turns. A row's output is rescaled one phase late,
// between two products that touch it, by a power of two: interleaving changes no bit.
#pragma once

#include "devices/cpu/kernels/key_groups.h"
#include "devices/cpu/kernels/strip_softmax.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

template <class E>
class InterleavedTiles {
  using Run = AttentionRun<E>;
  using Elem = typename E::Elem;

 public:
  // Keys [from, to) of the run's current source.
  InterleavedTiles(Run& run, int64_t from, int64_t to)
      : run_(run),
        it_(run.it),
        m_(run.m),
        groups_(run, from, to),
        shape_(run.it, run.source->k_scale),
        blocks_((run.rows + E::kRowBlock - 1) / E::kRowBlock),
        exact_(run.exact()),
        strip_shift_(run.it.head_dim <= 64 ? 6 : 5),
        block_(blocks_),
        products_(run.m.s[1]) {
    if (blocks_ == 1) bounds_[0] = groups_.all();
    for (int64_t b = 0; b < blocks_ && blocks_ > 1; ++b)
      bounds_[b] = run_.bounds_of(b * E::kRowBlock, smaller((b + 1) * E::kRowBlock, run_.rows));
    for (int64_t r = run_.rows; r < m_.rows_padded; ++r) {  // rows of padding see nothing, and need no maximum
      m_.lo[r] = m_.hi[r] = 0;
      m_.row_max[r] = 0.0f;
    }
  }

  void attend() {
    Phase previous, current, next;
    if (!find_phase(current, previous)) return;
    add_scores(current, first_strip(current));
    run_alone();
    for (bool more = true; more; previous = current, current = next) {
      begin_phase(previous, current);
      const int64_t first = first_strip(current), last = last_strip(current);
      for (int64_t strip = first; strip < last; ++strip) {
        const int64_t share = (output_steps_ * (strip + 1 - first) + last - first - 1) / (last - first);
        close_output(previous);
        if (strip + 1 < last) {
          add_scores(current, strip + 1);
          add_output(previous, share);
        } else {
          add_output(previous, share);
          more = find_phase(next, previous);
          if (more) add_scores(next, first_strip(next));
        }
        run_strip(current, strip);
      }
      if (previous.count > 0) has_output(previous);
      state_.sums.end();
      if (exact_) state_.exact.end();
    }
    begin_output(previous);
    add_output(previous, output_steps_);
    run_alone();
    has_output(previous);
    add_sums();
  }

 private:
  // A block of rows and a tile of keys.
  struct Phase {
    int64_t row = 0, count = 0;
    typename Run::Columns columns;
    int64_t tile_begin = 0, begin = 0, end = 0;
    int64_t whole_from = 0, whole_to = 0;  // columns that all rows see
    const Elem *k = nullptr, *v = nullptr;
    int buffer = 0;     // of P
    int64_t strip = 0;  // number of its first strip: two buffers of scores are used in turns
  };
  int64_t first_strip(const Phase& p) const { return (p.columns.from >> strip_shift_); }
  int64_t last_strip(const Phase& p) const { return (p.columns.to + (int64_t{1} << strip_shift_) - 1) >> strip_shift_; }
  float* scores_at(const Phase& p, int64_t column) const {
    const int64_t strip = p.strip + (column >> strip_shift_) - first_strip(p), width = int64_t{1} << strip_shift_;
    return m_.s[0] + ((strip & 1) * width + (column & (width - 1))) * E::kRowBlock;
  }

  // The next phase of this group of tiles, or of the next. What waits is the last of `previous`.
  bool find_phase(Phase& phase, const Phase& previous) {
    while (!find_in_group(phase)) {
      // The new group may overwrite what the last phase but one reads.
      if (phases_ < 2) finish_output(previous);
      if (!groups_.next(phases_ > 0, [this] { step_alone(); })) return false;
      block_ = 0;
      tile_ = groups_.first();
      phases_ = 0;
      groups_.spread(larger(1, blocks_ * (groups_.last() - groups_.first()) - (blocks_ > 1 ? 2 : 1)),
                     it_.tile_keys / kStripColumns);
    }
    if (phases_ < (blocks_ > 1 ? 3 : 2)) return true;
    if (phases_ == 2) run_alone();  // the phase before was of the group before
    groups_.ahead([this] { step_alone(); });
    return true;
  }
  bool find_in_group(Phase& phase) {
    for (; block_ < blocks_; ++block_, tile_ = groups_.first())
      for (; tile_ < groups_.last(); ++tile_) {
        groups_.turn_to(tile_);
        phase.columns = run_.visible_columns(bounds_[block_]);
        if (phase.columns.from >= phase.columns.to) continue;
        phase.row = block_ * E::kRowBlock;
        phase.count = smaller(E::kRowBlock, run_.rows - phase.row);
        phase.tile_begin = run_.tile_begin;
        phase.begin = run_.begin;
        phase.end = run_.end;
        phase.whole_from = larger(bounds_[block_].lo_max, run_.begin) - run_.tile_begin;
        phase.whole_to = smaller(bounds_[block_].hi_min, run_.end) - run_.tile_begin;
        phase.k = groups_.keys(tile_);
        phase.v = groups_.values(tile_);
        phase.buffer = buffer_;
        buffer_ ^= 1;
        phase.strip = strips_;
        strips_ += last_strip(phase) - first_strip(phase);
        ++tile_;
        ++phases_;
        return true;
      }
    return false;
  }

  void begin_phase(const Phase& previous, const Phase& p) {
    begin_output(previous);
    state_.sums.begin(m_.lane_sums + p.row * kPanel);
    if (exact_) state_.exact.begin(m_.exact_sums + p.row * kPanel);
    state_.unknown = false;
    for (int64_t i = 0; i < E::kRowBlock; ++i) {
      const float max = m_.row_max[p.row + i];
      state_.unknown |= max == kNegInf;
      state_.minus_max[i] = max == kNegInf ? -kUnknownMax : -max;
    }
    rows_.first = p.row;
    rows_.count = p.count;
    rows_.lo = m_.lo + p.row;
    rows_.hi = m_.hi + p.row;
    rows_.begin = p.begin;
    rows_.end = p.end;
    rows_.max = m_.row_max + p.row;
    rows_.weights = m_.p[p.buffer];
    rows_.from = p.columns.from;
    const int64_t strips = (p.columns.to - p.columns.from) / kStripColumns;
    steps_a_strip_ = E::depth(it_.head_dim) / 32 + output_steps_ / strips;
  }

  // ---- products ----

  TileBlock& add_block() {
    if (count_ == kMostBlocks) run_alone();
    return waiting_[count_++];
  }
  void add_scores(const Phase& p, int64_t strip) {
    const int64_t last = smaller((strip + 1) << strip_shift_, p.columns.to);
    for (int64_t column = larger(strip << strip_shift_, p.columns.from); column < last; column += kStripColumns) {
      TileBlock& x = add_block();
      x.a = m_.q + p.row * m_.depth;
      x.a_down = 16 * m_.depth;
      x.a_ahead = kTileElements;
      place_keys(p, column, x);
      x.c = scores_at(p, column);
      x.c_stride = kPanel * 4;
      x.c_down = kPanel * kPanel;
      x.c_right = kPanelScores;
      x.steps = E::depth(it_.head_dim) / 32;
      x.two = p.count > 16;
      x.begins = true;
      x.accumulate = false;
      x.a_once = false;
    }
  }

  void place_keys(const Phase& p, int64_t column, TileBlock& x) const {
    x.b = p.k + column * m_.depth;
    x.b_right = m_.depth * kPanel;
    if (!groups_.keys_in_place()) return;
    // Blocks that nobody sees may not be there.
    const int64_t left = p.tile_begin + column, right = left + kPanel;
    const auto panel = [&](int64_t position) {
      return reinterpret_cast<const Elem*>(run_.block_at(run_.source->k, run_.source->k_addr, position));
    };
    x.b = panel(right > p.begin ? left : right);
    x.b_right = right > p.begin && right < p.end ? panel(right) - x.b : 0;
  }

  // A phase's output is made in blocks of 32 columns, of which the last may stay open for a while.
  void begin_output(const Phase& p) {
    output_done_ = 0;
    output_depth_ = (p.columns.to - p.columns.from) / 32;
    output_steps_ = p.count > 0 ? output_depth_ * (m_.dv_padded / 32) : 0;
    if (!state_.raised) return;
    state_.raised = false;
    products_.save();
    for (int64_t i = 0; i < p.count; ++i) {
      if (state_.alpha[i] != 1.0f) scale_row(m_.o + (p.row + i) * m_.o_stride, m_.dv_padded, state_.alpha[i]);
      state_.alpha[i] = 1.0f;
    }
  }
  void add_output(const Phase& p, int64_t until) {
    while (output_done_ < until) {
      const int64_t block = output_done_ / output_depth_, step = output_done_ % output_depth_;
      TileBlock& x = add_block();
      x.a = m_.p[p.buffer] + p.columns.from * E::kRowBlock + step * kStripWeights;
      x.a_down = kTileElements;
      x.a_ahead = kStripWeights;
      x.b = p.v + block * 2 * m_.v_tokens * kPanel + (p.columns.from + step * 32) * kPanel;
      x.b_right = m_.v_tokens * kPanel;
      x.c = m_.o + p.row * m_.o_stride + block * 32;
      x.c_stride = m_.o_stride * 4;
      x.c_down = kPanel * m_.o_stride;
      x.c_right = kPanel;
      x.steps = smaller(until - output_done_, output_depth_ - step);
      x.two = p.count > 16;
      x.begins = step == 0;
      x.accumulate = run_.has_output(p.row);
      x.a_once = true;
      output_done_ += x.steps;
    }
  }
  void close_output(const Phase& p) {
    if (output_done_ > 0) add_output(p, round_up(output_done_, output_depth_));
  }
  void finish_output(const Phase& p) {
    add_output(p, output_steps_);
    run_alone();
  }
  void has_output(const Phase& p) { run_.blocks_with_output |= uint64_t{1} << p.row / E::kRowBlock; }

  // Of what waits one step, or all, with no rows in between.
  void step_alone() {
    if (next_ == count_) return;
    TileBlock& x = waiting_[next_];
    products_.step(x, x.begins, []<int>() {});
    x.begins = false;
    if (--x.steps == 0) ++next_;
  }
  void run_alone() {
    while (next_ < count_) step_alone();
    next_ = count_ = 0;
    products_.save();
  }

  void run_strip(const Phase& p, int64_t strip) {
    const int64_t first = larger(strip << strip_shift_, p.columns.from),
                  last = smaller((strip + 1) << strip_shift_, p.columns.to);
    const bool whole = p.whole_from <= first && p.whole_to >= last;
    if (exact_)
      run_any_rows<true>(p, first, last, whole);
    else if (shape_.shaped())
      run_any_rows<false>(p, first, last, whole);
    else if (!whole)
      steps_a_strip_ >= 6 ? run_rows<false, false, false, 4>(p, first, last)
                          : run_rows<false, false, false, 8>(p, first, last);
    else if (steps_a_strip_ >= 12)
      run_rows<false, true, false, 2>(p, first, last);
    else if (steps_a_strip_ >= 6)
      run_rows<false, true, false, 4>(p, first, last);
    else
      run_rows<false, true, false, 8>(p, first, last);
  }

  template <bool kExact>
  void run_any_rows(const Phase& p, int64_t first, int64_t last, bool whole) {
    if (shape_.shaped())
      whole ? run_rows<true, true, kExact, 4>(p, first, last) : run_rows<true, false, kExact, 4>(p, first, last);
    else
      whole ? run_rows<false, true, kExact, 4>(p, first, last) : run_rows<false, false, kExact, 4>(p, first, last);
  }

  // What waits, with the rows of columns [first, last) in between, kRows a step.
  template <bool kShaped, bool kWhole, bool kExact, int kRows>
  __attribute__((noinline)) void run_rows(const Phase& p, int64_t first, int64_t last) {
    // The scores that this strip reads may have been the last block, which the next one stores.
    if (next_ == count_)
      products_.store();
    else if (waiting_[next_].begins)
      step_alone();
    int64_t block = next_;
    bool begins = block < count_ && waiting_[block].begins;
    for (int64_t column = first; column < last; column += kStripColumns) {
      Strip<E, kShaped, kWhole, kExact> strip(shape_, rows_, state_, scores_at(p, column), p.tile_begin + column,
                                              column);
      groups_.step();
      const auto rows = [&]<int kPart>() __attribute__((always_inline)) {
        if constexpr (kRows >= 4 || kPart % 2 == 0)
          for (int i = 0; i < larger(kRows / 4, 1); ++i) strip.weigh();
      };
      while (block < count_ && strip.left() >= kRows) {
        TileBlock& x = waiting_[block];
        products_.step(x, begins, rows);
        begins = false;
        if (--x.steps > 0) continue;
        ++block;
        begins = block < count_ && waiting_[block].begins;
      }
      while (strip.left() > 0) strip.weigh();
      strip.finish();
    }
    for (; block < count_; ++block, begins = block < count_ && waiting_[block].begins)
      for (TileBlock& x = waiting_[block]; x.steps > 0; --x.steps, begins = false)
        products_.step(x, begins, []<int>() {});
    next_ = count_ = 0;
  }

  void add_sums() {
    const auto take = [](float* lanes) {
      const float sum = reduce_add({_mm512_loadu_ps(lanes)});
      _mm512_storeu_ps(lanes, _mm512_setzero_ps());
      return sum;
    };
    for (int64_t r = 0; r < run_.rows; ++r) {
      m_.row_sum[r] += take(m_.lane_sums + r * kPanel);
      if (exact_) m_.row_exact[r] += take(m_.exact_sums + r * kPanel);
    }
  }

  static constexpr int64_t kMostRowBlocks = 64;
  static constexpr int64_t kMostBlocks = 64;  // that wait

  Run& run_;
  const AttentionItem& it_;
  AttentionScratch<E>& m_;
  KeyGroups<E> groups_;
  const StripShape shape_;
  const int64_t blocks_;
  const bool exact_;       // the logarithm of the sums is wanted
  const int strip_shift_;  // of the columns of a strip
  int64_t block_, tile_ = 0;
  int64_t phases_ = 2;  // of this group of tiles so far
  int buffer_ = 0;
  int64_t strips_ = 0, steps_a_strip_ = 0;
  int64_t output_done_ = 0, output_depth_ = 0, output_steps_ = 0;  // of the phase before
  TileProducts products_;
  StripRows rows_;
  StripState state_;
  int64_t next_ = 0, count_ = 0;
  TileBlock waiting_[kMostBlocks];
  typename Run::RowBounds bounds_[kMostRowBlocks];
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
