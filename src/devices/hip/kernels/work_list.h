// Requests, the work list and where keys lie. All of it follows from the current lengths on the device, so that a
// captured graph stays right when lengths and block tables change.
#pragma once

#include "devices/gpu/cache_places.h"
#include "devices/gpu/request.h"
#include "devices/hip/kernels/block_divisor.h"
#include "devices/hip/kernels/formats.h"

namespace sextant::hip {

using gpu::dim_offset;
using gpu::end_seen;
using gpu::first_seen;
using gpu::is_packed;
using gpu::key_scale;
using gpu::Request;
using gpu::SeenKeys;
using gpu::token_offset;
using gpu::value_scale;

// What a query of the request sees of the keys [first, end), its span included.
SEXTANT_DEVICE SeenKeys seen_keys(const AttentionParams& p, const Request& r, int32_t query, int32_t first,
                                  int32_t end) {
  const int32_t* span = p.token_spans != nullptr && query < r.query_len
                            ? p.token_spans + 2 * (static_cast<int64_t>(r.query_start) + query)
                            : nullptr;
  return gpu::seen_keys(p.reach, span, r.context_len + query, first, end);
}

SEXTANT_DEVICE Request load_request(const AttentionParams& p, int b) {
  Request r;
  const gpu::KeyRange keys = gpu::load_lengths(p, b, r);
  const auto lo = static_cast<int32_t>(keys.lo), hi = static_cast<int32_t>(keys.hi);
  // No end falls as queries advance: of the first query and of the last.
  r.key_lo = seen_keys(p, r, 0, lo, hi).first;
  r.key_hi = max(r.key_lo, seen_keys(p, r, max(r.query_len - 1, 0), lo, hi).end);
  return r;
}

// Row r of a request is query r / G, head r % G of the KV head's group.
SEXTANT_DEVICE int32_t query_of(const AttentionParams& p, int32_t row) {
  return static_cast<int32_t>(block_of(p.group_divisor, row));
}
SEXTANT_DEVICE int32_t head_of(const AttentionParams& p, int32_t kv_head, int32_t row) {
  return kv_head * p.group_size + row - query_of(p, row) * p.group_size;
}
SEXTANT_DEVICE int32_t row_tiles(const AttentionParams& p, const Request& r) {
  return ceil_div(r.query_len * p.group_size, p.work.rows);
}
// Keys a partition, given the batch's own partition for a planned split.
SEXTANT_DEVICE int32_t partition_size(const AttentionParams& p, const Request& r, int32_t planned) {
  const int32_t length = r.key_hi - r.key_lo;
  const SplitRule& s = p.split;
  int32_t size = s.partition > 0 ? s.partition : s.segments > 0 ? ceil_div(length, s.segments) : planned;
  if (r.query_len > s.max_query_len || length <= 0 || size <= 0) return max(1, length);
  return ceil_div(size, s.granule) * s.granule;
}
// At least one, so that rows without keys are written too.
SEXTANT_DEVICE int32_t partitions(const Request& r, int32_t size) {
  return max(1, ceil_div(r.key_hi - r.key_lo, size));
}

// What one workgroup does.
struct WorkItem {
  Request request;
  int32_t index;  // in the list
  int32_t row_tile, kv_head;
  int32_t part, parts;     // partition and their number; 1: the result is final
  int32_t key_lo, key_hi;  // keys of the partition
};

// Consecutive items share keys, and so a chiplet's L2: chiplets get workgroups in turns, so workgroup i of n is given
// the item that makes each chiplet's share a contiguous run.
SEXTANT_DEVICE int32_t remap_for_xcds(int32_t i, int32_t n, int32_t xcds) {
  if (xcds <= 1) return i;
  const int32_t whole = n / xcds, left = n % xcds, xcd = i % xcds;
  return xcd * whole + min(xcd, left) + i / xcds;
}

// False: nothing to do.
SEXTANT_DEVICE bool find_item(const AttentionParams& p, int block, WorkItem* item) {
  const int32_t total = p.work.first_item[p.num_requests];
  // The last `total % xcds` items keep the order whole: the map is a permutation of [0, total).
  if (block >= total) return false;
  const int32_t w = remap_for_xcds(block, total, p.work.num_xcds);
  int32_t begin = 0, end = p.num_requests;  // first_item[begin] <= w < first_item[end]
  while (end - begin > 1) {
    const int32_t middle = (begin + end) / 2;
    if (p.work.first_item[middle] <= w) {
      begin = middle;
    } else {
      end = middle;
    }
  }
  item->request = load_request(p, begin);
  item->index = w;
  const Request& r = item->request;
  const int32_t size = p.work.partition[begin];
  item->parts = partitions(r, size);
  const int32_t tiles = row_tiles(p, r);
  int32_t local = w - p.work.first_item[begin];
  const int32_t outer = local / item->parts;
  item->part = local - outer * item->parts;
  item->kv_head = outer / tiles;
  item->row_tile = outer - item->kv_head * tiles;
  const int64_t key_lo = r.key_lo + static_cast<int64_t>(item->part) * size;
  item->key_lo = static_cast<int32_t>(key_lo);
  item->key_hi = static_cast<int32_t>(min(key_lo + size, static_cast<int64_t>(r.key_hi)));
  return true;
}

// ---- keys ----------------------------------------------------------------------------------------------------------

// Block of a position, and the token inside.
struct BlockToken {
  int64_t block;
  int32_t token;
};
SEXTANT_DEVICE BlockToken find_token(const AttentionParams& p, const Request& r, int32_t position) {
  const auto logical = static_cast<int32_t>(static_cast<uint32_t>(position) / static_cast<uint32_t>(p.block_size));
  const int32_t id = p.block_table[r.index * p.block_table_stride + logical];
  return {gpu::clamp_block(id, p.num_blocks), position - logical * p.block_size};
}

SEXTANT_DEVICE float token_scale(const TokenScales& s, int64_t block, int32_t token, int32_t head) {
  return s.data == nullptr ? 1.0f : s.data[block * s.block_stride + token * s.token_stride + head * s.head_stride];
}

}  // namespace sextant::hip
