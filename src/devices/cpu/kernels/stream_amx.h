// Decode with AMX from the packed cache layout, whose panels are tiles already: K [D/2][16 keys][2] is D/32 tiles of 32
// dims, V [bs/2][D][2] has eight pairs of tokens under each other, half a tile. Nothing is copied or packed, and one
// instruction takes in 1 KiB of the cache.
//
// A product takes as long as its first operand has rows: the few rows of decode make the tiles low.
#pragma once

#include "devices/cpu/kernels/amx_tiles.h"
#include "devices/cpu/kernels/stream_bf16.h"
#include "devices/cpu/kernels/stream_kernel.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

constexpr int64_t kValueTokens = 16;  // of one tile of V

// Tiles 0-3 accumulate; 4 holds queries and 6 a panel of keys, 32 dims; 5 holds weights and 7 values, 16 tokens.
struct AmxStream : DotStream {
  static constexpr bool kReadsTiles = true;
  static constexpr int64_t kSoftmaxSteps = 8;

  static void begin_tiles(int64_t rows) {
    TileShape shape;
    for (int t = 0; t < 6; ++t) shape.set(t, static_cast<int>(rows), t == 5 ? 32 : 64);
    shape.set(6, 16, 64);
    shape.set(7, 8, 64);
    tile_configure(shape);
  }
  static void end_tiles() { tile_release(); }

  // s[rows, 16 * panels] of at most four panels.
  static void tile_scores(const char* const* panels, int64_t count, int64_t dim, const uint16_t* q, int64_t depth,
                          float* s, Prefetcher& ahead) {
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    const auto panel = [&]<int kPanelOf>(int64_t d) __attribute__((always_inline)) {
      if (kPanelOf >= count) return;
      ahead.step();
      tile_load_once<6>(panels[kPanelOf] + 2 * d * kPanel, 64);
      tile_dot<kPanelOf, 4, 6>();
    };
    for (int64_t d = 0; d < dim; d += 32) {
      tile_load<4>(q + d, depth * 2);
      panel.template operator()<0>(d);
      panel.template operator()<1>(d);
      panel.template operator()<2>(d);
      panel.template operator()<3>(d);
    }
    constexpr int64_t kStride = kStreamKeys * 4;
    tile_store<0>(s, kStride);
    if (count > 1) tile_store<1>(s + 16, kStride);
    if (count > 2) tile_store<2>(s + 32, kStride);
    if (count > 3) tile_store<3>(s + 48, kStride);
  }

  // o[rows, dim] += p[rows, 16 * groups] * V. A group's eight pairs lie `strides` bytes apart.
  static void tile_output(const char* const* groups, const int64_t* strides, int64_t count, int64_t dim,
                          const uint16_t* p, float* o, int64_t o_stride, Prefetcher& ahead) {
    for (int64_t d = 0; d < dim; d += 64) {
      const int64_t panels = smaller(4, (dim - d) / 16);
      const int64_t row_bytes = o_stride * 4;
      float* at = o + d;
      tile_load<0>(at, row_bytes);
      if (panels > 1) tile_load<1>(at + 16, row_bytes);
      if (panels > 2) tile_load<2>(at + 32, row_bytes);
      if (panels > 3) tile_load<3>(at + 48, row_bytes);
      for (int64_t g = 0; g < count; ++g) {
        const char* values = groups[g] + 4 * d;
        tile_load<5>(p + g * kValueTokens, kStreamKeys * 2);
        const auto panel = [&]<int kPanelOf>() __attribute__((always_inline)) {
          if (kPanelOf >= panels) return;
          ahead.step();
          tile_load_once<7>(values + 64 * kPanelOf, strides[g]);
          tile_dot<kPanelOf, 5, 7>();
        };
        panel.template operator()<0>();
        panel.template operator()<1>();
        panel.template operator()<2>();
        panel.template operator()<3>();
      }
      tile_store<0>(at, row_bytes);
      if (panels > 1) tile_store<1>(at + 16, row_bytes);
      if (panels > 2) tile_store<2>(at + 32, row_bytes);
      if (panels > 3) tile_store<3>(at + 48, row_bytes);
    }
  }
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
