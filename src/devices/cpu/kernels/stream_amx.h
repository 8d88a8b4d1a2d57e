// Decode with AMX (stream_tiles.h). Panels of the packed cache layout are tiles already: K [D/2][16 keys][2] is D/32
// tiles of 32 dims, V [bs/2][D][2] has pairs of tokens under each other, of which eight are half a tile. Where K and V
// are bf16 nothing is copied or packed, and one instruction takes in 1 KiB of the cache, or half of it.
//
// A product takes as long as its first operand has rows: the few rows of decode make the tiles low.
#pragma once

#include "devices/cpu/kernels/amx_tiles.h"
#include "devices/cpu/kernels/stream_bf16.h"
#include "devices/cpu/kernels/stream_tiles.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

// Tiles 0-3 accumulate; 4 holds queries and 6 a panel of keys, 32 dims; 5 holds weights and 7 values.
struct AmxStream : DotStream {
  static constexpr bool kReadsTiles = true;
  static constexpr int64_t kSoftmaxSteps = 8;

  // Elsewhere vdpbf16ps is faster: codes of one or two rows are widened in its registers, and bringing rows into tiles
  // takes as long as three rows' products.
  static bool takes_tiles(int64_t rows, int64_t dim, bool panels, bool codes) {
    if (rows > 16) return false;
    if (codes) return rows >= (!panels ? 3 : dim > 64 ? 3 : 2);
    return panels || rows >= 3;
  }

  static void begin_tiles(int64_t rows, int64_t value_tokens) {
    TileShape shape;
    for (int t = 0; t < 6; ++t) shape.set(t, static_cast<int>(rows), t == 5 ? static_cast<int>(2 * value_tokens) : 64);
    shape.set(6, 16, 64);
    shape.set(7, static_cast<int>(value_tokens / 2), 64);
    tile_configure(shape);
  }
  template <bool kOnce, int kTile>
  static void load(const void* p, int64_t stride_bytes) {
    if constexpr (kOnce)
      tile_load_once<kTile>(p, stride_bytes);
    else
      tile_load<kTile>(p, stride_bytes);
  }
  static void end_tiles() { tile_release(); }

  // s[rows, 16 * panels] of at most four panels. tails: what follows the last 32 dims, padded to 32. beside() is called
  // at every product.
  template <bool kOnce, class Beside>
  static void tile_scores(const char* const* panels, const char* const* tails, int64_t count, int64_t dim,
                          const uint16_t* q, int64_t depth, float* s, const Beside& beside) {
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    const auto panel = [&]<int kPanelOf>(const char* const* at, int64_t d) __attribute__((always_inline)) {
      if (kPanelOf >= count) return;
      beside();
      load<kOnce, 6>(at[kPanelOf] + 2 * d * kPanel, 64);
      tile_dot<kPanelOf, 4, 6>();
    };
    const auto step = [&](const char* const* at, int64_t d) __attribute__((always_inline)) {
      panel.template operator()<0>(at, d);
      panel.template operator()<1>(at, d);
      panel.template operator()<2>(at, d);
      panel.template operator()<3>(at, d);
    };
    const int64_t whole = dim / 32 * 32;
    for (int64_t d = 0; d < whole; d += 32) {
      tile_load<4>(q + d, depth * 2);
      step(panels, d);
    }
    if (whole < dim) {
      tile_load<4>(q + whole, depth * 2);
      step(tails, 0);
    }
    constexpr int64_t kStride = kStreamKeys * 4;
    tile_store<0>(s, kStride);
    if (count > 1) tile_store<1>(s + 16, kStride);
    if (count > 2) tile_store<2>(s + 32, kStride);
    if (count > 3) tile_store<3>(s + 48, kStride);
  }

  // o[rows, dim] += p[rows, tokens * groups] * V. A group's pairs lie `strides` bytes apart.
  template <bool kOnce, class Beside>
  static void tile_output(const char* const* groups, const int64_t* strides, int64_t count, int64_t tokens, int64_t dim,
                          const uint16_t* p, float* o, int64_t o_stride, const Beside& beside) {
    const int64_t row_bytes = o_stride * 4;
    for_even_parts<4>((dim + kPanel - 1) / kPanel, [&]<int kPanels>(int64_t first) {
      float* at = o + first * kPanel;
      tile_load<0>(at, row_bytes);
      if constexpr (kPanels > 1) tile_load<1>(at + 16, row_bytes);
      if constexpr (kPanels > 2) tile_load<2>(at + 32, row_bytes);
      if constexpr (kPanels > 3) tile_load<3>(at + 48, row_bytes);
      for (int64_t g = 0; g < count; ++g) {
        const char* values = groups[g] + 64 * first;
        tile_load<5>(p + g * tokens, kStreamKeys * 2);
        const auto panel = [&]<int kPanelOf>() __attribute__((always_inline)) {
          if constexpr (kPanelOf < kPanels) {
            beside();
            load<kOnce, 7>(values + 64 * kPanelOf, strides[g]);
            tile_dot<kPanelOf, 5, 7>();
          }
        };
        panel.template operator()<0>();
        panel.template operator()<1>();
        panel.template operator()<2>();
        panel.template operator()<3>();
      }
      tile_store<0>(at, row_bytes);
      if constexpr (kPanels > 1) tile_store<1>(at + 16, row_bytes);
      if constexpr (kPanels > 2) tile_store<2>(at + 32, row_bytes);
      if constexpr (kPanels > 3) tile_store<3>(at + 48, row_bytes);
    });
  }
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
