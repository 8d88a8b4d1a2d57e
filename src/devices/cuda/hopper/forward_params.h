// What the forward kernel gets beside the attention parameters.
#pragma once

#include <cuda.h>

#include "devices/cuda/kernels/launchers.h"

namespace sextant::cuda {

// How the forward kernel brings keys to shared memory.
enum class KeySource : uint8_t {
  kExact,    // head sizes are the tile's own: a box is whole tokens of one KV head
  kRows,     // row by row, in layout like kPadded: block sizes that 8 does not divide
  kPadded,   // smaller head sizes: a box is 64 columns of some tokens; columns beyond the head size become zero
  kConvert,  // through registers: fp8 caches, layouts without chunks of 8 dims
  kFp16,     // fp8 caches to fp16, which holds fp8 exactly and takes a fraction of the instructions that bf16 would;
             // queries in bf16 are scaled to fp16 row by row. All keys from the cache, in vectors of 16 dims
};

constexpr bool converts_keys(KeySource source) { return source == KeySource::kConvert || source == KeySource::kFp16; }

// How the tensor-map copies see the tensors. K and V: dims {columns, token, column block, 8 tokens, outer}, where a
// box is whole tokens of one KV head: groups of 8, in them blocks of 128 bytes of columns (or of the whole row, where
// it has only 64 bytes). The head is an offset in `column block` or in `outer`. For KeySource::kPadded: dims {columns,
// token, KV head, cache block}, where a box is 64 columns of tokens of one KV head.
struct KeyMap {
  CUtensorMap k, v;
  int32_t tokens = 0;  // of a box: a power of two that divides the block size; 0: no such copies
  int32_t k_head_blocks = 0, v_head_blocks = 0;  // of `column block`, from a head to the next
  int32_t k_head_outer = 0, v_head_outer = 0;    // of `outer`, from a head to the next
  int32_t k_block_outer = 0, v_block_outer = 0;  // of `outer`, from a cache block to the next
};
struct ForwardMaps {
  KeyMap cache, packed;
  KeyMap packed_ends;  // boxes of 8 tokens that may reach past the last: of tiles at the end of a request's keys
  CUtensorMap q;       // dims {head_dim, head of the group, query, KV head}; a box is 64 columns of a row tile
  bool queries = false;
};

// The order of the work items: requests that see the most keys first, where lengths are known; in a request sections of
// KV heads whose keys stay in the L2 cache together; in a section the row tiles that see the most keys first. (Sections
// of the whole batch would leave the last heads' longest row tiles to the end.) In a mixed batch some blocks start at
// the other end, so that decodes, which wait for memory, and prefills, which wait for products, run side by side.
struct ForwardOrder {
  int32_t tiles = 0;  // row tiles over all requests, at most
  int32_t partitions = 1;
  int32_t heads_per_section = 1;
  int32_t items = 0;
  int32_t blocks = 0;          // of the grid
  int32_t front_blocks = 0;    // the first so many blocks take items from the end of the order
  int32_t* claimed = nullptr;  // [3], zeroed before the launch: items taken beyond the blocks' first; of these by
                               // blocks that go from the start, and from the end; null: each block has one item
  RequestOrder requests;       // none: row tiles from the batch's last to its first
};

}  // namespace sextant::cuda
