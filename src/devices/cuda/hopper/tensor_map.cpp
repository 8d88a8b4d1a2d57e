// Encodes tensor maps by the driver's function.
#include "devices/cuda/hopper/tensor_map.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "devices/cuda/driver_entry.h"
#include "devices/cuda/kernels/launchers.h"
#include "sextant/types.h"

namespace sextant::cuda {
namespace {

// What an element is does not matter to a copy; it fills nothing in.
CUtensorMapDataType element_type(DType dtype) {
  return size_of(dtype) == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
}

// The first dimension contiguous; strides of the others in elements. A box's first dimension fills the swizzle.
template <int kRank>
bool make_map(CUtensorMap* map, DType dtype, const void* base, const int64_t (&dims)[kRank],
              const int64_t (&strides)[kRank - 1], const int32_t (&box)[kRank]) {
  static const auto encode = find_driver_entry<decltype(&cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  if (encode == nullptr || reinterpret_cast<uintptr_t>(base) % 16 != 0) return false;
  cuuint64_t sizes[kRank], bytes[kRank - 1];
  cuuint32_t boxes[kRank], steps[kRank];
  for (int i = 0; i < kRank; ++i) {
    sizes[i] = static_cast<cuuint64_t>(dims[i]);
    boxes[i] = static_cast<cuuint32_t>(box[i]);
    steps[i] = 1;
  }
  for (int i = 0; i + 1 < kRank; ++i) {
    const int64_t stride_bytes = strides[i] * static_cast<int64_t>(size_of(dtype));
    if (stride_bytes <= 0 || stride_bytes % 16 != 0 || stride_bytes >= int64_t{1} << 40) return false;
    bytes[i] = static_cast<cuuint64_t>(stride_bytes);
  }
  const size_t columns = static_cast<size_t>(box[0]) * size_of(dtype);  // bytes
  const auto swizzle = columns == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B;
  // Of a head with rows of 128 bytes, 256 would bring another head's as well.
  const bool wide = kRank > 2 && box[2] > 1;
  const auto promotion = wide ? CU_TENSOR_MAP_L2_PROMOTION_L2_256B : CU_TENSOR_MAP_L2_PROMOTION_L2_128B;
  return encode(map, element_type(dtype), kRank, const_cast<void*>(base), sizes, bytes, boxes, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, promotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// Tokens of one KV head: [outer][token][head_dim]; strides in elements.
struct Keys {
  const void* base;
  int64_t head_dim, num_heads, tokens, outer;
  int64_t token_stride, head_stride, outer_stride;
};

struct HeadOffsets {
  int32_t* head_blocks;
  int32_t* head_outer;
  int32_t* block_outer;
};

// Columns of a block: 128 bytes of them, or a whole row of 64 bytes.
int64_t block_columns(DType dtype, int64_t head_dim) {
  return std::min(head_dim, 128 / static_cast<int64_t>(size_of(dtype)));
}

// Such a box cannot fill columns beyond head_dim with zeros: head sizes are whole blocks.
// A box is whole tokens, or `box_blocks` of their blocks.
bool make_key_map(CUtensorMap* map, const HeadOffsets& offsets, DType dtype, const Keys& t, int32_t box_tokens,
                  int64_t box_blocks = 0) {
  const int64_t columns = block_columns(dtype, t.head_dim), blocks = t.head_dim / columns;
  int64_t column_blocks = blocks, outer = t.outer, outer_stride = t.outer_stride;
  if (t.head_stride == t.head_dim) {  // heads lie one after the other in a token
    column_blocks = blocks * t.num_heads;
    *offsets.head_blocks = static_cast<int32_t>(blocks);
    *offsets.block_outer = 1;
  } else if (t.head_stride > 0 && t.outer_stride % t.head_stride == 0) {
    *offsets.head_outer = 1;
    *offsets.block_outer = static_cast<int32_t>(t.outer_stride / t.head_stride);
    outer = (t.outer - 1) * (t.outer_stride / t.head_stride) + t.num_heads;
    outer_stride = t.head_stride;
  } else {
    return false;
  }
  return make_map<5>(map, dtype, t.base, {columns, t.tokens, column_blocks, std::max<int64_t>(1, t.tokens / 8), outer},
                     {t.token_stride, columns, 8 * t.token_stride, outer_stride},
                     {static_cast<int32_t>(columns), 8, static_cast<int32_t>(box_blocks > 0 ? box_blocks : blocks),
                      box_tokens / 8, 1});
}

bool make_key_maps(KeyMap* maps, DType dtype, const Keys& k, const Keys& v, int32_t box_tokens) {
  const bool made =
      make_key_map(&maps->k, {&maps->k_head_blocks, &maps->k_head_outer, &maps->k_block_outer}, dtype, k, box_tokens) &&
      make_key_map(&maps->v, {&maps->v_head_blocks, &maps->v_head_outer, &maps->v_block_outer}, dtype, v, box_tokens);
  maps->tokens = made ? box_tokens : 0;
  return made;
}

// Boxes of `columns` columns: what lies beyond head_dim is filled with zeros.
bool make_padded_maps(KeyMap* maps, DType dtype, const Keys& k, const Keys& v, int32_t box_tokens,
                      int32_t columns = 64) {
  const auto make = [&](CUtensorMap* map, const Keys& t) {
    return make_map<4>(map, dtype, t.base, {t.head_dim, t.tokens, t.num_heads, t.outer},
                       {t.token_stride, t.head_stride, t.outer_stride}, {columns, box_tokens, 1, 1});
  };
  const bool made = make(&maps->k, k) && make(&maps->v, v);
  maps->tokens = made ? box_tokens : 0;
  return made;
}

Keys cache_keys(const AttentionParams& p, const void* base, const KvAddressing& a, int32_t head_dim) {
  return {base,          head_dim,      p.num_kv_heads, p.block_size, p.num_blocks, a.token_outer_stride,
          a.head_stride, a.block_stride};
}

// Row r of a tile is query r / G, head r % G.
bool make_query_map(CUtensorMap* map, const AttentionParams& p, int32_t rows) {
  if (rows % p.group_size != 0 || !p.q_aligned) return false;
  return make_map<4>(map, p.dtype, p.q, {p.head_dim, p.group_size, p.num_tokens, p.num_kv_heads},
                     {p.q_head_stride, p.q_token_stride, p.group_size * p.q_head_stride},
                     {64, p.group_size, rows / p.group_size, 1});
}

// A whole head is one column block of 128 bytes; columns beyond head_dim become zero.
bool make_fp8_key_map(CUtensorMap* map, const AttentionParams& p, const void* base, const KvAddressing& a,
                      int32_t head_dim, int32_t box_tokens) {
  return make_map<5>(map, DType::kF8E4M3FN, base,
                     {head_dim, p.block_size, p.num_kv_heads, std::max<int64_t>(1, p.block_size / 8), p.num_blocks},
                     {a.token_outer_stride, a.head_stride, 8 * a.token_outer_stride, a.block_stride},
                     {128, 8, 1, box_tokens / 8, 1});
}

// Dims of a token lie together.
bool has_plain_rows(const KvAddressing& a) { return a.token_tile == 1 && a.dims_contiguous(); }

}  // namespace

ForwardMaps make_forward_fp8_maps(const AttentionParams& p, int32_t tile_keys) {
  ForwardMaps maps{};
  if (kForwardRows % p.group_size == 0)
    maps.queries = make_map<4>(&maps.q, DType::kF8E4M3FN, p.q, {p.head_dim, p.group_size, p.num_tokens, p.num_kv_heads},
                               {p.q_head_stride, p.q_token_stride, p.group_size * p.q_head_stride},
                               {128, p.group_size, kForwardRows / p.group_size, 1});
  const int32_t tokens = std::min(tile_keys, p.block_size & -p.block_size);
  KeyMap& keys = maps.cache;
  if (tokens < 8 || !has_plain_rows(p.k_addr) || !has_plain_rows(p.v_addr) ||
      !make_fp8_key_map(&keys.k, p, p.cache_k, p.k_addr, p.head_dim, tokens) ||
      !make_fp8_key_map(&keys.v, p, p.cache_v, p.v_addr, p.head_dim_v, tokens))
    return maps;
  keys.tokens = tokens;
  keys.k_head_blocks = keys.v_head_blocks = 1;
  keys.k_block_outer = keys.v_block_outer = 1;
  return maps;
}

KeyMap make_cache_map(const AttentionParams& p, int32_t tile_keys) {
  KeyMap map{};
  // A power of two that divides the block size and the tile.
  const int32_t tokens = std::min(tile_keys & -tile_keys, p.block_size & -p.block_size);
  if (cache_has_boxes(p) && p.head_dim % 64 == 0 && p.head_dim_v % 64 == 0)
    make_key_maps(&map, p.cache_dtype, cache_keys(p, p.cache_k, p.k_addr, p.head_dim),
                  cache_keys(p, p.cache_v, p.v_addr, p.head_dim_v), tokens);
  return map;
}

KeyMap make_padded_cache_map(const AttentionParams& p, int32_t tile_keys, int32_t row_columns) {
  KeyMap map{};
  const int32_t tokens = std::min(tile_keys, p.block_size & -p.block_size);
  const int32_t columns = std::min(row_columns, 128 / static_cast<int32_t>(size_of(p.cache_dtype)));
  if (cache_has_boxes(p))
    make_padded_maps(&map, p.cache_dtype, cache_keys(p, p.cache_k, p.k_addr, p.head_dim),
                     cache_keys(p, p.cache_v, p.v_addr, p.head_dim_v), tokens, columns);
  return map;
}

KeyMap make_latent_map(const AttentionParams& p, int32_t box_keys) {
  KeyMap map{};
  const int32_t tokens = std::min(box_keys, p.block_size & -p.block_size);
  if (cache_has_boxes(p) && make_key_map(&map.k, {&map.k_head_blocks, &map.k_head_outer, &map.k_block_outer},
                                         p.cache_dtype, cache_keys(p, p.cache_k, p.k_addr, p.head_dim), tokens, 1))
    map.tokens = tokens;
  return map;
}

KeyMap make_latent_bytes_map(const AttentionParams& p, int32_t box_keys) {
  KeyMap map{};
  const int32_t tokens = std::min(box_keys, p.block_size & -p.block_size);
  const KvAddressing& a = p.k_addr;
  const auto make = [&](CUtensorMap* to, int32_t first, int32_t columns) {
    return make_map<4>(to, p.cache_dtype, static_cast<const uint8_t*>(p.cache_k) + first,
                       {columns, p.block_size, p.num_blocks, 1}, {a.token_outer_stride, a.block_stride, a.block_stride},
                       {std::min(columns, 128), tokens, 1, 1});
  };
  if (tokens >= 8 && has_plain_rows(a) && make(&map.k, 0, p.head_dim_v) &&
      make(&map.v, p.head_dim_v, p.head_dim - p.head_dim_v))
    map.tokens = tokens;
  return map;
}

ForwardMaps make_forward_maps(const AttentionParams& p, const ForwardTile& tile, KeySource source) {
  ForwardMaps maps{};
  maps.queries = make_query_map(&maps.q, p, tile.rows);
  if (source != KeySource::kExact && source != KeySource::kPadded) return maps;
  const bool padded = source == KeySource::kPadded;
  if (p.origin != KeyOrigin::kPacked && padded) {
    // A power of two that divides the block size and the tile.
    const int32_t tokens = std::min(tile.keys & -tile.keys, p.block_size & -p.block_size);
    if (cache_has_boxes(p))
      make_padded_maps(&maps.cache, p.dtype, cache_keys(p, p.cache_k, p.k_addr, p.head_dim),
                       cache_keys(p, p.cache_v, p.v_addr, p.head_dim_v), tokens);
  } else if (p.origin != KeyOrigin::kPacked) {
    maps.cache = make_cache_map(p, tile.keys);
  }
  if (p.origin != KeyOrigin::kCache && p.packed_aligned) {
    // Heads are the outer dimension. A box of several groups of 8 tokens is not held against the tensor's end.
    const auto packed = [&](const void* base, int32_t head_dim, int64_t token_stride, int64_t head_stride) {
      return Keys{base, head_dim, p.num_kv_heads, p.packed_rows, 1, token_stride, head_stride, head_stride};
    };
    const Keys k = packed(p.packed_k, p.head_dim, p.packed_k_token_stride, p.packed_k_head_stride),
               v = packed(p.packed_v, p.head_dim_v, p.packed_v_token_stride, p.packed_v_head_stride);
    if (padded) {
      make_padded_maps(&maps.packed, p.dtype, k, v, tile.keys);
      make_padded_maps(&maps.packed_ends, p.dtype, k, v, 8);
    } else {
      make_key_maps(&maps.packed, p.dtype, k, v, tile.keys);
      make_key_maps(&maps.packed_ends, p.dtype, k, v, 8);
    }
  }
  return maps;
}

}  // namespace sextant::cuda
