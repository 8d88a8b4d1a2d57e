// Products of AMX tiles, issued a little at a time between the vector instructions of something else: the matrix unit
// works while the vector units do. One instruction stream, no second thread.
//
//   c[32, 32] (+)= a[32, depth] * b[depth, 32]
//
// A step is 32 of the depth: four loads and four products, 64 cycles of the matrix unit, cut into quarters of one
// product each.
//
// The sums of a block are stored between the first products of the next one. A store behind the last product of its
// sum would wait for the unit's latency, and everything behind it too.
#pragma once

#include "devices/cpu/kernels/amx_tiles.h"
#include "devices/cpu/kernels/engine_bf16.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

constexpr int64_t kTileElements = 16 * 32;  // of a bf16 tile, 1 KiB

// A block's next steps.
struct TileBlock {
  const uint16_t* a;        // tiles of 16 rows x 32 of the depth
  int64_t a_down, a_ahead;  // elements from a tile to that of the next rows, and of the next step
  const uint16_t* b;        // panels of 16 columns: a tile every step
  int64_t b_right;          // elements to the next panel; 0: there is none
  float* c;                 // tiles of 16 x 16
  int64_t c_stride;         // bytes from row to row
  int64_t c_down, c_right;  // elements from tile to tile
  int64_t steps;
  bool two;         // more than 16 rows
  bool begins;      // these are its first steps
  bool accumulate;  // onto c
  bool a_once;      // a is not needed again soon: the first-level cache keeps what it holds
};

// Blocks one after another.
class TileProducts {
 public:
  // `nowhere`: room for a tile that nobody needs.
  explicit TileProducts(float* nowhere) : nowhere_(nowhere) { forget(); }

  // Calls between<part of 4, whether the step begins a block>() after each product.
  template <class Between>
  inline __attribute__((always_inline)) void step(TileBlock& x, bool begins, const Between& between) {
    if (begins) {
      quarters<true>(x, between);
      // In the order of its use; a copy of whole registers would wait for the stores above.
      last_.c = x.c;
      last_.c_stride = x.c_stride;
      last_.c_down = x.c_down;
      last_.c_right = x.c_right;
      last_.two = x.two;
      saved_ = false;
    } else {
      quarters<false>(x, between);
    }
    x.a += x.a_ahead;
    x.b += kTileElements;
  }

  // Stores what the last block summed up to now; it may go on.
  void store() const {
    if (saved_) return;
    tile_store<0>(last_.c, last_.c_stride);
    tile_store<1>(last_.c + last_.c_right, last_.c_stride);
    if (last_.two) {
      tile_store<2>(last_.c + last_.c_down, last_.c_stride);
      tile_store<3>(last_.c + last_.c_down + last_.c_right, last_.c_stride);
    }
  }
  // The last block is done.
  void save() {
    store();
    forget();
  }

 private:
  void forget() {
    last_ = {};
    last_.c = nowhere_;
    last_.c_stride = 64;
    saved_ = true;
  }

  template <bool kBegins, class Between>
  inline __attribute__((always_inline)) void quarters(const TileBlock& x, const Between& between) {
    tile_load_once<6>(x.b, 64);
    load_a<4>(x.a, x.a_once);
    if constexpr (kBegins) turn<0>(x);
    tile_dot<0, 4, 6>();
    between.template operator()<0>();
    tile_load_once<7>(x.b + x.b_right, 64);
    if constexpr (kBegins) turn<1>(x);
    tile_dot<1, 4, 7>();
    between.template operator()<1>();
    if constexpr (kBegins) {
      turn<2>(x);
      turn<3>(x);
    }
    if (x.two) {
      load_a<5>(x.a + x.a_down, x.a_once);
      tile_dot<2, 5, 6>();
    }
    between.template operator()<2>();
    if (x.two) tile_dot<3, 5, 7>();
    between.template operator()<3>();
  }
  template <int kTile>
  static inline __attribute__((always_inline)) void load_a(const uint16_t* a, bool once) {
    if (once)
      tile_load_once<kTile>(a, 64);
    else
      tile_load<kTile>(a, 64);
  }
  // A tile leaves its sum of the last block and begins the next.
  template <int kTile>
  inline __attribute__((always_inline)) void turn(const TileBlock& x) {
    constexpr int kRight = kTile % 2, kDown = kTile / 2;
    if (kDown == 0 || last_.two)
      tile_store<kTile>(last_.c + kRight * last_.c_right + kDown * last_.c_down, last_.c_stride);
    if (kDown == 1 && !x.two) return;
    if (x.accumulate)
      tile_load<kTile>(x.c + kRight * x.c_right + kDown * x.c_down, x.c_stride);
    else
      tile_zero<kTile>();
  }

  float* const nowhere_;
  TileBlock last_;  // whose sums the tiles hold
  bool saved_ = true;
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
