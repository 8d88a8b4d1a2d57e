// The producer of the forward kernel: finds work, brings Q, K and V to shared memory.
#pragma once

#include "devices/cuda/hopper/forward_convert.cuh"

namespace sextant::cuda {

// Row tiles whose items are mixed in the order: one request's where the order knows requests, else all.
struct TileRun {
  int first, tiles;
  int request;  // -1: of all
};
__device__ __forceinline__ TileRun find_tile_run(const ForwardOrder& order, int position) {
  const RequestOrder& requests = order.requests;
  if (requests.count == 0) return {0, order.tiles, -1};
  int low = 0, high = requests.count;  // first[low] <= position < first[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (requests.first[middle] <= position ? low : high) = middle;
  }
  return {requests.first[low], requests.first[low + 1] - requests.first[low], requests.request[low]};
}

// Row tile `tile` of a run, counted from its last -> its request and first row.
template <class S>
__device__ __forceinline__ void find_row_tile(const AttentionParams& p, const TileRun& run, int tile, ForwardWork& w) {
  tile = run.tiles - 1 - tile;
  if (run.request >= 0) {
    w.request = load_request(p, run.request);
    w.row0 = tile * S::kRows;
    return;
  }
  w.request = load_request(p, find_request(p, tile, S::kRows));
  const Request& r = w.request;
  const int first_tile = static_cast<int>(static_cast<int64_t>(r.query_start) * p.group_size / S::kRows) + r.index;
  w.row0 = (tile - first_tile) * S::kRows;
}

// Item of the launch order -> its work. False where the item has none (tiles are counted by an upper bound).
template <class S>
__device__ __forceinline__ bool find_forward_work(const AttentionParams& p, const ForwardOrder& order, int item,
                                                  ForwardWork& w) {
  const int items_a_tile = order.partitions * p.num_kv_heads;
  const TileRun run = find_tile_run(order, item / items_a_tile);
  int rest = item - run.first * items_a_tile;
  const int section_items = run.tiles * order.partitions * order.heads_per_section;
  const int section = rest / section_items, first_head = section * order.heads_per_section;
  const int heads = min(order.heads_per_section, p.num_kv_heads - first_head);
  rest -= section * section_items;
  w.kv_head = first_head + rest % heads;
  rest /= heads;
  w.part_index = rest % order.partitions;
  find_row_tile<S>(p, run, rest / order.partitions, w);
  const Request& r = w.request;
  w.num_rows = r.query_len * p.group_size;
  if (!r.active || w.row0 >= w.num_rows) return false;
  w.part = find_partition(p, r, w.part_index);
  if (w.part_index >= w.part.count) return false;
  const int32_t first_position = r.context_len + w.row0 / p.group_size;
  const int32_t last_position = r.context_len + (min(w.row0 + S::kRows, w.num_rows) - 1) / p.group_size;
  w.begin = w.part.begin;
  w.end = w.part.end;
  w.data_end = p.origin == KeyOrigin::kPacked
                   ? r.first_packed + __ldg(p.key_start_loc + r.index + 1) - __ldg(p.key_start_loc + r.index)
                   : static_cast<int32_t>(min(static_cast<int64_t>(r.context_len) + r.query_len, p.key_end));
  if (p.causal) w.end = min(w.end, last_position + 1 + p.right);
  if (p.window > 0) w.begin = max(w.begin, first_position - p.window + 1);
  // Key tiles of a cache start where its blocks do, so that boxes never straddle two blocks.
  w.first = p.origin == KeyOrigin::kPacked ? w.begin : w.begin / S::kKeys * S::kKeys;
  w.tiles = w.end > w.begin ? ceil_div(w.end - w.first, S::kKeys) : 0;
  return true;
}

// A block's first item, and the claim of the next one.
__device__ __forceinline__ int first_item(const ForwardOrder& order) {
  const int block = static_cast<int>(blockIdx.x);
  return block < order.front_blocks ? order.items - 1 - block : block - order.front_blocks;
}
__device__ __forceinline__ int claim_item(const ForwardOrder& order) {
  if (order.claimed == nullptr) return order.items;
  // Every item is taken once, from whichever end: this counts both.
  const int next = atomicAdd(order.claimed, 1) + order.blocks;
  if (order.front_blocks == 0 || next >= order.items) return next;
  return static_cast<int>(blockIdx.x) < order.front_blocks
             ? order.items - 1 - (atomicAdd(order.claimed + 2, 1) + order.front_blocks)
             : atomicAdd(order.claimed + 1, 1) + order.blocks - order.front_blocks;
}

// The leading half brings Q: a box a column block, or row by row.
template <class S>
__device__ __forceinline__ void load_forward_queries(const AttentionParams& p, const ForwardMaps& maps,
                                                     const ForwardWork& w, int thread, uint32_t q_tile, uint32_t full) {
  using T = typename S::T;
  if (maps.queries) {
    if (thread < S::kKBlocks)
      copy_box(q_tile + thread * S::kRows * 128, &maps.q, thread * 64, 0, w.request.query_start + w.row0 / p.group_size,
               w.kv_head, full);
    if (thread == 0) barrier_arrive_all(full, S::kHalf, S::kQBytes);
    return;
  }
  const int sub = thread % 8;
#pragma unroll 1
  for (int row = thread / 8; row < S::kRows; row += S::kHalf / 8) {
    const bool valid = w.row0 + row < w.num_rows;
    const int packed_row = valid ? w.row0 + row : 0;
    const int query = packed_row / p.group_size, head = w.kv_head * p.group_size + packed_row - query * p.group_size;
    const T* source =
        static_cast<const T*>(p.q) + (w.request.query_start + query) * p.q_token_stride + head * p.q_head_stride;
#pragma unroll
    for (int chunk = sub; chunk < S::DK / 8; chunk += 8) {
      const bool present = valid && chunk * 8 < p.head_dim;
      cp_async_16(q_tile + query_chunk<S::kRows>(row, chunk), source + (present ? chunk * 8 : 0), present);
    }
  }
  barrier_arrive_after_copies(full);
}

// Rows of a key tile one by one: any block size, any layout; rows outside [begin, end) become zero, so that what lies
// in the tail of a cache block (NaN, say) is never multiplied.
template <class S, bool kValues>
__device__ __forceinline__ void copy_rows(const AttentionParams& p, const ForwardWork& w, int32_t key0, int thread,
                                          char* tile) {
  using T = typename S::T;
  constexpr int kLanes = 4, kRowsAPass = S::kHalf / kLanes, kPasses = S::kKeys / kRowsAPass;
  constexpr int kPerRow = (kValues ? S::DV : S::DK) / 8 / kLanes, kBatch = kPasses % 4 == 0 ? 4 : 3;
  constexpr int kGroup = kValues ? S::kVGroup : S::kKGroup, kColumn = kValues ? S::kVColumn : S::kKColumn;
  static_assert(kPasses % kBatch == 0 && kRowsAPass % 8 == 0, "the swizzle of a thread's rows is the same");
  const int lane = thread % kLanes, first = thread / kLanes, dim = kValues ? p.head_dim_v : p.head_dim;
  const uint32_t to = shared_address(tile) + tile_chunk<S, kValues>(first, lane);
#pragma unroll 1
  for (int pass = 0; pass < kPasses; pass += kBatch) {
    const T* rows[kBatch];
    int steps[kBatch];  // from a thread's chunk to its next
    bool valid[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {  // all look-ups before the copies that wait for them
      const int32_t position = key0 + first + (pass + i) * kRowsAPass;
      valid[i] = position >= w.begin && position < w.end;
      const bool packed = is_packed(p, w.request, position);
      const KeyRow found = find_key_row(p, w.request, w.kv_head, valid[i] ? position : w.end, w.end);
      const int stride = packed ? 8 : (kValues ? p.v_chunk_stride : p.k_chunk_stride);
      rows[i] =
          static_cast<const T*>(packed ? (kValues ? p.packed_v : p.packed_k) : (kValues ? p.cache_v : p.cache_k)) +
          (kValues ? found.v : found.k) + lane * stride;
      steps[i] = kLanes * stride;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
#pragma unroll
      for (int j = 0; j < kPerRow; ++j) {
        const bool present = valid[i] && (lane + j * kLanes) * 8 < dim;
        cp_async_16((to ^ (j % 2 * 64)) + j / 2 * kColumn + (pass + i) * (kRowsAPass / 8) * kGroup,
                    present ? rows[i] + j * steps[i] : rows[i], present);
      }
  }
}

// The block ids of tiles to come, to L1, before tile `t` is copied: rows one by one wait for theirs. Many tiles at
// once, because the first ones of an item are copied one right after the other.
template <class S>
__device__ __forceinline__ void prefetch_block_ids(const AttentionParams& p, const ForwardWork& w, int t, int thread) {
  constexpr int kLineIds = 32, kAhead = 2048 / S::kKeys / 2;  // tiles; of half as many tokens as a line a thread holds
  const int done = w.tiles - 1 - t;
  if (p.origin == KeyOrigin::kPacked || done % kAhead != 0) return;
  // At first the next 2 * kAhead tiles, then those behind what is on its way.
  const int32_t high = w.first + (t + 1 - (done > 0 ? kAhead : 0)) * S::kKeys;
  const int32_t low = max(w.begin, w.first + (t + 1 - 2 * kAhead) * S::kKeys);
  if (low >= min(high, w.end)) return;
  const int32_t last = split_position(p, min(high, w.end) - 1).block;
  const int32_t at = split_position(p, low).block + thread * kLineIds;
  if (at - last < kLineIds) prefetch_to_l1(p.block_table + w.request.index * p.block_table_stride + min(at, last));
}

// The same through registers: any type.
template <class S, bool kValues>
__device__ __forceinline__ void convert_rows(const AttentionParams& p, const ForwardWork& w, int32_t key0, int thread,
                                             char* tile, float cache_scale) {
  using T = typename S::T;
  constexpr int kColumns = kValues ? S::DV : S::DK;
  const int dim = kValues ? p.head_dim_v : p.head_dim, sub = thread % 8;
#pragma unroll 1
  for (int row = thread / 8; row < S::kKeys; row += S::kHalf / 8) {
    const int32_t position = key0 + row;
    const bool valid = position >= w.begin && position < w.end;
    const bool packed = is_packed(p, w.request, position);
    const KeyRow found = find_key_row(p, w.request, w.kv_head, valid ? position : w.end, w.end);
    const int64_t offset = kValues ? found.v : found.k;
#pragma unroll 1
    for (int chunk = sub; chunk < kColumns / 8; chunk += 8) {
      uint4 x = make_uint4(0, 0, 0, 0);
      if (valid && chunk * 8 < dim)
        x = packed ? __ldg(reinterpret_cast<const uint4*>(static_cast<const T*>(kValues ? p.packed_v : p.packed_k) +
                                                          offset + chunk * 8))
                   : read_chunk<T>(p, false, kValues, offset, chunk, cache_scale);
      *reinterpret_cast<uint4*>(tile + tile_chunk<S, kValues>(row, chunk)) = x;
    }
  }
}

// Rows [low, high) of a key tile are there; boxes of a power of two of tokens hold them: places [first, end).
struct TilePart {
  int low, high, first, end;
  bool whole;
};
template <int kKeys>
__device__ __forceinline__ TilePart find_tile_part(const ForwardWork& w, int32_t key0, int32_t box_tokens) {
  const int shift = 31 - __clz(box_tokens);
  TilePart part;
  part.low = max(w.begin - key0, 0);
  part.high = min(w.data_end - key0, kKeys);
  part.first = part.low >> shift;
  part.end = ((part.high - 1) >> shift) + 1;
  part.whole = part.low == 0 && part.high == kKeys;
  return part;
}

// Rows [from, to) of a tile of V become zero: a weight of zero times what lies there (NaN, say) must be zero.
template <class S>
__device__ __forceinline__ void zero_values(char* tile, int from, int to, int thread) {
  constexpr int kChunks = S::kVBlocks * 8;
  for (int i = thread; i < (to - from) * kChunks; i += S::kHalf)
    *reinterpret_cast<uint4*>(tile + tile_chunk<S, true>(from + i / kChunks, i % kChunks)) = make_uint4(0, 0, 0, 0);
}

// Half of the producer: all key tiles of one work item, K or V, by boxes, or row by row. Of a tile at the end of what
// is there, boxes bring the places that hold some of it; what else they bring is masked (K) or made zero (V).
// `claim` is called once, when the last tiles' turn comes: late enough that the items are shared out evenly, early
// enough that its latency lies under these tiles'.
constexpr int kClaimTile = 2;
template <class S, bool kValues, class Claim>
__device__ __forceinline__ void copy_key_tiles(const AttentionParams& p, const ForwardMaps& maps, const ForwardWork& w,
                                               RingPosition<S::kStages>& ring, RingPosition<1>& landings, char* shared,
                                               const ForwardBarriers<S>& barriers, Claim claim) {
  constexpr int kBytes = kValues ? S::kVBytes : S::kKBytes, kBlocks = kValues ? S::kVBlocks : S::kKBlocks;
  constexpr int kBoxesAPlace = S::kExact ? 1 : kBlocks;  // of the same tokens
  // From a token to the next where a box lands, and from a box of columns to the next.
  constexpr int kTokenBytes = S::kExact ? kBytes / S::kKeys : 128, kColumnBytes = kValues ? S::kVColumn : S::kKColumn;
  const int thread = static_cast<int>(threadIdx.x) % S::kHalf;
  for (int t = w.tiles - 1; t >= 0; --t, ++ring.count) {
    if (t == min(w.tiles - 1, kClaimTile)) claim();
    const int32_t key0 = w.first + t * S::kKeys;
    char* tile = shared + (kValues ? S::kVAt : S::kKAt) + ring.index() * kBytes;
    const uint32_t full = kValues ? barriers.v_full(ring.index()) : barriers.k_full(ring.index());
    const uint32_t empty = kValues ? barriers.v_empty(ring.index()) : barriers.k_empty(ring.index());
    const bool whole = key0 >= w.begin && key0 + S::kKeys <= w.data_end;
    const bool all_cache = p.origin == KeyOrigin::kCache ||
                           (p.origin == KeyOrigin::kCacheThenPacked && key0 + S::kKeys <= w.request.context_len);
    const bool all_packed =
        p.origin == KeyOrigin::kPacked || (p.origin == KeyOrigin::kCacheThenPacked && key0 >= w.request.context_len);
    const KeyMap& map = all_cache ? maps.cache : whole ? maps.packed : maps.packed_ends;
    if (map.tokens == 0 || !(all_cache || all_packed)) {  // by no box, or of both origins
      prefetch_block_ids<S>(p, w, t, thread);
      barrier_wait(empty, ring.empty_parity());
      copy_rows<S, kValues>(p, w, key0, thread, tile);
      barrier_arrive_after_copies(full);
      continue;
    }
    TilePart part = find_tile_part<S::kKeys>(w, key0, map.tokens);
    if (whole && !all_cache) part.end = 1;  // one box, of any size
    const int place = thread / kBoxesAPlace, column = thread % kBoxesAPlace, token = place * map.tokens;
    const bool mine = place >= part.first && place < part.end;
    int32_t row = w.request.packed_start + key0 - w.request.first_packed + token, block = 0;
    if (mine && all_cache) {  // looked up before the wait: its latency is hidden there
      const BlockOffset at = split_position(p, key0 + token);
      row = at.offset;
      block = static_cast<int32_t>(
          clamp_block(p, __ldg(p.block_table + w.request.index * p.block_table_stride + at.block)));
    }
    wait_together(empty, ring.empty_parity(), kValues ? kFollowerBarrier : kLeaderBarrier, S::kHalf);
    const bool zeroes = kValues && !whole;
    const uint32_t landed = zeroes ? barriers.landed() : full;
    if (mine) {
      const uint32_t to = shared_address(tile) + token * kTokenBytes;
      if constexpr (S::kExact) {
        copy_key_box<kValues>(map, to, row, w.kv_head, block, landed);
      } else {
        copy_key_columns<kValues>(map, to + column * kColumnBytes, column * 64, row, w.kv_head, block, landed);
      }
    }
    const uint32_t bytes = static_cast<uint32_t>((part.end - part.first) * map.tokens) * (kBytes / S::kKeys);
    if (zeroes) {
      if constexpr (kValues) {
        if (thread == 0) barrier_arrive_expect(landed, bytes);
        zero_values<S>(tile, 0, part.first * map.tokens, thread);
        zero_values<S>(tile, part.end * map.tokens, S::kKeys, thread);
        barrier_wait(landed, landings.full_parity());
        ++landings.count;
        zero_values<S>(tile, part.first * map.tokens, part.low, thread);
        zero_values<S>(tile, part.high, part.end * map.tokens, thread);
        fence_async_proxy();
        barrier_arrive(full);
      }
    } else if (thread == 0) {
      barrier_arrive_all(full, S::kHalf, bytes);
    }
  }
}

// The same for keys that must be converted: fp8 by vectors, which are on their way while the consumers work on the tile
// before; what has no vectors of 16 dims, chunk by chunk.
template <class S, bool kValues, class Claim>
__device__ __forceinline__ void convert_key_tiles(const AttentionParams& p, const ForwardWork& w,
                                                  RingPosition<S::kStages>& ring, char* shared,
                                                  const ForwardBarriers<S>& barriers, Claim claim) {
  constexpr int kBytes = kValues ? S::kVBytes : S::kKBytes;
  const int thread = static_cast<int>(threadIdx.x) % S::kHalf;
  // Where all keys come from the cache, the scale is applied to the scores and to the output.
  const float scale = p.origin != KeyOrigin::kCacheThenPacked ? 1.0f
                      : kValues                               ? value_scale(p, w.kv_head)
                                                              : key_scale(p, w.kv_head);
  const bool has_vectors = (kValues ? p.v_vector_stride : p.k_vector_stride) > 0;
  const auto by_vectors = [&](int t) {
    return has_vectors && (p.origin == KeyOrigin::kCache || w.first + (t + 1) * S::kKeys <= w.request.context_len);
  };
  const auto tile_of = [&](int stage) { return shared + (kValues ? S::kVAt : S::kKAt) + stage * kBytes; };
  const auto wait_empty = [&] {
    barrier_wait(kValues ? barriers.v_empty(ring.index()) : barriers.k_empty(ring.index()), ring.empty_parity());
  };
  const auto announce = [&] {
    fence_async_proxy();
    barrier_arrive(kValues ? barriers.v_full(ring.index()) : barriers.k_full(ring.index()));
    ++ring.count;
  };
  int t = w.tiles - 1;  // tiles by vectors come last: context before new tokens
  if constexpr (!S::kFp16) {
#pragma unroll 1
    for (; t >= 0 && !by_vectors(t); --t) {
      if (t == 0) claim();
      wait_empty();
      convert_rows<S, kValues>(p, w, w.first + t * S::kKeys, thread, tile_of(ring.index()), scale);
      announce();
    }
  }
  if (t < 0) return;
  KeyVectors<S, kValues> vectors;
  vectors.read(p, w, w.first + t * S::kKeys, 0, thread);
#pragma unroll 1
  for (; t >= 0; --t) {
    if (t == 0) claim();
    const int32_t key0 = w.first + t * S::kKeys;
    wait_empty();
#pragma unroll
    for (int batch = 0; batch < vectors.kBatches; ++batch) {
      if (batch > 0) vectors.read(p, w, key0, batch, thread);
      if constexpr (S::kFp16) {
        vectors.template write<false>(p, tile_of(ring.index()), batch, thread, 1.0f);
      } else {
        vectors.template write<true>(p, tile_of(ring.index()), batch, thread, scale);
      }
    }
    announce();
    if (t > 0) vectors.read(p, w, key0 - S::kKeys, 0, thread);
  }
}

template <class S, bool kValues, class Claim>
__device__ __forceinline__ void load_key_tiles(const AttentionParams& p, const ForwardMaps& maps, const ForwardWork& w,
                                               RingPosition<S::kStages>& ring, RingPosition<1>& landings, char* shared,
                                               const ForwardBarriers<S>& barriers, Claim claim) {
  if constexpr (S::kConvert) {
    convert_key_tiles<S, kValues>(p, w, ring, shared, barriers, claim);
  } else {
    copy_key_tiles<S, kValues>(p, maps, w, ring, landings, shared, barriers, claim);
  }
}

// The leading half finds the work, brings Q and K. It looks for the next item while the consumers still work on the
// last two key tiles of this one.
template <class S>
__device__ __forceinline__ void lead_forward(const AttentionParams& p, const ForwardMaps& maps,
                                             const ForwardOrder& order, char* shared,
                                             const ForwardBarriers<S>& barriers) {
  const int thread = static_cast<int>(threadIdx.x) % S::kHalf;
  int32_t* published_item = reinterpret_cast<int32_t*>(shared + S::kNextItemAt);
  auto* works = reinterpret_cast<ForwardWork*>(shared + S::kWorkAt);
  RingPosition<S::kStages> ring;
  RingPosition<S::kQBuffers> queries;
  RingPosition<1> no_landings;
  int32_t next = 0;
  const auto claim = [&] {
    if (thread == 0) next = claim_item(order);
  };
  for (int item = first_item(order);;) {
    ForwardWork w;
    const bool ends = item >= order.items;
    if (ends) w.tiles = kNoMoreWork;
    if (ends || find_forward_work<S>(p, order, item, w)) {
      const uint32_t full = barriers.q_full(queries.index());
      wait_together(barriers.q_empty(queries.index()), queries.empty_parity(), kLeaderBarrier, S::kHalf);
      if (thread == 0) {
        works[queries.count % S::kWorkSlots] = w;
        barrier_arrive(full);
      }
      if (ends) {
        barrier_arrive(full);
        break;
      }
      if constexpr (S::kFp16) {
        load_half_queries<S>(p, w, thread, shared + queries.index() * S::kQBytes,
                             reinterpret_cast<float*>(shared + S::kQScaleAt) + queries.index() * S::kRows, full);
      } else {
        load_forward_queries<S>(p, maps, w, thread, shared_address(shared) + queries.index() * S::kQBytes, full);
      }
      ++queries.count;
      load_key_tiles<S, false>(p, maps, w, ring, no_landings, shared, barriers, claim);
      if (w.tiles == 0) claim();
    } else {
      claim();
    }
    named_wait(kLeaderBarrier, S::kHalf);  // all have read the item before
    if (thread == 0) *published_item = next;
    named_wait(kLeaderBarrier, S::kHalf);
    item = *published_item;
  }
  cp_async_wait<0>();
}

// The other half follows with V.
template <class S>
__device__ __forceinline__ void follow_forward(const AttentionParams& p, const ForwardMaps& maps, char* shared,
                                               const ForwardBarriers<S>& barriers) {
  const auto* works = reinterpret_cast<const ForwardWork*>(shared + S::kWorkAt);
  RingPosition<S::kStages> ring;
  RingPosition<S::kQBuffers> queries;
  RingPosition<1> landings;
  for (;; ++queries.count) {
    barrier_wait(barriers.q_full(queries.index()), queries.full_parity());
    const ForwardWork w = works[queries.count % S::kWorkSlots];
    if (w.tiles == kNoMoreWork) break;
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(barriers.q_empty(queries.index()));
    load_key_tiles<S, true>(p, maps, w, ring, landings, shared, barriers, [] {});
  }
  cp_async_wait<0>();
}

}  // namespace sextant::cuda
