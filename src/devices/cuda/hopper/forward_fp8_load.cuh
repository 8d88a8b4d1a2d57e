// The producer of the fp8 forward kernel: finds work, brings Q, K and V to shared memory, transposes V.
//
// 8-bit wgmma takes K-major operands only: keys must lie together in each row of V. Tiles are transposed in shared
// memory, as in FlashAttention-3 (Shah et al. 2024, section 3.3), by the half of the producer that loads V.
#pragma once

#include "devices/cuda/hopper/forward_fp8_shape.cuh"

namespace sextant::cuda {

// Byte offset of 16-byte chunk `chunk` of a 128-byte row.
__device__ __forceinline__ uint32_t row_chunk(int row, int chunk) {
  return static_cast<uint32_t>(row * 128 + ((chunk ^ (row & 7)) << 4));
}

__device__ __forceinline__ void stmatrix_x4(uint32_t shared, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
}

// V [128 keys][128 bytes of dims] -> V^T [DV dims][128 keys], both swizzled. A warp takes 32 keys x 16 dims at a time.
//
// ldmatrix.trans moves pairs of bytes: lane 4 g + q gets dims 2 g and 2 g + 1 of keys 2 q and 2 q + 1 of 8 keys. Two
// such registers of neighbouring groups of 8 keys, their bytes sorted by dim, are 4 keys of dim 2 g and 4 keys of dim
// 2 g + 1. So 16 keys of a dim lie in this order:
//
//   0 1 8 9 | 2 3 10 11 | 4 5 12 13 | 6 7 14 15
//
// which is the order in which a thread's accumulators of S, packed to bytes, are an A operand: no shuffles of P.
// Lanes of g >= 4 exchange their two dims, so that the eight rows of a store lie in different banks.
template <class S>
__device__ __forceinline__ void transpose_values(uint32_t values, uint32_t transposed, int thread) {
  const int lane = thread % 32, warp = thread / 32;
  const uint32_t even = lane < 16 ? 0x6420 : 0x7531, odd = lane < 16 ? 0x7531 : 0x6420;
  // Loads: a lane names a key. Stores: matrix lane / 8 is (key chunk, which dim of the pair), a lane names a dim.
  const int matrix = lane / 8, row = lane % 8;
  const int dim_in_chunk = 2 * row + ((matrix & 1) ^ (row >= 4 ? 1 : 0));
#pragma unroll 1
  for (int half = 0; half < 2; ++half) {
    const int keys = warp * 2 + half;  // of 4 groups of 32
#pragma unroll 4
    for (int chunk = 0; chunk < S::DV / 16; ++chunk) {
      uint32_t x[4], y[4];
      ldmatrix_x4_trans(x, values + row_chunk(keys * 32 + lane, chunk));
      y[0] = __byte_perm(x[0], x[1], even);
      y[1] = __byte_perm(x[0], x[1], odd);
      y[2] = __byte_perm(x[2], x[3], even);
      y[3] = __byte_perm(x[2], x[3], odd);
      stmatrix_x4(transposed + row_chunk(chunk * 16 + dim_in_chunk, keys * 2 + matrix / 2), y);
    }
  }
}

// Q by a box, or row by row.
template <class S>
__device__ __forceinline__ void load_fp8_queries(const AttentionParams& p, const ForwardMaps& maps,
                                                 const ForwardWork& w, int thread, uint32_t q_tile, uint32_t full) {
  if (maps.queries) {
    if (thread == 0) {
      copy_box(q_tile, &maps.q, 0, 0, w.request.query_start + w.row0 / p.group_size, w.kv_head, full);
      barrier_arrive_all(full, S::kHalf, S::kQBytes);
    }
    return;
  }
  const int chunk = thread % 8;
#pragma unroll 1
  for (int row = thread / 8; row < S::kRows && chunk < S::DK / 16; row += S::kHalf / 8) {
    const bool present = w.row0 + row < w.num_rows && chunk * 16 < p.head_dim;
    const int packed_row = present ? w.row0 + row : 0;
    const int query = packed_row / p.group_size, head = w.kv_head * p.group_size + packed_row - query * p.group_size;
    const uint8_t* source =
        static_cast<const uint8_t*>(p.q) + (w.request.query_start + query) * p.q_token_stride + head * p.q_head_stride;
    cp_async_16(q_tile + row_chunk(row, chunk), source + (present ? chunk * 16 : 0), present);
  }
  barrier_arrive_after_copies(full);
}

// Key tile t of an item, K or V: a box a page, or row by row where pages are small, rows outside [begin, end) zero. Of
// what boxes bring beside the keys that are there, K is masked and V made zero before it is transposed: what lies in
// the tail of a cache block (NaN, say) is never multiplied.
template <class S, bool kValues>
__device__ __forceinline__ void load_fp8_tile(const AttentionParams& p, const ForwardMaps& maps, const ForwardWork& w,
                                              int t, uint32_t tile, uint32_t full, uint32_t empty,
                                              uint32_t empty_parity) {
  const int thread = static_cast<int>(threadIdx.x) % S::kHalf;
  const int32_t key0 = w.first + t * S::kKeys;
  if (maps.cache.tokens > 0) {
    const TilePart part = find_tile_part<S::kKeys>(w, key0, maps.cache.tokens);
    const int token = thread * maps.cache.tokens;
    const bool copies = thread >= part.first && thread < part.end;
    int32_t table_entry = 0;
    BlockOffset at{};
    if (copies) {  // looked up before the wait: its latency is hidden there
      at = split_position(p, key0 + token);
      table_entry = __ldg(p.block_table + w.request.index * p.block_table_stride + at.block);
    }
    wait_together(empty, empty_parity, kValues ? kFollowerBarrier : kLeaderBarrier, S::kHalf);
    if (copies)
      copy_key_box<kValues>(maps.cache, tile + token * S::kRowBytes, at.offset, w.kv_head,
                            static_cast<int32_t>(clamp_block(p, table_entry)), full);
    if (thread == 0)
      barrier_arrive_all(full, S::kHalf,
                         static_cast<uint32_t>((part.end - part.first) * maps.cache.tokens * S::kRowBytes));
    return;
  }
  // Eight threads a row; a thread's rows are swizzled alike. All look-ups of a batch before the copies that wait for
  // them.
  constexpr int kLanes = 8, kRowsAPass = S::kHalf / kLanes, kBatch = 4;
  static_assert(S::kKeys % (kRowsAPass * kBatch) == 0 && kRowsAPass % 8 == 0);
  prefetch_block_ids<S>(p, w, t, thread);
  barrier_wait(empty, empty_parity);
  const int chunk = thread % kLanes, first = thread / kLanes;
  const int dim = kValues ? p.head_dim_v : p.head_dim, stride = kValues ? p.v_vector_stride : p.k_vector_stride;
  const uint8_t* base = static_cast<const uint8_t*>(kValues ? p.cache_v : p.cache_k) + chunk * stride;
  const uint32_t to = tile + row_chunk(first, chunk);
  const bool has_chunk = chunk * 16 < dim;
#pragma unroll 1
  for (int row0 = 0; row0 < S::kKeys; row0 += kRowsAPass * kBatch) {
    const uint8_t* rows[kBatch];
    bool present[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int32_t position = key0 + row0 + first + i * kRowsAPass;
      const bool valid = position >= w.begin && position < w.end;
      const KeyRow found = find_key_row(p, w.request, w.kv_head, valid ? position : w.end, w.end);
      present[i] = valid && has_chunk;
      rows[i] = present[i] ? base + (kValues ? found.v : found.k) : base - chunk * stride;
    }
    if (chunk < S::DK / 16) {
#pragma unroll
      for (int i = 0; i < kBatch; ++i) cp_async_16(to + (row0 + i * kRowsAPass) * S::kRowBytes, rows[i], present[i]);
    }
  }
  barrier_arrive_after_copies(full);
}

// Rows [from, to) of a tile of V become zero.
template <class S>
__device__ __forceinline__ void zero_fp8_values(char* tile, int from, int to, int thread) {
  for (int i = thread; i < (to - from) * (S::kRowBytes / 16); i += S::kHalf)
    *reinterpret_cast<uint4*>(tile + (from * (S::kRowBytes / 16) + i) * 16) = make_uint4(0, 0, 0, 0);
}

// The leading half finds the work, brings Q and K. It looks for the next item while the consumers still work on the
// last key tiles of this one.
template <class S>
__device__ __forceinline__ void lead_fp8(const AttentionParams& p, const ForwardMaps& maps, const ForwardOrder& order,
                                         char* shared, const Fp8Barriers<S>& barriers) {
  const int thread = static_cast<int>(threadIdx.x) % S::kHalf;
  const uint32_t base = shared_address(shared);
  int32_t* published_item = reinterpret_cast<int32_t*>(shared + S::kNextItemAt);
  auto* works = reinterpret_cast<ForwardWork*>(shared + S::kWorkAt);
  RingPosition<S::kKeyStages> ring;
  RingPosition<S::kQBuffers> queries;
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
      load_fp8_queries<S>(p, maps, w, thread, base + queries.index() * S::kQBytes, full);
      ++queries.count;
      for (int t = w.tiles - 1; t >= 0; --t, ++ring.count) {
        if (t == min(w.tiles - 1, kClaimTile)) claim();
        load_fp8_tile<S, false>(p, maps, w, t, base + S::kKAt + ring.index() * S::kKBytes,
                                barriers.k_full(ring.index()), barriers.k_empty(ring.index()), ring.empty_parity());
      }
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

// The other half follows with V: while a tile is on its way, the one before it is transposed.
template <class S>
__device__ __forceinline__ void follow_fp8(const AttentionParams& p, const ForwardMaps& maps, char* shared,
                                           const Fp8Barriers<S>& barriers) {
  const int thread = static_cast<int>(threadIdx.x) % S::kHalf;
  const uint32_t base = shared_address(shared);
  const auto* works = reinterpret_cast<const ForwardWork*>(shared + S::kWorkAt);
  RingPosition<S::kValueStages> loads, values;
  RingPosition<S::kTransposedStages> transposed;
  RingPosition<S::kQBuffers> queries;
  for (;; ++queries.count) {
    barrier_wait(barriers.q_full(queries.index()), queries.full_parity());
    const ForwardWork w = works[queries.count % S::kWorkSlots];
    if (w.tiles == kNoMoreWork) break;
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(barriers.q_empty(queries.index()));
    for (int t = w.tiles; t >= 0; --t) {
      if (t > 0) {
        load_fp8_tile<S, true>(p, maps, w, t - 1, base + S::kVAt + loads.index() * S::kVBytes,
                               barriers.v_full(loads.index()), barriers.v_empty(loads.index()), loads.empty_parity());
        ++loads.count;
      }
      if (t == w.tiles) continue;  // the first is on its way
      barrier_wait(barriers.v_full(values.index()), values.full_parity());
      const TilePart part = find_tile_part<S::kKeys>(w, w.first + t * S::kKeys, 1);
      if (maps.cache.tokens > 0 && !part.whole) {
        char* tile = shared + S::kVAt + values.index() * S::kVBytes;
        zero_fp8_values<S>(tile, 0, part.low, thread);
        zero_fp8_values<S>(tile, part.high, S::kKeys, thread);
        named_wait(kFollowerBarrier, S::kHalf);
      }
      barrier_wait(barriers.t_empty(transposed.index()), transposed.empty_parity());
      transpose_values<S>(base + S::kVAt + values.index() * S::kVBytes,
                          base + S::kTAt + transposed.index() * S::kTBytes, thread);
      fence_async_proxy();  // wgmma reads what was stored
      barrier_arrive(barriers.t_full(transposed.index()));
      barrier_arrive(barriers.v_empty(values.index()));
      ++values.count;
      ++transposed.count;
    }
  }
  cp_async_wait<0>();
}

}  // namespace sextant::cuda
