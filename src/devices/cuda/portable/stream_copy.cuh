// The copies of a warp's tile of keys and values into its ring, and the zeroes that must stand where a tile's tokens
// are not the request's.
#pragma once

#include "devices/cuda/kernels/work_list.cuh"
#include "devices/cuda/portable/stream_shape.cuh"

namespace sextant::cuda {

// What the copies of one warp tile need. The block id is looked up one tile ahead of its use.
struct KeyLookup {
  int32_t first, position;  // of the warp's tile; of this lane's key
  int32_t block, offset;
};
template <class S>
__device__ __forceinline__ KeyLookup look_up_keys(const AttentionParams& p, const TileCursor& c) {
  KeyLookup k;
  k.first = c.request.key_lo + c.tile * S::kTileKeys + static_cast<int>(threadIdx.x / 32) * S::kKeys;
  k.position = k.first + static_cast<int>(threadIdx.x & 31) % S::kKeys;
  k.block = 0;
  k.offset = 0;
  if (k.position < c.request.key_hi) {
    const BlockOffset at = split_position(p, k.position);
    k.offset = at.offset;
    k.block = __ldg(p.block_table + c.request.index * p.block_table_stride + at.block);
  }
  return k;
}

// Rows of 16-byte chunks of dims. Offsets travel between lanes in units of 16 bytes: 32 bits reach 64 GiB, and
// stream_serves asks for no more. A chunk that is not there still gets an address inside the cache.
template <class S>
__device__ __forceinline__ void copy_rows(const KeyLookup& k, const void* cache, int64_t row_offset,
                                          int32_t vector_stride, int32_t dims, int32_t key_hi, uint32_t tile,
                                          bool keys) {
  constexpr int kRowsACopy = 32 / (S::kChunks < 32 ? S::kChunks : 32);
  const int lane = threadIdx.x & 31, chunk = lane % S::kChunks, sub_row = lane / S::kChunks;
  const bool column = chunk * S::kVector < dims;
  const char* base = static_cast<const char*>(cache) +
                     (column ? static_cast<int64_t>(chunk) * vector_stride * S::kElement : int64_t{0});
  const uint32_t mine = static_cast<uint32_t>(static_cast<uint64_t>(row_offset) / S::kVector);
  const int32_t rows = column ? key_hi - k.first : 0;  // from here on there is nothing
#pragma unroll
  for (int i = 0; i < S::kKeys / kRowsACopy; ++i) {
    const int row = i * kRowsACopy + sub_row;
    const uint32_t from = __shfl_sync(0xffffffffu, mine, row);
    cp_async_16(tile + (keys ? S::key_offset(row, chunk) : S::value_offset(row, chunk)),
                base + static_cast<uint64_t>(from) * 16, row < rows);
  }
}

// Chunks of tokens, one a dim. A lane stays with one of the tile's runs of tokens.
template <class S>
__device__ __forceinline__ void copy_runs(const AttentionParams& p, const KeyLookup& k, int64_t run_base,
                                          int32_t key_hi, uint32_t tile) {
  constexpr int kDimsACopy = 32 / S::kRuns;
  const int lane = threadIdx.x & 31, run = lane % S::kRuns, sub_dim = lane / S::kRuns;
  const uint32_t mine = static_cast<uint32_t>(static_cast<uint64_t>(run_base) / S::kVector);
  const uint32_t from = __shfl_sync(0xffffffffu, mine, run * S::kVector);
  const char* source = static_cast<const char*>(p.cache_v) + static_cast<uint64_t>(from) * 16;
  const int64_t dim_bytes = p.v_addr.dim_outer_stride * S::kElement;
  const int32_t dims = k.first + run * S::kVector < key_hi ? p.head_dim_v : 0;
#pragma unroll
  for (int i = 0; i < S::kDim / kDimsACopy; ++i) {
    const int dim = i * kDimsACopy + sub_dim;
    cp_async_16(tile + S::run_offset(dim, run), dim < dims ? source + dim * dim_bytes : p.cache_v, dim < dims);
  }
}

template <class S>
__device__ __forceinline__ void copy_keys(const AttentionParams& p, const TileCursor& c, const KeyLookup& k,
                                          uint32_t stage) {
  const int64_t block = clamp_block(p, k.block);
  const uint32_t values = stage + S::kKeys * S::kRowBytes;
  copy_rows<S>(k, p.cache_k, token_offset(p.k_addr, block, c.kv_head, k.offset), p.k_vector_stride, p.head_dim,
               c.request.key_hi, stage, true);
  if constexpr (S::kTokens) {
    const int64_t base = block * p.v_addr.block_stride + c.kv_head * p.v_addr.head_stride +
                         static_cast<int64_t>(k.offset / S::kVector) * p.v_run_stride;
    copy_runs<S>(p, k, base, c.request.key_hi, values);
  } else {
    copy_rows<S>(k, p.cache_v, token_offset(p.v_addr, block, c.kv_head, k.offset), p.v_vector_stride, p.head_dim_v,
                 c.request.key_hi, values, false);
  }
}

// First key that a request's first query sees; requests' keys begin earlier where chunks of tokens ask for it.
__device__ __forceinline__ int32_t first_visible(const AttentionParams& p, const Request& r) {
  return p.window > 0 ? max(r.key_lo, r.context_len - p.window + 1) : r.key_lo;
}

// Zeroes the tokens outside [begin, end) of a tile of values [dims][keys] that starts at token `first`: they may be
// NaN, and a probability of 0 would not silence that.
template <class S>
__device__ __forceinline__ void clear_tokens(char* tile, int32_t first, int32_t begin, int32_t end) {
  const int lane = threadIdx.x & 31, run = lane % S::kRuns;
  const int32_t token = first + run * S::kVector;
  const int32_t low = (begin - token) * S::kElement, high = (end - token) * S::kElement;  // bytes to keep: [low, high)
  if (low <= 0 && high >= 16) return;
  for (int dim = lane / S::kRuns; dim < S::kDim; dim += 32 / S::kRuns) {
    uint32_t* words = reinterpret_cast<uint32_t*>(tile + S::run_offset(dim, run));
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const int from = min(max(low - w * 4, 0), 4), to = min(max(high - w * 4, 0), 4);
      const uint32_t below_to = to == 4 ? ~0u : (1u << (to * 8)) - 1,
                     below_from = from == 4 ? ~0u : (1u << (from * 8)) - 1;
      words[w] &= below_to & ~below_from;
    }
  }
}

}  // namespace sextant::cuda
