// Tuned forward attention for prefill and extend.
//
//   workgroup   8 waves in two groups of 4; 32 query rows a wave (two 16-row tiles), 256 in all
//   Q, O        in registers;  K, V tiles double-buffered in shared memory, 16-byte chunks XOR-swizzled by row
//   slots       barriers cut time into slots. Group 0 is one slot ahead of group 1:
//
//                 slot      2t          2t+1         2t+2         2t+3
//                 group 0   load t+1    compute t    load t+2     compute t+1
//                 group 1   compute t-1 load t+1     compute t    load t+2
//
//               so that on each SIMD one wave's memory work meets the other's MFMA. `load t+1` brings a thread's part
//               of tile t+1 from memory to registers; `compute t` first writes it to the buffer that tile t-1 has left,
//               then multiplies tile t. The buffer is free: group 1 read tile t-1 for the last time in slot 2t. The
//               tile is whole before it is read: group 1 writes its part in slot 2t+2, group 0 reads it from slot 2t+3
//               on.
//   softmax     the maximum is raised only when it grows by more than 8 (log2): most tiles do not touch O
//
// 16-bit caches whose tokens lie at one stride, and packed keys; the rest takes the portable kernel.
#pragma once

#include "devices/hip/kernels/tile_attention.h"

namespace sextant::hip {

constexpr int kForwardThreads = 512, kForwardRowTiles = 2, kForwardRows = 8 * 16 * kForwardRowTiles;

template <class T_, int kDk, int kDv, int kKeys_>
struct ForwardShape {
  using T = T_;
  static constexpr int DK = kDk, DV = kDv, kKeys = kKeys_, kSubtiles = kKeys / 16;
  static constexpr int kKeyBytes = kKeys * DK * 2, kValueBytes = kKeys * DV * 2;
  static constexpr int kSharedBytes = 2 * (kKeyBytes + kValueBytes);
  static constexpr int kKeyChunks = (kKeys * DK / 8 + kForwardThreads - 1) / kForwardThreads;  // a thread's
  static constexpr int kValueChunks = (kKeys * DV / 8 + kForwardThreads - 1) / kForwardThreads;
};

// Byte of dim `d` of a row; a row's 16-byte chunks are permuted by its lowest bits.
template <int kDim>
SEXTANT_DEVICE int swizzled(int row, int d) {
  return row * kDim * 2 + ((d / 8) ^ (row & 7)) * 16 + d % 8 * 2;
}

// This thread's chunks of one tile of keys or values, in registers.
template <class S, bool kValues, int kChunks>
SEXTANT_DEVICE void fetch_chunks(const AttentionParams& p, const WorkItem& item, int32_t key0, int32_t end,
                                 u32x4 (&chunks)[kChunks]) {
  constexpr int kDim = kValues ? S::DV : S::DK;
  const int head_dim = kValues ? p.head_dim_v : p.head_dim;
  SEXTANT_UNROLL
  for (int j = 0; j < kChunks; ++j) {
    const int i = thread_index() + j * kForwardThreads, row = i / (kDim / 8), d = i % (kDim / 8) * 8;
    chunks[j] = u32x4{0, 0, 0, 0};
    const int32_t position = key0 + row;
    if (row >= S::kKeys || position >= end || d >= head_dim) continue;
    int64_t index;
    const void* data;
    if (is_packed(p, item.request, position)) {
      const int64_t token = static_cast<int64_t>(item.request.packed_start) + position - item.request.first_packed;
      index = kValues ? token * p.packed_v_token_stride + item.kv_head * p.packed_v_head_stride + d
                      : token * p.packed_k_token_stride + item.kv_head * p.packed_k_head_stride + d;
      data = kValues ? p.packed_v : p.packed_k;
    } else {
      const BlockToken at = find_token(p, item.request, position);
      const Addressing& rule = kValues ? p.v_addr : p.k_addr;  // token_tile 1
      index = at.block * rule.block_stride + item.kv_head * rule.head_stride + at.token * rule.token_outer_stride +
              static_cast<int64_t>(d / 8) * (kValues ? p.v_chunk_stride : p.k_chunk_stride);
      data = kValues ? p.cache_v : p.cache_k;
    }
    chunks[j] = *reinterpret_cast<const u32x4*>(static_cast<const uint16_t*>(data) + index);
  }
}
template <class S, bool kValues, int kChunks>
SEXTANT_DEVICE void put_chunks(const u32x4 (&chunks)[kChunks], char* tile) {
  constexpr int kDim = kValues ? S::DV : S::DK;
  SEXTANT_UNROLL
  for (int j = 0; j < kChunks; ++j) {
    const int i = thread_index() + j * kForwardThreads, row = i / (kDim / 8), d = i % (kDim / 8) * 8;
    if (row < S::kKeys) *reinterpret_cast<u32x4*>(tile + swizzled<kDim>(row, d)) = chunks[j];
  }
}

// S^T of the tile's keys for both row tiles of the wave: each fragment of K is read once.
template <class S>
SEXTANT_DEVICE void forward_scores(const char* keys, const Fragment<typename S::T> (&q)[kForwardRowTiles][S::DK / 32],
                                   f32x4 (&s)[kForwardRowTiles][S::kSubtiles]) {
  using T = typename S::T;
  const int lane = lane_index();
  SEXTANT_UNROLL
  for (int t = 0; t < S::kSubtiles; ++t) {
    SEXTANT_UNROLL
    for (int m = 0; m < kForwardRowTiles; ++m) s[m][t] = f32x4{0, 0, 0, 0};
    SEXTANT_UNROLL
    for (int i = 0; i < S::DK / 32; ++i) {
      const auto k = load_fragment<T>(keys + swizzled<S::DK>(16 * t + lane % 16, 32 * i + 8 * (lane / 16)));
      SEXTANT_UNROLL
      for (int m = 0; m < kForwardRowTiles; ++m) s[m][t] = multiply<T>(k, q[m][i], s[m][t]);
    }
  }
}

// O^T += V^T P^T, 32 keys at a time.
template <class S>
SEXTANT_DEVICE void forward_values(const char* values, const f32x4 (&s)[kForwardRowTiles][S::kSubtiles],
                                   f32x4 (&o)[kForwardRowTiles][S::DV / 64][4]) {
  using T = typename S::T;
  const int lane = lane_index();
  SEXTANT_UNROLL
  for (int pair = 0; pair < S::kSubtiles / 2; ++pair) {
    Fragment<T> weights[kForwardRowTiles];
    SEXTANT_UNROLL
    for (int m = 0; m < kForwardRowTiles; ++m) {
      const f32x4 a = s[m][2 * pair], b = s[m][2 * pair + 1];
      weights[m] = make_weights<T>(Floats8{{a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]}});
    }
    SEXTANT_UNROLL
    for (int c = 0; c < S::DV / 64; ++c) {
      Quad<T> rows[8];
      SEXTANT_UNROLL
      for (int e = 0; e < 8; ++e) {
        const int row = 32 * pair + 16 * (e / 4) + 4 * (lane / 16) + e % 4;
        rows[e] = load_quad<T>(values + swizzled<S::DV>(row, 64 * c + 4 * (lane % 16)));
      }
      SEXTANT_UNROLL
      for (int n = 0; n < 4; ++n) {
        const Fragment<T> v = transpose<T>(rows, n);
        SEXTANT_UNROLL
        for (int m = 0; m < kForwardRowTiles; ++m) o[m][c][n] = multiply<T>(v, weights[m], o[m][c][n]);
      }
    }
  }
}

template <class S>
SEXTANT_DEVICE void forward_attention(const AttentionParams& p) {
  using T = typename S::T;
  WorkItem item;
  if (!find_item(p, block_index(), &item)) return;
  const Request& r = item.request;
  const int32_t row0 = item.row_tile * kForwardRows, num_rows = r.query_len * p.group_size;
  const int32_t wave_row0 = row0 + 16 * kForwardRowTiles * wave_index();
  RowState rows[kForwardRowTiles];
  Fragment<T> q[kForwardRowTiles][S::DK / 32];
  SEXTANT_UNROLL
  for (int m = 0; m < kForwardRowTiles; ++m) {
    rows[m] = make_row(p, item, wave_row0 + 16 * m + lane_index() % 16);
    load_query<T>(p, item, rows[m].row, rows[m].valid, q[m]);
  }

  const int32_t first_position = r.context_len + row0 / p.group_size;
  const int32_t last_position = r.context_len + (min(row0 + kForwardRows, num_rows) - 1) / p.group_size;
  int32_t begin = item.key_lo, end = item.key_hi;
  if (p.causal != 0) end = min(end, last_position + 1);
  if (p.window > 0) begin = max(begin, first_position - p.window + 1);
  // What this wave's rows see; tiles outside need no product.
  const int32_t wave_first = r.context_len + wave_row0 / p.group_size;
  const int32_t wave_last = r.context_len + (wave_row0 + 16 * kForwardRowTiles - 1) / p.group_size;
  const bool has_rows = wave_row0 < num_rows;
  const ScoreRule rule = make_score_rule(p, 1.0f);

  char* shared = shared_memory<S::kSharedBytes>();
  const int group = wave_index() / 4;
  const int tiles = end > begin ? ceil_div(end - begin, S::kKeys) : 0;
  u32x4 k_chunks[S::kKeyChunks], v_chunks[S::kValueChunks];
  const auto keys_at = [&](int t) { return shared + (t & 1) * (S::kKeyBytes + S::kValueBytes); };
  if (tiles > 0) {
    fetch_chunks<S, false>(p, item, begin, end, k_chunks);
    fetch_chunks<S, true>(p, item, begin, end, v_chunks);
    put_chunks<S, false>(k_chunks, keys_at(0));
    put_chunks<S, true>(v_chunks, keys_at(0) + S::kKeyBytes);
  }
  barrier();
  if (group == 1) barrier();  // one slot behind
  f32x4 o[kForwardRowTiles][S::DV / 64][4] = {};
  for (int t = 0; t < tiles; ++t) {
    const int32_t key0 = begin + t * S::kKeys;
    const bool more = t + 1 < tiles;
    if (more) {
      fetch_chunks<S, false>(p, item, key0 + S::kKeys, end, k_chunks);
      fetch_chunks<S, true>(p, item, key0 + S::kKeys, end, v_chunks);
    }
    barrier();
    if (more) {
      put_chunks<S, false>(k_chunks, keys_at(t + 1));
      put_chunks<S, true>(v_chunks, keys_at(t + 1) + S::kKeyBytes);
    }
    const bool seen = has_rows && !(p.causal != 0 && key0 > wave_last) &&
                      !(p.window > 0 && key0 + S::kKeys <= wave_first - p.window + 1);
    if (seen) {
      set_priority<1>();
      f32x4 s[kForwardRowTiles][S::kSubtiles];
      forward_scores<S>(keys_at(t), q, s);
      const bool masked = key0 + S::kKeys > end || (p.causal != 0 && key0 + S::kKeys - 1 > wave_first) ||
                          (p.window > 0 && key0 <= wave_last - p.window);
      SEXTANT_UNROLL
      for (int m = 0; m < kForwardRowTiles; ++m) {
        finish_scores<S::kSubtiles>(p, item, rule, rows[m], key0, end, masked, s[m]);
        scale_output(exponentiate<S::kSubtiles>(rows[m], 8.0f, s[m]), o[m]);
      }
      forward_values<S>(keys_at(t) + S::kKeyBytes, s, o);
      set_priority<0>();
    }
    barrier();
  }
  if (group == 0) barrier();  // group 1's last slot
  if (!has_rows) return;
  SEXTANT_UNROLL
  for (int m = 0; m < kForwardRowTiles; ++m) {
    const float sum = sum_over_groups(rows[m].sum);
    // Made again: two registers less to carry through the loop.
    rows[m].row = wave_row0 + 16 * m + lane_index() % 16;
    if (rows[m].row >= num_rows) continue;
    const int lane_group = lane_index() / 16;
    const RowTarget target = end_row(p, item, rows[m].row, rows[m].row - row0, rows[m].max, sum, 1.0f, lane_group == 0);
    SEXTANT_UNROLL
    for (int c = 0; c < S::DV / 64; ++c) store_output16<T>(target, 64 * c + 16 * lane_group, p.head_dim_v, o[m][c]);
  }
}

}  // namespace sextant::hip
