// Bringing keys or values of a tile into shared memory, from any origin, layout and format.
#pragma once

#include "devices/hip/kernels/mma.h"
#include "devices/hip/kernels/softmax.h"

namespace sextant::hip {

// What is read as keys or values: `kLatents` are one tensor for both, in a cache whose scale is not theirs to apply.
enum class Staged { kKeys, kValues, kLatents };

// Eight elements of the cache, one by one: element i lies at index_of(i).
template <class T, class IndexOf>
SEXTANT_DEVICE Fragment<T> load_by_element(const AttentionParams& p, const void* cache, float scale,
                                           const IndexOf& index_of) {
  Floats8 v = {};
  SEXTANT_KEEP_LOOP
  for (int i = 0; i < 8; ++i) {
    const int64_t index = index_of(i);
    const float x = scale * (is_8_bit(p.cache_format) ? load_byte_element(p.cache_format, cache, index)
                                                      : load_wide_element(TypeTraits<T>::kFormat, cache, index));
    SEXTANT_UNROLL
    for (int j = 0; j < 8; ++j)
      if (j == i) v.x[j] = x;  // registers have no address
  }
  return make_fragment<T>(v);
}

// Eight dims [d, d + 8) of one latent row. Rows and dims lie at one stride each.
template <class T>
SEXTANT_DEVICE Fragment<T> load_latent_chunk(const AttentionParams& p, const Request& r, int32_t position, int32_t d) {
  const BlockToken at = find_token(p, r, position);
  const KvAddressing& rule = p.k_addr;
  const int64_t row = at.block * rule.block_stride + at.token * rule.token_outer_stride;
  if (p.k_chunk_stride > 0) {
    if (!is_8_bit(p.cache_format)) return load_fragment<T>(static_cast<const T*>(p.cache_k) + row + d);
    const auto* bytes = static_cast<const uint8_t*>(p.cache_k) + row + d;
    return make_fragment<T>(unpack_fp8(p.cache_format, *reinterpret_cast<const u32x2*>(bytes)));
  }
  return load_by_element<T>(p, p.cache_k, 1.0f, [&](int i) { return row + (d + i) * rule.dim_outer_stride; });
}

// Eight dims [d, d + 8) of one token; zeros past the head size. Padding keeps NaN in unwritten memory out of products.
template <class T, bool kValues>
SEXTANT_DEVICE Fragment<T> load_key_chunk(const AttentionParams& p, const Request& r, int32_t kv_head, int32_t position,
                                          int32_t d, float scale) {
  if (is_packed(p, r, position)) {
    const int64_t token = static_cast<int64_t>(r.packed_start) + position - r.first_packed;
    const int64_t at = kValues ? token * p.packed_v_token_stride + kv_head * p.packed_v_head_stride + d
                               : token * p.packed_k_token_stride + kv_head * p.packed_k_head_stride + d;
    const T* data = static_cast<const T*>(kValues ? p.packed_v : p.packed_k) + at;
    if (p.packed_aligned != 0) return load_fragment<T>(data);
    return make_fragment<T>(load_wide8_by_element(TypeTraits<T>::kFormat, data));
  }
  const BlockToken at = find_token(p, r, position);
  const KvAddressing& rule = kValues ? p.v_addr : p.k_addr;
  const void* cache = kValues ? p.cache_v : p.cache_k;
  const int64_t row = token_offset(rule, at.block, kv_head, at.token);
  const int32_t chunk_stride = kValues ? p.v_chunk_stride : p.k_chunk_stride;
  if (chunk_stride > 0) {
    const int64_t index = row + static_cast<int64_t>(d / 8) * chunk_stride;
    if (!is_8_bit(p.cache_format)) return load_fragment<T>(static_cast<const T*>(cache) + index);
    Floats8 v = load_bytes8(p.cache_format, cache, index);
    scale *= token_scale(kValues ? p.v_token_scales : p.k_token_scales, at.block, at.token, kv_head);
    SEXTANT_UNROLL
    for (int i = 0; i < 8; ++i) v.x[i] *= scale;
    return make_fragment<T>(v);
  }
  scale *= token_scale(kValues ? p.v_token_scales : p.k_token_scales, at.block, at.token, kv_head);
  return load_by_element<T>(p, cache, scale, [&](int i) { return row + dim_offset(rule, d + i); });
}

// Tile [kKeys][kDim] with rows of kStride elements, from `dim0` on; dims beyond the head size and positions from `end`
// on are 0.
template <class T, Staged kStaged, int kKeys, int kDim, int kStride, int kThreads>
SEXTANT_DEVICE void stage_tile(const AttentionParams& p, const Request& r, int32_t kv_head, int32_t key0, int32_t end,
                               int dim0, float scale, T* tile) {
  constexpr int kChunks = kDim / 8, kTurns = kKeys * kChunks / kThreads, kLeft = kKeys * kChunks % kThreads;
  constexpr bool kValues = kStaged == Staged::kValues;
  const int head_dim = kValues ? p.head_dim_v : p.head_dim;
  // Turns in which all threads have a chunk are counted, so that no path goes past them.
  SEXTANT_KEEP_LOOP
  for (int turn = 0; turn < kTurns + (kLeft > 0 ? 1 : 0); ++turn) {
    const int i = thread_index() + turn * kThreads, d = i % kChunks * 8;
    const int row =
        kChunks % kWaveSize == 0 ? uniform(i / kChunks) : i / kChunks;  // a wave has one, on one of the ways
    if (kLeft > 0 && i >= kKeys * kChunks) break;
    Fragment<T> x = zero_fragment<T>();
    if (key0 + row < end && dim0 + d < head_dim) {
      if constexpr (kStaged == Staged::kLatents) {
        x = load_latent_chunk<T>(p, r, key0 + row, dim0 + d);
      } else {
        x = load_key_chunk<T, kValues>(p, r, kv_head, key0 + row, dim0 + d, scale);
      }
    }
    store_fragment<T>(tile + row * kStride + d, x);
  }
}

template <class T>
SEXTANT_DEVICE const T* query_row(const AttentionParams& p, const WorkItem& item, int32_t row) {
  const int32_t token = item.request.query_start + query_of(p, row);
  const int32_t head = head_of(p, item.kv_head, row);
  return static_cast<const T*>(p.q) + token * p.q_token_stride + head * p.q_head_stride;
}

// The lane's part of its query row from `dim0` on: fragment s holds dims 32 s + 8 (lane / 16) to + 8. `kAligned`: rows
// start on 16 bytes, whatever the parameters say.
template <class T, bool kAligned, int kSteps>
SEXTANT_DEVICE void load_query(const AttentionParams& p, const WorkItem& item, int32_t row, bool valid, int dim0,
                               Fragment<T> (&q)[kSteps]) {
  const T* from = query_row<T>(p, item, row);
  SEXTANT_UNROLL
  for (int s = 0; s < kSteps; ++s) {
    const int d = dim0 + 32 * s + 8 * (lane_index() / 16);
    q[s] = zero_fragment<T>();
    if (!valid || d >= p.head_dim) continue;
    q[s] = kAligned || p.q_aligned != 0 ? load_fragment<T>(from + d)
                                        : make_fragment<T>(load_wide8_by_element(TypeTraits<T>::kFormat, from + d));
  }
}

// The same for products of 32 rows: fragment i holds dims 16 i + 8 (lane / 32) to + 8.
template <class T, int kSteps>
SEXTANT_DEVICE void load_tall_query(const AttentionParams& p, const WorkItem& item, int32_t row, bool valid,
                                    Fragment<T> (&q)[kSteps]) {
  const T* from = query_row<T>(p, item, row);
  SEXTANT_UNROLL
  for (int i = 0; i < kSteps; ++i) {
    const int d = 16 * i + 8 * (lane_index() / 32);
    q[i] = valid && d < p.head_dim ? load_fragment<T>(from + d) : zero_fragment<T>();
  }
}

// Four dims from d on, a multiple of 4. `kAligned`: rows start on 16 bytes, whatever the target says.
template <class T, bool kAligned>
SEXTANT_DEVICE void store_quad(const RowTarget& target, int32_t d, f32x4 x) {
  x *= target.weight;
  if (sizeof(T) == 4 || target.is_f32) {
    float* to = static_cast<float*>(target.data) + target.offset + d;
    if (kAligned || target.aligned) {
      *reinterpret_cast<f32x4*>(to) = x;
      return;
    }
    SEXTANT_UNROLL
    for (int e = 0; e < 4; ++e) to[e] = x[e];
  } else if constexpr (sizeof(T) == 2) {
    T* to = static_cast<T*>(target.data) + target.offset + d;
    const u32x2 words = {pack_pair<T>(x[0], x[1]), pack_pair<T>(x[2], x[3])};
    if (kAligned || target.aligned) {
      *reinterpret_cast<u32x2*>(to) = words;
      return;
    }
    SEXTANT_UNROLL
    for (int e = 0; e < 4; ++e) to[e].bits = static_cast<uint16_t>(words[e / 2] >> (16 * (e % 2)));
  }
}

// Sixteen dims of one row: o[n][r] is dim 4 r + n.
template <class T, bool kAligned>
SEXTANT_DEVICE void store_output16(const RowTarget& target, int32_t d, int32_t head_dim, const f32x4 (&o)[4]) {
  SEXTANT_UNROLL
  for (int r = 0; r < 4; ++r) {
    if (d + 4 * r >= head_dim) return;
    store_quad<T, kAligned>(target, d + 4 * r, f32x4{o[0][r], o[1][r], o[2][r], o[3][r]});
  }
}

}  // namespace sextant::hip
