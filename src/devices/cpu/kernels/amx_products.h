// Products of AMX tiles that wait in a queue and are issued a little at a time, between the vector instructions of
// something else: the matrix unit works while the vector units do. One instruction stream, no second thread.
//
//   c[rows, 16 * panels] (+)= a[rows, depth] * b[depth, 16 * panels]
//
// in blocks of 32 x 32. A step is 32 of the depth: four loads and four products, 64 cycles of the matrix unit. It is
// cut into quarters of one product each, because a renamed tile register is a scarce thing: loads for many products
// in a row stop the whole core at the first one without a free register.
#pragma once

#include "devices/cpu/kernels/amx_tiles.h"
#include "devices/cpu/kernels/engine_bf16.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

constexpr int64_t kTileElements = 16 * 32;  // of a bf16 tile, 1 KiB

struct TileProduct {
  const uint16_t* a = nullptr;  // tiles [rows / 16][depth / 32][16][32], a tile row `a_stride` elements from the next
  int64_t a_stride = 0;
  const uint16_t* b = nullptr;  // panels [panels][depth / 2][16][2], each `b_stride` elements from the next
  int64_t b_stride = 0;
  float* c = nullptr;  // rows of `c_stride` elements; room for whole blocks of 32 columns
  int64_t c_stride = 0;
  int64_t rows = 0, panels = 0, depth = 0;
  bool accumulate = false;
};

class TileProducts {
 public:
  static constexpr int kQuarters = 4;

  void add(const TileProduct& p) {
    if (p.rows <= 0 || p.depth <= 0) return;
    steps_left_ += (p.rows + 31) / 32 * ((p.panels + 1) / 2) * (p.depth / 32);
    waiting_[count_++] = p;
    if (count_ == 1) start();
  }
  int64_t steps_left() const { return steps_left_; }

  // The quarters of a step must follow each other in order; only while steps are left.
  template <int kQuarter>
  inline __attribute__((always_inline)) void quarter() {
    if constexpr (kQuarter == 0) {
      if (k_ == 0) open();
      tile_load_once<6>(b_, 64);
      tile_load<4>(a_, 64);
      tile_dot<0, 4, 6>();
    } else if constexpr (kQuarter == 1) {
      tile_load_once<7>(b_ + b_next_, 64);
      tile_dot<1, 4, 7>();
    } else if constexpr (kQuarter == 2) {
      if (!two_) return;
      tile_load<5>(a_ + a_stride_, 64);
      tile_dot<2, 5, 6>();
    } else {
      if (two_) tile_dot<3, 5, 7>();
      a_ += kTileElements;
      b_ += kTileElements;
      k_ += 32;
      --steps_left_;
      if (k_ == depth_) close();
    }
  }
  inline __attribute__((always_inline)) void step() {
    quarter<0>();
    quarter<1>();
    quarter<2>();
    quarter<3>();
  }
  void steps(int64_t count) {
    for (; count > 0 && steps_left_ > 0; --count) step();
  }
  void finish() { steps(steps_left_); }

 private:
  void start() {
    row_ = panel_ = 0;
    place();
  }
  // The block at row_, panel_. Row blocks inside: the panels of b stay in the first-level cache for all of them.
  void place() {
    const TileProduct& p = waiting_[0];
    two_ = p.rows - row_ > 16;
    a_ = p.a + row_ / 16 * p.a_stride;
    a_stride_ = p.a_stride;
    b_ = p.b + panel_ * p.b_stride;
    b_next_ = panel_ + 1 < p.panels ? p.b_stride : 0;  // an odd last panel is taken twice
    c_ = p.c + row_ * p.c_stride + panel_ * 16;
    depth_ = p.depth;
    k_ = 0;
  }
  inline __attribute__((always_inline)) void open() {
    const TileProduct& p = waiting_[0];
    const int64_t stride = p.c_stride * 4;
    if (p.accumulate) {
      tile_load<0>(c_, stride);
      tile_load<1>(c_ + 16, stride);
      if (!two_) return;
      tile_load<2>(c_ + 16 * p.c_stride, stride);
      tile_load<3>(c_ + 16 * p.c_stride + 16, stride);
    } else {
      tile_zero<0>();
      tile_zero<1>();
      tile_zero<2>();
      tile_zero<3>();
    }
  }
  inline __attribute__((always_inline)) void close() {
    const TileProduct& p = waiting_[0];
    const int64_t stride = p.c_stride * 4;
    tile_store<0>(c_, stride);
    tile_store<1>(c_ + 16, stride);
    if (two_) {
      tile_store<2>(c_ + 16 * p.c_stride, stride);
      tile_store<3>(c_ + 16 * p.c_stride + 16, stride);
    }
    row_ += 32;
    if (row_ >= p.rows) {
      row_ = 0;
      panel_ += 2;
    }
    if (panel_ < p.panels) return place();
    --count_;
    if (count_ > 0) {
      waiting_[0] = waiting_[1];
      start();
    }
  }

  TileProduct waiting_[2];
  int count_ = 0;
  int64_t steps_left_ = 0;
  // The block at work.
  const uint16_t* a_ = nullptr;
  const uint16_t* b_ = nullptr;
  float* c_ = nullptr;
  int64_t a_stride_ = 0, b_next_ = 0, depth_ = 0, k_ = 0, row_ = 0, panel_ = 0;
  bool two_ = false;
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
