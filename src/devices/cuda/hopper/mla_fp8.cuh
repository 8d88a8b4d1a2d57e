// MLA decode over e4m3 latents on 8-bit wgmma: keys are multiplied as they lie in the cache.
//
// In two parts, at 16-bit error: a bf16 number is exactly the sum of two e4m3 numbers, because eight significant bits
// are four and, signed, four more. So Q, scaled row by row by a power of two, is two tiles, and so is each tile of P.
// The 8-bit unit is twice as fast as the 16-bit one, so this takes the time of 16-bit products without a conversion of
// the keys.
// In one part, at 8-bit error: Q is e4m3 and one tile as it is, and P is rounded to e4m3 once. Half of the products.
//
//   producer (1 warpgroup)   latent cache -> ring of 4 tiles (mla_fp8_ring.cuh)
//   consumer 0               even tiles of a segment: S [64 rows][64 keys] = Q K^T, softmax
//   consumer 1               odd tiles: the same
//   both, all tiles          O^T [256 columns][64 rows] += V^T P^T, of columns 0..255 and 256..511
//
//   consumer 0:  S_a | softmax_a | O^T += a | S_c | softmax_c | O^T += b | O^T += c | S_e ...
//   consumer 1:  S_b | .  .  .     softmax_b | O^T += a | O^T += b | S_d | softmax_d ...
//
// Each consumer adds the tile before its own only when its own maximum is known, which the other waits for. O is scaled
// only where a maximum has grown by more than 2^2.8, so that most tiles are an addition.
//
// 8-bit wgmma wants both operands with k contiguous. V has its columns contiguous: a thread's A operand is made from
// ldmatrix.trans, which transposes pairs of bytes, and a byte permutation. What comes of it has pairs of columns in a
// thread's two rows, and keys in the order in which a thread holds scores: so P is stored as it comes, a word of four
// keys at a time. The unit keeps about 14 bits of what it adds up: sums of a few steps are added in fp32.
//
// P, of two parts the high one, takes the place of the tile's own rope columns, which nobody reads once S is there. A
// row's maximum goes from one consumer to the other and back with P. The work list is that of kernels/work_list.cuh;
// with p.list_group > 1 so many blocks next to each other share an entry of it, each with its own 64 rows.
#pragma once

#include "devices/cuda/hopper/mla_convert.cuh"
#include "devices/cuda/hopper/mla_fp8_launchers.h"
#include "devices/cuda/hopper/mla_fp8_ring.cuh"
#include "devices/cuda/hopper/mla_rows.cuh"
#include "devices/cuda/hopper/pair.cuh"
#include "devices/cuda/hopper/wgmma_forward.cuh"
#include "devices/cuda/hopper/wgmma_fp8.cuh"
#include "devices/cuda/kernels/fp8_vectors.cuh"

namespace sextant::cuda {

struct MlaFp8Shape : MlaFp8Tile {
  // Q high, Q low (at the end of a segment: rows of O) | ring | low part of P of two tiles | maxima, factors of two
  // tiles, sums of both consumers, [2][64] each, scales [64], last maxima [64], `grows` [2][4] | barriers | scratch
  static constexpr int kRingAt = 2 * kTileBytes, kLowAt = kRingAt + kStages * kTileBytes, kLowBytes = 64 * 64;
  static constexpr int kStatAt = kLowAt + 2 * kLowBytes, kBarrierAt = kStatAt + 8 * 64 * 4 + 32;
  static constexpr int kScratchAt = kBarrierAt + 2 * kStages * 8, kSharedBytes = kScratchAt + 160;
  static constexpr int kRoomStride = 132;  // floats of a row of 128 columns that waits; so lanes hit different banks
  static constexpr int kRoomBytes = 64 * kRoomStride * 4;
  static_assert(2 * kRoomBytes <= kRingAt && kSharedBytes <= 232448);
  static constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
  static_assert(kProducers * kProducerRegisters + kConsumers * kConsumerRegisters <= kThreads * 168);  // else no end
  // Named barriers; all but the first: + consumer, or + tile modulo 2.
  static constexpr int kAllBarrier = 1, kOwnBarrier = 2, kReadyBarrier = 4, kFreeBarrier = 6;
};

// Two fp16 as the sum of two e4m3 each: `high` and, of what is left, `low`; bytes 0 and 1.
__device__ __forceinline__ void split_to_e4m3(uint32_t halves, uint32_t& high, uint32_t& low) {
  high = f16_pair_to_e4m3(halves);
  const uint32_t back = e4m3_pair_to_f16(high);
  const __half2 rest = __hsub2(*reinterpret_cast<const __half2*>(&halves), *reinterpret_cast<const __half2*>(&back));
  low = f16_pair_to_e4m3(*reinterpret_cast<const uint32_t*>(&rest));
}

// 64 rows of queries to two tiles of e4m3, four threads a row, all of whose loads are under way at once: nothing else
// hides their latency. `inverses`: what turns dots of a row back, [64].
template <class T>
__device__ __forceinline__ void mla_split_queries(const AttentionParams& p, const Request& r, int row0, char* q_tile,
                                                  float* inverses) {
  using S = MlaFp8Shape;
  constexpr int kLanes = S::kConsumers / 64, kChunks = S::DK / 8 / kLanes;  // of 8 columns
  const int tile_row = static_cast<int>(threadIdx.x) / kLanes, sub = static_cast<int>(threadIdx.x) % kLanes;
  const int row = row0 + tile_row;
  const int32_t query = row / p.group_size;
  const bool valid = row < r.query_len * p.group_size;
  const T* from =
      static_cast<const T*>(p.q) + sub * 8 +
      (valid ? (r.query_start + query) * p.q_token_stride + (row - query * p.group_size) * p.q_head_stride : 0);
  uint4 x[kChunks];
#pragma unroll
  for (int j = 0; j < kChunks; ++j) {
    x[j] = make_uint4(0, 0, 0, 0);
    if (valid) x[j] = __ldg(reinterpret_cast<const uint4*>(from + j * kLanes * 8));
  }
  float largest = 0;
#pragma unroll
  for (int j = 0; j < kChunks; ++j) largest = fmaxf(largest, largest_magnitude<T>(x[j]));
  largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
  largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
  const float factor = row_factor(largest) * 0.5f;  // fp16 below 2^8; e4m3 ends at 448
  if (sub == 0) inverses[tile_row] = 1.0f / factor;
#pragma unroll
  for (int j = 0; j < kChunks; ++j) {
    const int chunk = sub + j * kLanes;
    const uint4 halves = to_scaled_halves<T>(x[j], factor);
    const uint32_t words[4] = {halves.x, halves.y, halves.z, halves.w};
    uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) split_to_e4m3(words[i], high[i], low[i]);
    char* to = q_tile + byte_chunk(tile_row, chunk / 2) + chunk % 2 * 8;
    *reinterpret_cast<uint2*>(to) = make_uint2(high[0] | high[1] << 16, high[2] | high[3] << 16);
    *reinterpret_cast<uint2*>(to + S::kTileBytes) = make_uint2(low[0] | low[1] << 16, low[2] | low[3] << 16);
  }
}

// 64 rows of e4m3 queries to a tile as they are. Ends when this thread's have landed.
__device__ __forceinline__ void mla_copy_query_bytes(const AttentionParams& p, const Request& r, int row0,
                                                     char* q_tile) {
  using S = MlaFp8Shape;
  constexpr int kLanes = S::kConsumers / 64;  // of a row
  const int tile_row = static_cast<int>(threadIdx.x) / kLanes, sub = static_cast<int>(threadIdx.x) % kLanes;
  const int row = row0 + tile_row;
  const int32_t query = row / p.group_size;
  const bool valid = row < r.query_len * p.group_size;
  const uint8_t* from =
      static_cast<const uint8_t*>(p.q) +
      (valid ? (r.query_start + query) * p.q_token_stride + (row - query * p.group_size) * p.q_head_stride : 0);
  const uint32_t to = shared_address(q_tile);
#pragma unroll
  for (int j = 0; j < S::DK / 16 / kLanes; ++j)
    cp_async_16(to + byte_chunk(tile_row, sub + j * kLanes), from + (sub + j * kLanes) * 16, valid);
  cp_async_commit();
  cp_async_wait<0>();
}

// Rows lane / 4 and lane / 4 + 8 of a warp's 16. `max`: what the last tile's P is relative to; `sum`: this thread's
// share, of its own tiles.
struct MlaFp8Rows {
  float max[2], sum[2], scale[2];
};
// What a segment's tiles have in common. Keys [all_from, all_below) are seen by all rows and need no mask.
struct MlaFp8Segment {
  int32_t row0, context_len, key_lo, key_hi, all_from, all_below;
};
struct MlaFp8Stats {
  float *maxima, *factors, *sums;  // [2][64] each
  float *scales, *last;            // [64] each
  int* grows;                      // [2][4]: of a tile and a warp's rows: some factor is not 1
  __device__ __forceinline__ explicit MlaFp8Stats(char* stats)
      : maxima(reinterpret_cast<float*>(stats)),
        factors(maxima + 128),
        sums(maxima + 256),
        scales(maxima + 384),
        last(maxima + 448),
        grows(reinterpret_cast<int*>(maxima + 512)) {}
};

// T: of the output, and of queries in two parts.
template <class T, int kParts>
struct MlaFp8Consumer {
  using S = MlaFp8Shape;
  static_assert(kParts == 1 || kParts == 2);
  // A row's largest probability is 2^6 when O is scaled, and up to 446 before it is scaled again: e4m3 ends at 448.
  static constexpr float kTop = 6.0f, kMost = 8.8f;
  const AttentionParams& p;
  const MlaRing<S>& ring;
  MlaFp8Stats stats;
  char* shared;
  int group, other, lane, warp;  // group: which consumer this is
  // This lane's place in a tile of V (load_values), and in a part of P (publish).
  uint32_t values_at, probabilities_at;

  __device__ __forceinline__ int row(int half) const { return warp * 16 + half * 8 + lane / 4; }
  __device__ __forceinline__ uint32_t low_part(int parity) const {
    return shared_address(shared) + S::kLowAt + parity * S::kLowBytes;
  }

  // S (+)= Q K^T of steps of 32 columns of one part of Q begins.
  template <int kFirst, int kLast, bool kAdds>
  __device__ __forceinline__ void begin_scores(float (&s)[32], uint32_t queries, int part_bytes, uint32_t keys) const {
#pragma unroll
    for (int k = kFirst; k < kLast; ++k) {
      const int at = k < 16 ? k / 4 * S::kBlockBytes + k % 4 * 32 : S::kRopeAt + k % 4 * 32;
      const uint64_t q = k < 16 ? wide_rows(queries, part_bytes + at) : narrow_rows(queries, part_bytes + at),
                     key = k < 16 ? wide_rows(keys, at) : narrow_rows(keys, at);
      wgmma_fp8_scores(s, q, key, kAdds || k > kFirst);
    }
  }
  // The small products first; large ones in two sums.
  __device__ __forceinline__ void compute_scores(float (&s)[32], int n) const {
    const uint32_t queries = place_word(shared_address(shared)), keys = place_word(ring.tile(n));
    barrier_wait(ring.full(n), ring.full_parity(n));
    float part[32];
    wgmma_fence();
    if constexpr (kParts == 2) begin_scores<0, 18, false>(s, queries, S::kTileBytes, keys);
    begin_scores<0, 9, kParts == 2>(s, queries, 0, keys);
    begin_scores<9, 18, false>(part, queries, 0, keys);
    wgmma_commit();
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < 32; ++i) s[i] += part[i];
  }

  // 16 columns a warp, of this consumer's block `m` of 64, as an A operand of 64 keys.
  __device__ __forceinline__ void load_values(uint32_t (&a)[2][4], uint32_t tile, int m) const {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      uint32_t x[4];
      ldmatrix_x4_trans(x, tile + (m & 1 ? values_at ^ 64 : values_at) + m / 2 * S::kBlockBytes + k * 32 * 128);
      a[k][0] = __byte_perm(x[0], x[1], 0x6420);
      a[k][1] = __byte_perm(x[0], x[1], 0x7531);
      a[k][2] = __byte_perm(x[2], x[3], 0x6420);
      a[k][3] = __byte_perm(x[2], x[3], 0x7531);
    }
  }

  // O^T *= what comes with tile `parity`.
  __device__ __forceinline__ void scale_output(float (&o)[128], int parity) const {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 factor = *reinterpret_cast<const float2*>(stats.factors + parity * 64 + j * 8 + (lane & 3) * 2);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        o[i / 2 * 32 + j * 4 + i % 2 * 2] *= factor.x;
        o[i / 2 * 32 + j * 4 + i % 2 * 2 + 1] *= factor.y;
      }
    }
  }

  // O^T += V^T P^T of tile n, the segment's tile `at`; it is then free.
  __device__ __forceinline__ void add_values(float (&o)[128], int n, int at) const {
    const int4 grows = *reinterpret_cast<const int4*>(stats.grows + (at & 1) * 4);
    if ((grows.x | grows.y | grows.z | grows.w) != 0) scale_output(o, at & 1);
    const uint32_t tile = ring.tile(n), high = place_word(tile + S::kRopeAt), low = place_word(low_part(at & 1));
    uint32_t a[2][2][4];
    load_values(a[0], tile, 0);
#pragma unroll
    for (int m = 0; m < 4; ++m) {  // blocks of 64 columns
      float part[32];
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 2 * kParts; ++k)
        wgmma_fp8_values(part, a[m & 1][k & 1], narrow_rows(k < 2 * kParts - 2 ? low : high, k % 2 * 32), k > 0);
      wgmma_commit();
      if (m < 3) load_values(a[(m + 1) & 1], tile, m + 1);
      wgmma_wait<0>();
#pragma unroll
      for (int i = 0; i < 32; ++i) o[m * 32 + i] += part[i];
    }
    if (lane == 0) barrier_arrive(ring.empty(n));
  }

  // The other consumer's tile n: waits for its P.
  __device__ __forceinline__ void receive(int n, MlaFp8Rows& rows) const {
    barrier_wait(ring.full(n), ring.full_parity(n));
    named_wait(S::kReadyBarrier + other, S::kConsumers);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      rows.max[half] = stats.maxima[other * 64 + row(half)];
      rows.sum[half] *= stats.factors[other * 64 + row(half)];
    }
  }

  // Softcap, ALiBi, masks. Then scores are in log2 units if `biased`.
  __device__ __forceinline__ void adjust(const MlaFp8Segment& at, const ScoreRule& rule, bool masked, int32_t key0,
                                         const MlaFp8Rows& rows, float (&s)[32]) const {
    int32_t positions[2];
    float slopes[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at_row = at.row0 + row(half);
      positions[half] = at.context_len + at_row / p.group_size;
      slopes[half] = p.alibi_slopes == nullptr ? 0.0f : p.alibi_slopes[at_row % p.group_size] * kLog2E;
    }
    mla_adjust_scores(p, rule, positions, slopes, rows.scale, at.context_len, at.key_hi, masked, key0, s);
  }

  // Dots of 64 rows x 64 keys to probabilities; `factor` is what O must be scaled by.
  __device__ __forceinline__ void softmax(const MlaFp8Segment& at, const ScoreRule& rule, int32_t key0, float (&s)[32],
                                          MlaFp8Rows& rows, float (&factor)[2]) const {
    const bool biased = rule.has_cap || p.alibi_slopes != nullptr,
               masked = key0 + S::kKeys > at.all_below || key0 < at.all_from;
    if (biased || masked) [[unlikely]]
      adjust(at, rule, masked, key0, rows, s);
    float scale[2], shift[2], top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        top[half] = fmaxf(top[half], fmaxf(s[j * 4 + half * 2], s[j * 4 + half * 2 + 1]));
#pragma unroll
    for (int offset = 1; offset < 4; offset *= 2)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        top[half] = fmaxf(top[half], __shfl_xor_sync(0xffffffffu, top[half], offset));
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      scale[half] = biased ? 1.0f : rule.scale_log2 * rows.scale[half];
      const bool grows = top[half] * scale[half] > rows.max[half] + kMost;
      const float base = grows ? top[half] * scale[half] - kTop : rows.max[half];
      factor[half] = grows ? exp2_approx(rows.max[half] - base) : 1.0f;
      rows.max[half] = base;
      shift[half] = base == -INFINITY ? 0.0f : -base;
    }
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& x = s[j * 4 + i];
        x = exp2_approx(fmaf(x, scale[i / 2], shift[i / 2]));
        sum[i / 2] += x;
      }
#pragma unroll
    for (int half = 0; half < 2; ++half) rows.sum[half] = fmaf(rows.sum[half], factor[half], sum[half]);
  }

  // P to shared memory, for both consumers.
  __device__ __forceinline__ void publish(const float (&s)[32], int n, const MlaFp8Rows& rows,
                                          const float (&factor)[2]) const {
    char* high_part = shared + S::kRingAt + n % S::kStages * S::kTileBytes + S::kRopeAt;
    char* low_part = shared + S::kLowAt + group * S::kLowBytes;
    named_wait(S::kOwnBarrier + group, 128);  // all four warps have read the rope columns
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {  // 16 keys; of a thread's four the order is that of load_values
        const float* x = s + j * 8 + half * 2;
        const uint32_t to = (probabilities_at ^ j << 4) + half * 8 * 64;
        if constexpr (kParts == 1) {
          *reinterpret_cast<uint32_t*>(high_part + to) = pack_fp8(x[0], x[1], x[4], x[5]);
        } else {
          uint32_t high[2], low[2];
          split_to_e4m3(pack_pair<__half>(x[0], x[1]), high[0], low[0]);
          split_to_e4m3(pack_pair<__half>(x[4], x[5]), high[1], low[1]);
          *reinterpret_cast<uint32_t*>(high_part + to) = high[0] | high[1] << 16;
          *reinterpret_cast<uint32_t*>(low_part + to) = low[0] | low[1] << 16;
        }
      }
      if ((lane & 3) == 0) {
        stats.maxima[group * 64 + row(half)] = rows.max[half];
        stats.factors[group * 64 + row(half)] = factor[half];
      }
    }
    const bool grows = __any_sync(0xffffffffu, factor[0] != 1.0f || factor[1] != 1.0f);
    if (lane == 0) stats.grows[group * 4 + warp] = grows;
    fence_async_proxy();
    named_arrive(S::kReadyBarrier + group, S::kConsumers);
    named_wait(S::kOwnBarrier + group, 128);
  }

  __device__ __forceinline__ void write_rows(const BlockWork& work, const MlaPlace& place, const TileCursor& c,
                                             int first_tile, bool ends, MlaFp8Rows& rows, const float (&o)[128]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = rows.sum[half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      if ((lane & 3) == 0) stats.sums[group * 64 + row(half)] = sum;
      if (group == 0 && (lane & 3) == 0) stats.last[row(half)] = rows.max[half];
    }
    named_wait(S::kAllBarrier, S::kConsumers);  // both are done with Q, too
    const int own = warp * 16 + lane % 16;
    const MlaRowTarget target = mla_end_row<T>(p, work, place, c, first_tile, ends, own, stats.last[own],
                                               stats.sums[own] + stats.sums[64 + own], group == 0 && lane < 16);
    float* room = reinterpret_cast<float*>(shared + group * S::kRoomBytes);
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // of this consumer's columns
      if (half == 1) named_wait(S::kOwnBarrier + group, 128);
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int i = 0; i < 16; ++i) {
          const int row = i / 2 * 8 + (lane & 3) * 2 + (i & 1), at = (half * 2 + m) * 32 + i / 2 * 4 + (i & 1);
          *reinterpret_cast<float2*>(room + row * S::kRoomStride + m * 64 + warp * 16 + lane / 4 * 2) =
              make_float2(o[at], o[at + 2]);
        }
      named_wait(S::kOwnBarrier + group, 128);
#pragma unroll 2
      for (int i = 0; i < 16; ++i) {
        const MlaRowTarget to = mla_target_of(target, i);
        const float4 x = *reinterpret_cast<const float4*>(room + (warp * 16 + i) * S::kRoomStride + lane * 4);
        if (to.row != nullptr)
          mla_store_columns<T>(to, group * 256 + half * 128 + lane * 4,
                               make_float4(x.x * to.weight, x.y * to.weight, x.z * to.weight, x.w * to.weight));
      }
    }
  }
};

template <class T, int kParts>
__device__ __forceinline__ void mla_consume_fp8(const AttentionParams& p, float query_scale, const BlockWork& work,
                                                const MlaPlace& place, TileCursor done, char* shared,
                                                const MlaRing<MlaFp8Shape>& ring) {
  using S = MlaFp8Shape;
  using Consumer = MlaFp8Consumer<T, kParts>;
  const TileRange& range = work.range;
  const int group = static_cast<int>(uniform(threadIdx.x / 128)),
            warp = static_cast<int>(uniform(threadIdx.x / 32 % 4)), lane = static_cast<int>(threadIdx.x) & 31;
  const Consumer self = {p,
                         ring,
                         MlaFp8Stats(shared + S::kStatAt),
                         shared,
                         group,
                         group ^ 1,
                         lane,
                         warp,
                         group * 2 * S::kBlockBytes + wide_row_chunk(lane, warp),
                         narrow_row_chunk(warp * 16 + lane / 4, 0) + (lane & 3) * 4};
  const ScoreRule rule = make_score_rule(p, key_scale(p, 0) * query_scale);
  float o[128];
  for (int32_t x = range.begin; x < range.end;) {
    const int32_t first_tile = done.tile, tiles = min(done.counts.tiles - first_tile, range.end - x);
    MlaFp8Segment at;
    {
      const Request& r = done.request;
      at.row0 = done.row_tile * place.list_rows + place.sub * 64;
      at.context_len = r.context_len;
      at.key_lo = r.key_lo;
      at.key_hi = r.key_hi;
      at.all_below = p.causal ? min(r.key_hi, r.context_len + at.row0 / p.group_size + p.right + 1) : r.key_hi;
      at.all_from = p.window > 0 ? r.context_len + (at.row0 + 63) / p.group_size - p.window + 1 : 0;
    }
    if (x > range.begin) named_wait(S::kAllBarrier, S::kConsumers);  // the other warpgroup may still write its rows
    if constexpr (kParts == 1) {
      mla_copy_query_bytes(p, done.request, at.row0, shared);
    } else {
      mla_split_queries<T>(p, done.request, at.row0, shared, self.stats.scales);
    }
    fence_async_proxy();
    MlaFp8Rows rows = {{-INFINITY, -INFINITY}, {0, 0}, {0, 0}};
#pragma unroll
    for (int i = 0; i < 128; ++i) o[i] = 0.0f;
    named_wait(S::kAllBarrier, S::kConsumers);
#pragma unroll
    for (int half = 0; half < 2; ++half) rows.scale[half] = kParts == 1 ? 1.0f : self.stats.scales[self.row(half)];
    // The tile before its own waits until its own maximum has been found: the other needs that first.
#pragma unroll 1
    for (int32_t own = group; own <= tiles; own += 2) {
      const bool has_own = own < tiles, has_other = own > 0;
      const int n = static_cast<int>(uniform(x - range.begin + own));
      float s[32], factor[2];
      if (has_own) self.compute_scores(s, n);
      if (has_other) self.receive(n - 1, rows);
      if (has_own) {
        self.softmax(at, rule, at.key_lo + (first_tile + own) * S::kKeys, s, rows, factor);
        if (own > 1) named_wait(S::kFreeBarrier + group, S::kConsumers);  // the other has added tile own - 2
        self.publish(s, n, rows, factor);
      }
      if (has_other) {
        self.add_values(o, n - 1, own - 1);
        if (own + 1 < tiles) named_arrive(S::kFreeBarrier + (group ^ 1), S::kConsumers);
      }
      if (has_own) self.add_values(o, n, own);
    }
    done.tile = first_tile + tiles - 1;
    self.write_rows(work, place, done, first_tile, done.tile + 1 == done.counts.tiles, rows, o);
    x += tiles;
    if (x < range.end) done.advance(p, place.list_rows, S::kKeys);
  }
}

// `queries`: of one part.
template <class T, int kParts>
__global__ void __launch_bounds__(MlaTile::kThreads, 1)
    mla_fp8(const __grid_constant__ AttentionParams p, const __grid_constant__ KeyMap map,
            const __grid_constant__ Fp8Queries queries) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  using S = MlaFp8Shape;
  extern __shared__ __align__(1024) char shared[];  // as the swizzle wants it
  const MlaRing<S> ring{shared_address(shared + S::kRingAt), shared_address(shared + S::kBarrierAt)};
  launch_dependents();
  if (threadIdx.x == 0) {
    ring.init(S::kConsumers / 32);
    if (map.tokens > 0) {
      prefetch_tensor_map(&map.k);
      prefetch_tensor_map(&map.v);
    }
    fence_async_proxy();
  }
  const MlaPlace place = mla_place(p);
  TileCursor cursor;
  const BlockWork work =
      find_work<S::kThreads>(p, place.list_rows, S::kKeys, reinterpret_cast<int32_t*>(shared + S::kScratchAt), &cursor,
                             place.block, place.blocks);
  __syncthreads();
  if (work.range.begin == work.range.end) return;
  if (threadIdx.x >= S::kConsumers) {
    shrink_registers<S::kProducerRegisters>();
    mla_produce_bytes<S>(p, map, work.range, cursor, place.list_rows, ring);
  } else {
    grow_registers<S::kConsumerRegisters>();
    const float query_scale = kParts == 2 || queries.scale == nullptr ? 1.0f : __ldg(queries.scale);
    mla_consume_fp8<T, kParts>(p, query_scale, work, place, cursor, shared, ring);
  }
#endif
}

}  // namespace sextant::cuda
