// Where a wave's share of an MLA tile lies in memory: 8 consecutive latent rows of one block.
#pragma once

#include "devices/hip/kernels/block_divisor.h"
#include "devices/hip/kernels/key_tile.h"
#include "devices/hip/kernels/lane_memory.h"

namespace sextant::hip {

constexpr int kShareRows = 8;

// `kElement`: bytes of an element of the cache.
template <int kElement>
struct LatentRows {
  const char* rows;
  uint32_t block_bytes, token_bytes;
  const int32_t* table;
  int32_t position, id, end;  // of the share to be asked for next; the last key's successor

  SEXTANT_DEVICE_MEMBER void start(const AttentionParams& p, const WorkItem& item, int32_t key0) {
    rows = static_cast<const char*>(p.cache_k);
    block_bytes = kElement * static_cast<uint32_t>(p.k_addr.block_stride);
    token_bytes = kElement * static_cast<uint32_t>(p.k_addr.token_outer_stride);
    table = p.block_table + uniform(item.request.index) * p.block_table_stride;
    position = uniform(key0 + wave_index() * kShareRows);
    end = uniform(item.key_hi);
    find_block(p);
  }
  // The share of the tile that lies `keys` after.
  SEXTANT_DEVICE_MEMBER void advance(const AttentionParams& p, int keys) {
    position += keys;
    find_block(p);
  }
  // A chunk of 8 elements of a row of the share, in bytes from the window's begin.
  SEXTANT_DEVICE_MEMBER uint32_t chunk_at(const AttentionParams& p, int row, int chunk) const {
    return 8 * chunk < p.head_dim ? row * token_bytes + static_cast<uint32_t>(chunk * p.k_chunk_stride * kElement)
                                  : kOutside;
  }
  // Rows past the end lie past the window's end: a row is not longer than the way to the next.
  SEXTANT_DEVICE_MEMBER Window window(const AttentionParams& p) const {
    const uint32_t block = min(static_cast<uint32_t>(uniform(id)), static_cast<uint32_t>(p.num_blocks - 1));
    const auto token = static_cast<uint32_t>(position) - block_of(p.block_divisor, position) * p.block_size;
    const int32_t count =
        uniform(max(min(end - position, kShareRows), 0));  // the compiler makes it in vector registers
    return make_window(rows + (static_cast<uint64_t>(block) * block_bytes + static_cast<uint64_t>(token) * token_bytes),
                       static_cast<uint32_t>(count) * token_bytes);
  }

 private:
  SEXTANT_DEVICE_MEMBER void find_block(const AttentionParams& p) {
    id = scalar_load(table + block_of(p.block_divisor, min(position, end - 1)));
  }
};

}  // namespace sextant::hip
