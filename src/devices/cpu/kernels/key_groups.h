// Keys and values of a source, packed for the matrix unit in groups of tiles that stay in the second-level cache.
//
// While one group is multiplied the next one is packed, a chunk at a time, and the lines of the chunk after that come
// closer.
#pragma once

#include "devices/cpu/kernels/attention_kernel.h"
#include "devices/cpu/kernels/prefetch.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

template <class E>
class KeyGroups {
  using Run = AttentionRun<E>;
  using Elem = typename E::Elem;

 public:
  // Keys [from, to) of the run's current source.
  KeyGroups(Run& run, int64_t from, int64_t to)
      : run_(run),
        it_(run.it),
        m_(run.m),
        all_(run.bounds_of(0, run.rows)),
        keys_in_place_(run.keys_in_place()),
        from_(from),
        to_(to),
        end_tile_((to + it_.tile_keys - 1) / it_.tile_keys),
        first_(from / it_.tile_keys),
        last_(first_),
        tile_(first_),
        packing_end_(smaller(end_tile_, first_ + 1)) {}

  // What any row sees.
  const typename Run::RowBounds& all() const { return all_; }
  // Tiles [first(), last()) are packed.
  int64_t first() const { return first_; }
  int64_t last() const { return last_; }
  const Elem* keys(int64_t tile) const { return m_.k + slot(half_, tile - first_) * m_.k_slot; }
  // Whether keys are not packed, since the cache holds the same.
  bool keys_in_place() const { return keys_in_place_; }
  const Elem* values(int64_t tile) const { return m_.v[0] + slot(half_, tile - first_) * m_.v_slot; }

  void turn_to(int64_t tile) {
    run_.tile_begin = tile * it_.tile_keys;
    run_.set_range(from_, to_);
  }

  // The next group takes the place of the one before this one, or of this one where nobody used it. False: there is
  // none. The first has one tile, since nothing is multiplied meanwhile.
  template <class Between>
  bool next(bool used, const Between& between) {
    if (last_ == end_tile_) return false;
    if (!used) half_ ^= 1;
    do {
      ahead_.finish();
      fetch_behind();
    } while (pack_chunk(between));
    half_ ^= 1;
    first_ = last_;
    last_ = packing_end_;
    tile_ = last_;
    column_ = 0;
    packing_end_ = smaller(end_tile_, last_ + m_.slots / 2);
    return true;
  }
  // What comes next is packed over so many calls of ahead(), each followed by `steps` of step().
  void spread(int64_t calls, int64_t steps) {
    const int64_t chunks = (packing_end_ - last_) * (it_.tile_keys / kTokensAtOnce);
    if (chunks == 0) return;
    calls_a_chunk_ = larger(1, (calls << kFraction) / chunks);
    steps_a_call_ = steps;
    due_ = 0;
    fetch(steps_until_next());
  }
  // Packs its share, calling between() now and then.
  template <class Between>
  void ahead(const Between& between) {
    if (tile_ >= packing_end_) return;
    due_ += int64_t{1} << kFraction;
    if (due_ < calls_a_chunk_) return;
    ahead_.finish();
    for (; due_ >= calls_a_chunk_; due_ -= calls_a_chunk_)
      if (!pack_chunk(between)) break;
    fetch(steps_until_next());
  }
  void step() { ahead_.step(); }

 private:
  static constexpr int kFraction = 8;
  static constexpr int64_t kStepsOfChunk = 32;
  static constexpr int64_t kMostTileKeys = 256;

  int64_t slot(int half, int64_t tile) const { return half * (m_.slots / 2) + tile; }

  // The next tokens to be packed.
  struct Chunk {
    int64_t column = 0, count = 0;
  };
  bool find_chunk(Chunk& chunk) {
    for (; tile_ < packing_end_; ++tile_, column_ = 0) {
      turn_to(tile_);
      const auto seen = run_.visible_columns(all_);
      column_ = larger(column_, seen.from);
      chunk = {column_, smaller(seen.to - column_, kTokensAtOnce)};
      if (chunk.count > 0) return true;
    }
    return false;
  }
  // Keys and values of some tokens. Whether there were any.
  template <class Between>
  bool pack_chunk(const Between& between) {
    Chunk now;
    if (!find_chunk(now)) return false;
    const int64_t to = slot(half_ ^ 1, tile_ - last_);
    column_ += now.count;
    const auto both = [&]() __attribute__((always_inline)) {
      ahead_.step();
      between();
    };
    if (!keys_in_place_) run_.pack_keys(now.column, now.count, m_.k + to * m_.k_slot + now.column * m_.depth, both);
    run_.pack_values(now.column, now.count, m_.v_tokens, m_.v[0] + to * m_.v_slot + now.column * kPanel, both);
    return true;
  }

  int64_t steps_until_next() const { return larger(1, calls_a_chunk_ * steps_a_call_ >> kFraction); }

  // The lines of the chunks that are packed next come into the second-level cache over so many steps.
  void fetch(int64_t steps) {
    ahead_ = {};
    Chunk chunk;
    if (!find_chunk(chunk)) return;
    const int64_t chunks = larger(1, (int64_t{1} << kFraction) / calls_a_chunk_);
    announce(chunk.column, smaller(chunks * kTokensAtOnce, it_.tile_keys - chunk.column), steps);
  }
  void announce(int64_t column, int64_t count, int64_t steps) {
    const KeySource& source = *run_.source;
    const int64_t first = larger(run_.begin, run_.tile_begin + column),
                  last = smaller(run_.end, run_.tile_begin + column + count);
    if (first >= last) return;
    const int64_t bytes = element_bytes(source.dtype);
    int64_t runs = 0, run_bytes = it_.head_dim * bytes;
    if (source.packed_layout) {
      if (source.block_size % kPanel != 0) return;
      for (int64_t position = first / kPanel * kPanel; position < last; position += kPanel) {
        rows_[runs++] = run_.block_at(source.k, source.k_addr, position);
        rows_[runs++] = run_.block_at(source.v, source.v_addr, position);
      }
      run_bytes *= kPanel;
    } else {
      runs = run_.locate_tile(first, last, rows_);
      if (runs == 0) return;
    }
    ahead_.add(rows_, runs, 0, run_bytes, 0, 1);
    ahead_.start(steps);
  }
  // Behind the chunk that is packed at once.
  void fetch_behind() {
    ahead_ = {};
    Chunk chunk;
    if (!find_chunk(chunk)) return;
    const int64_t column = chunk.column + chunk.count;
    if (column < it_.tile_keys) announce(column, smaller(kTokensAtOnce, it_.tile_keys - column), kStepsOfChunk);
  }

  Run& run_;
  const AttentionItem& it_;
  AttentionScratch<E>& m_;
  const typename Run::RowBounds all_;
  const bool keys_in_place_;
  const int64_t from_, to_, end_tile_;
  int64_t first_, last_;  // the group at work
  int half_ = 0;          // of the slots, which hold it
  // The next one: what is to be packed.
  int64_t tile_, packing_end_, column_ = 0;
  int64_t calls_a_chunk_ = 1, steps_a_call_ = 1, due_ = 0;
  Prefetcher ahead_;
  const char* rows_[2 * kMostTileKeys];
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
