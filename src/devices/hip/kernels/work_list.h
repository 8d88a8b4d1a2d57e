// Requests, the work list and where keys lie. All of it follows from the current lengths on the device, so that a
// captured graph stays right when lengths and block tables change.
#pragma once

#include "devices/hip/kernels/block_divisor.h"
#include "devices/hip/kernels/formats.h"
#include "sextant/attention_mask.h"

namespace sextant::hip {

// One request: its queries, and the key positions [key_lo, key_hi) that some of its queries may see.
struct Request {
  int32_t index;
  bool active;  // has queries and passes the filter
  int32_t query_start, query_len;
  int32_t context_len;  // position of the first query
  int32_t key_lo, key_hi;
  int32_t first_packed;  // position of the first packed key
  int32_t packed_start;  // its row
};

// What a query sees of the keys [first, end), but for its span: the rules of sextant/attention_mask.h.
SEXTANT_DEVICE int32_t first_seen(const KeyReach& m, int32_t position, int32_t first) {
  if (m.window > 0) first = max(first, position - m.window + 1);
  if (m.chunk > 0) first = max(first, chunk_begin(position, m.chunk));
  return first;
}
SEXTANT_DEVICE int32_t end_seen(const KeyReach& m, int32_t position, int32_t end) {
  if (m.causal != 0) end = static_cast<int32_t>(min(static_cast<int64_t>(end), int64_t{position} + 1 + m.right));
  if (m.chunk > 0)
    end = static_cast<int32_t>(min(static_cast<int64_t>(end), int64_t{chunk_begin(position, m.chunk)} + m.chunk));
  return end;
}

// The same with a query's span; one that does not hold the query is none.
struct SeenKeys {
  int32_t first, end;
};
SEXTANT_DEVICE SeenKeys seen_keys(const AttentionParams& p, const Request& r, int32_t query, int32_t first,
                                  int32_t end) {
  const int32_t position = r.context_len + query;
  SeenKeys seen = {first_seen(p.reach, position, first), end_seen(p.reach, position, end)};
  if (p.token_spans != nullptr && query < r.query_len) {
    const int32_t* span = p.token_spans + 2 * (static_cast<int64_t>(r.query_start) + query);
    if (position >= span[0] && position < span[1])
      seen = {max(min(seen.first, span[0]), first), min(max(seen.end, span[1]), end)};
  }
  return seen;
}

SEXTANT_DEVICE Request load_request(const AttentionParams& p, int b) {
  Request r;
  r.index = b;
  r.query_start = p.query_start_loc[b];
  r.query_len = p.query_start_loc[b + 1] - r.query_start;
  const int32_t seq_len = p.seq_lens[b];
  r.context_len = seq_len - r.query_len;
  r.active = r.query_len > 0 && r.query_len >= p.min_query_len && r.query_len <= p.max_query_len &&
             (p.context_filter == 0 || (p.context_filter == 2) == (seq_len > r.query_len));
  r.first_packed = r.context_len;
  r.packed_start = r.query_start;
  int64_t lo = p.key_begin, hi = seq_len;
  if (p.origin == KeyOrigin::kPacked) {
    const int32_t start = p.key_start_loc[b], count = p.key_start_loc[b + 1] - start;
    r.first_packed = p.key_begin < 0 ? r.context_len : static_cast<int32_t>(p.key_begin);
    r.packed_start = start;
    lo = max(r.first_packed, 0);  // fewer keys than queries: rows of positions < 0 are nobody's keys
    hi = static_cast<int64_t>(r.first_packed) + count;
  }
  hi = min(hi, p.key_end);
  // No end falls as queries advance: of the first query and of the last.
  r.key_lo = seen_keys(p, r, 0, static_cast<int32_t>(lo), static_cast<int32_t>(hi)).first;
  const int32_t last = max(r.query_len - 1, 0);
  r.key_hi = max(r.key_lo, seen_keys(p, r, last, static_cast<int32_t>(lo), static_cast<int32_t>(hi)).end);
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

SEXTANT_DEVICE int64_t token_offset(const Addressing& a, int64_t block, int32_t head, int32_t token) {
  const int64_t base = block * a.block_stride + head * a.head_stride;
  if (a.token_tile == 1) return base + token * a.token_outer_stride;
  return base + (token / a.token_tile) * a.token_outer_stride + (token % a.token_tile) * a.token_inner_stride;
}
SEXTANT_DEVICE int64_t dim_offset(const Addressing& a, int32_t dim) {
  if (a.dim_tile == 1) return dim * a.dim_outer_stride;
  return (dim / a.dim_tile) * a.dim_outer_stride + (dim % a.dim_tile) * a.dim_inner_stride;
}
SEXTANT_DEVICE bool is_packed(const AttentionParams& p, const Request& r, int32_t position) {
  return p.origin == KeyOrigin::kPacked || (p.origin == KeyOrigin::kCacheThenPacked && position >= r.context_len);
}
// Block of a position, and the token inside. Ids outside the cache are clamped, so that a bad table cannot reach other
// memory.
struct BlockToken {
  int64_t block;
  int32_t token;
};
SEXTANT_DEVICE BlockToken find_token(const AttentionParams& p, const Request& r, int32_t position) {
  const auto logical = static_cast<int32_t>(static_cast<uint32_t>(position) / static_cast<uint32_t>(p.block_size));
  const auto id = static_cast<uint32_t>(p.block_table[r.index * p.block_table_stride + logical]);
  return {static_cast<int64_t>(min(id, static_cast<uint32_t>(p.num_blocks - 1))), position - logical * p.block_size};
}

SEXTANT_DEVICE float token_scale(const TokenScales& s, int64_t block, int32_t token, int32_t head) {
  return s.data == nullptr ? 1.0f : s.data[block * s.block_stride + token * s.token_stride + head * s.head_stride];
}
SEXTANT_DEVICE float key_scale(const AttentionParams& p, int32_t kv_head) {
  return p.k_scale == nullptr ? 1.0f : p.k_scale[p.num_scales > 1 ? kv_head : 0];
}
SEXTANT_DEVICE float value_scale(const AttentionParams& p, int32_t kv_head) {
  const float* scale = p.values_in_keys != 0 ? p.k_scale : p.v_scale;
  return scale == nullptr ? 1.0f : scale[p.num_scales > 1 ? kv_head : 0];
}

}  // namespace sextant::hip
