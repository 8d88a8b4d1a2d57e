// Attention forward on Hopper for prefill, extend and mixed batches: persistent, warp-specialised, on wgmma.
//
//   producer, half a warpgroup   takes work items, brings Q and K tiles (forward_load.cuh)
//   producer, the other half     follows with V tiles
//   consumers 0 and 1 (and 2)    64 rows each: S = Q K^T, softmax in registers, O += P V with P from registers
//
//   a consumer:  S_0 | softmax | S_1, O += P_0 V_0 | softmax | S_2, O += P_1 V_1 | softmax | ... | O += P_n V_n | store
//   the other:       S_0 | softmax | S_1, O += P_0 V_0 | softmax | ...
//
// One consumer's softmax runs under the other's products. With kTurns they take turns at the matrix unit by barrier, as
// FlashAttention-3's do ("ping-pong", Shah et al. 2024): 2 to 7 % faster for head sizes 64, 192 and 256, 2 to 3 %
// slower for 128. Head sizes up to 96 leave registers for three consumers: their products are short, and two others'
// softmaxes hide them better. O is rescaled only when a row's maximum grew. (To wait until it grew by 2^8 is 0.5 to 4 %
// faster, but then the largest weight of a row is not exactly 1 and is rounded like the others: 6 % more error, 70 % at
// worst.)
//
// Rows are queries x heads of one KV head (row r is query r / G, head r % G), so that G heads share each loaded key.
// Key tiles go from the last to the first: masks are needed at the ends only.
//
// How tiles lie in shared memory: forward_shape.cuh. wgmma's strides are the same wherever the page boundaries lie.
#pragma once

#include "devices/cuda/hopper/forward_load.cuh"
#include "devices/cuda/hopper/wgmma_forward.cuh"

namespace sextant::cuda {

// Rows lane / 4 and lane / 4 + 8 of a warp's 16.
struct ForwardRows {
  int32_t low[2], limit[2];     // visible keys
  float slope[2];               // ALiBi, log2 units
  float scale[2];               // what turns a dot into a score; with KeySource::kFp16 the row's own
  float max[2], sum[2];         // log2 units; this thread's share
  int32_t all_from, all_below;  // keys that all rows of the consumer see
  __device__ __forceinline__ bool see_all(int32_t key0, int keys) const {
    return key0 + keys <= all_below && key0 >= all_from;
  }
};

__device__ __forceinline__ int32_t divide_by_group(const AttentionParams& p, int32_t x) {
  return p.group_shift >= 0 ? x >> p.group_shift : x / p.group_size;
}

// Rows of a consumer, 64 from row0 on; this warp's from first_row on.
__device__ __forceinline__ void start_forward_rows(const AttentionParams& p, const ForwardWork& w,
                                                   const ScoreRule& rule, int row0, int first_row, ForwardRows& rows) {
  const int lane = threadIdx.x & 31;
  const int32_t context_len = w.request.context_len;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + half * 8 + lane / 4, query = divide_by_group(p, row);
    const int32_t position = context_len + query;
    rows.limit[half] = p.causal ? min(w.end, position + 1 + p.right) : w.end;
    rows.low[half] = p.window > 0 ? max(w.begin, position - p.window + 1) : w.begin;
    rows.scale[half] = rule.scale_log2;
    rows.slope[half] = 0;
    if (p.alibi_slopes != nullptr && row < w.num_rows)
      rows.slope[half] = p.alibi_slopes[w.kv_head * p.group_size + row - query * p.group_size] * kLog2E;
    rows.max[half] = -INFINITY;
    rows.sum[half] = 0;
  }
  const int32_t first_query = divide_by_group(p, row0), last_query = divide_by_group(p, row0 + 63);
  rows.all_below = p.causal ? min(w.end, context_len + first_query + 1 + p.right) : w.end;
  rows.all_from = p.window > 0 ? max(w.begin, context_len + last_query - p.window + 1) : w.begin;
}

// S = Q K^T of 64 rows; issued, not waited for.
template <class S>
__device__ __forceinline__ void issue_scores(float (&s)[S::kKeys / 2], uint64_t q_rows, uint32_t k_tile) {
  const uint64_t keys = matrix_descriptor(k_tile, 16, S::kKGroup);
#pragma unroll
  for (int k = 0; k < S::DK / 16; ++k)
    wgmma_scores<typename S::M, S::kKeys>(s, move_descriptor(q_rows, (k / 4) * S::kRows * 128 + (k % 4) * 32),
                                          move_descriptor(keys, (k / 4) * S::kKColumn + (k % 4) * 32), k > 0);
  wgmma_commit();
}

// O += P V; issued, not waited for.
template <class S>
__device__ __forceinline__ void issue_values(float (&o)[S::kBlocks][S::kColumns / 2],
                                             const uint32_t (&prob)[S::kKeys / 16][4], uint32_t v_tile) {
  const uint64_t values = matrix_descriptor(v_tile, S::kVColumn, S::kVGroup);
#pragma unroll
  for (int k = 0; k < S::kKeys / 16; ++k)
#pragma unroll
    for (int c = 0; c < S::kBlocks; ++c)
      wgmma_values<typename S::M, S::kColumns>(
          o[c], prob[k], move_descriptor(values, c * (S::kColumns / 64) * S::kVColumn + k * 2 * S::kVGroup));
  wgmma_commit();
}

// What becomes of a dot beside its scale. Each has its own loop: free of branches, its instructions interleave best.
enum class Scores : uint8_t {
  kPlain,   // nothing
  kCapped,  // a softcap
  kAny,     // softcap, ALiBi, masks
};

// `sees_all`: no key of the tile is masked.
template <class Step>
__device__ __forceinline__ void with_scores(const AttentionParams& p, const ScoreRule& rule, bool sees_all, Step step) {
  if (!sees_all || p.alibi_slopes != nullptr) {
    step(std::integral_constant<Scores, Scores::kAny>{});
  } else if (rule.has_cap) {
    step(std::integral_constant<Scores, Scores::kCapped>{});
  } else {
    step(std::integral_constant<Scores, Scores::kPlain>{});
  }
}

// What turns adjusted scores into log2 units. `scale`: the same for dots.
template <Scores kScores>
__device__ __forceinline__ float score_scale(const AttentionParams& p, const ScoreRule& rule, float scale) {
  if constexpr (kScores == Scores::kCapped) return rule.cap_log2;
  return kScores == Scores::kAny && (rule.has_cap || p.alibi_slopes != nullptr) ? 1.0f : scale;
}

// kCapped, in units of the cap; kAny, scaled where a softcap or ALiBi applies.
template <class S, Scores kScores>
__device__ __forceinline__ void adjust_scores(const AttentionParams& p, const ScoreRule& rule, int32_t key0,
                                              int32_t context_len, float (&s)[S::kKeys / 2], const ForwardRows& rows) {
  if (kScores == Scores::kCapped || rule.has_cap) {
    const float scale[2] = {rows.scale[0] * rule.cap_inverse, rows.scale[1] * rule.cap_inverse};
    const float cap = kScores == Scores::kCapped ? 1.0f : rule.cap_log2;
#pragma unroll
    for (int i = 0; i < S::kKeys / 2; ++i) s[i] = cap * tanh_approx(s[i] * scale[(i / 2) % 2]);
  } else if (p.alibi_slopes != nullptr) {
#pragma unroll
    for (int i = 0; i < S::kKeys / 2; ++i) s[i] *= rows.scale[(i / 2) % 2];
  }
  if constexpr (kScores == Scores::kAny) {
    const int first = key0 + (threadIdx.x & 3) * 2;  // the thread's first key; score i is of first + i / 4 * 8 + i % 2
    if (p.alibi_slopes != nullptr) {
#pragma unroll
      for (int i = 0; i < S::kKeys / 2; ++i)
        s[i] = fmaf(rows.slope[(i / 2) % 2], static_cast<float>(first - context_len + i / 4 * 8 + i % 2), s[i]);
    }
    const int low[2] = {rows.low[0] - first, rows.low[1] - first},
              limit[2] = {rows.limit[0] - first, rows.limit[1] - first};
#pragma unroll
    for (int i = 0; i < S::kKeys / 2; ++i)
      if (i / 4 * 8 + i % 2 >= limit[(i / 2) % 2] || i / 4 * 8 + i % 2 < low[(i / 2) % 2]) s[i] = -INFINITY;
  }
}

// Dots to probabilities, in place; `factor` is what O must be multiplied by.
template <class S, Scores kScores>
__device__ __forceinline__ void forward_softmax(const AttentionParams& p, const ScoreRule& rule, int32_t key0,
                                                int32_t context_len, float (&s)[S::kKeys / 2], ForwardRows& rows,
                                                float (&factor)[2]) {
  if constexpr (kScores != Scores::kPlain) adjust_scores<S, kScores>(p, rule, key0, context_len, s, rows);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float scale = score_scale<kScores>(p, rule, rows.scale[half]);
    float tops[4];  // short chains
#pragma unroll
    for (int n = 0; n < 4; ++n) tops[n] = fmaxf(s[n * 4 + half * 2], s[n * 4 + half * 2 + 1]);
#pragma unroll
    for (int n = 4; n < S::kKeys / 8; ++n)
      tops[n % 4] = fmaxf(tops[n % 4], fmaxf(s[n * 4 + half * 2], s[n * 4 + half * 2 + 1]));
    float top = fmaxf(fmaxf(tops[0], tops[1]), fmaxf(tops[2], tops[3]));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2)) * scale;
    const bool grows = top > rows.max[half];
    const float base = grows ? top : rows.max[half];
    factor[half] = grows ? exp2_approx(rows.max[half] - base) : 1.0f;
    rows.max[half] = base;
    const float shift = base == -INFINITY ? 0.0f : -base;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < S::kKeys / 8; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& x = s[n * 4 + half * 2 + e];
        x = exp2_approx(fmaf(x, scale, shift));
        sum += x;
      }
    rows.sum[half] = fmaf(rows.sum[half], factor[half], sum);
  }
}

// Scores' registers are where the A operand of the second product wants them.
template <class S>
__device__ __forceinline__ void pack_probabilities(const float (&s)[S::kKeys / 2], uint32_t (&prob)[S::kKeys / 16][4]) {
#pragma unroll
  for (int k = 0; k < S::kKeys / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) prob[k][i] = pack_pair<typename S::M>(s[k * 8 + 2 * i], s[k * 8 + 2 * i + 1]);
}

template <class S>
__device__ __forceinline__ void rescale_output(float (&o)[S::kBlocks][S::kColumns / 2], const float (&factor)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (!__any_sync(0xffffffffu, factor[half] != 1.0f)) continue;
#pragma unroll
    for (int c = 0; c < S::kBlocks; ++c)
#pragma unroll
      for (int i = 2 * half; i < S::kColumns / 2; i += 4) {
        o[c][i] *= factor[half];
        o[c][i + 1] *= factor[half];
      }
  }
}

// Four lanes that share a row hold two columns each of four blocks of 8; afterwards lane q holds block q whole.
__device__ __forceinline__ void transpose_quad(uint32_t (&x)[4]) {
  const bool upper = threadIdx.x & 2, odd = threadIdx.x & 1;
  const uint32_t a = __shfl_xor_sync(0xffffffffu, upper ? x[0] : x[2], 2);
  const uint32_t b = __shfl_xor_sync(0xffffffffu, upper ? x[1] : x[3], 2);
  (upper ? x[0] : x[2]) = a;
  (upper ? x[1] : x[3]) = b;
  const uint32_t c = __shfl_xor_sync(0xffffffffu, odd ? x[0] : x[1], 1);
  const uint32_t d = __shfl_xor_sync(0xffffffffu, odd ? x[2] : x[3], 1);
  (odd ? x[0] : x[1]) = c;
  (odd ? x[2] : x[3]) = d;
}

// kJoins: with a state that the result is merged with. Without one the columns are free of branches: the many small
// blocks of code that these make cost more than the products of a short item.
template <class S, bool kJoins>
__device__ __forceinline__ void write_forward_columns(const AttentionParams& p, const ForwardWork& w, int first_row,
                                                      const ForwardRows& rows,
                                                      const float (&o)[S::kBlocks][S::kColumns / 2]) {
  using T = typename S::T;
  const int lane = threadIdx.x & 31;
  const float v_scale = p.origin == KeyOrigin::kCache ? value_scale(p, w.kv_head) : 1.0f;
  float weight[2];
  RowSink<T> sink[2];
  bool valid[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = rows.sum[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const int row = first_row + half * 8 + lane / 4;
    valid[half] = row < w.num_rows;
    const int32_t query = divide_by_group(p, row), head = w.kv_head * p.group_size + row - query * p.group_size;
    weight[half] = 0;
    if (valid[half])
      sink[half] = end_row<T>(p, w.request, w.part, w.part_index, query, head, rows.max[half], sum, v_scale,
                              (lane & 3) == 0, &weight[half]);
  }
  if (p.out_f32 || w.part.count > 1) {
#pragma unroll
    for (int c = 0; c < S::kBlocks; ++c)
#pragma unroll
      for (int i = 0; i < S::kColumns / 2; i += 2) {
        const int half = (i / 2) % 2, column = c * S::kColumns + (i / 4) * 8 + (lane & 3) * 2;
        if (!valid[half] || (!S::kExact && column >= p.head_dim_v)) continue;
        float2 pair = make_float2(o[c][i] * weight[half], o[c][i + 1] * weight[half]);
        if constexpr (kJoins) pair = sink[half].joined_pair(column, pair.x, pair.y);
        *reinterpret_cast<float2*>(sink[half].out_f32 + column) = pair;
      }
    return;
  }
#pragma unroll
  for (int c = 0; c < S::kBlocks; ++c)
#pragma unroll
    for (int group = 0; group < S::kColumns / 32; ++group)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t x[4];
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const int i = (group * 4 + n) * 4 + half * 2, d = c * S::kColumns + (group * 4 + n) * 8 + (lane & 3) * 2;
          float2 pair = make_float2(o[c][i] * weight[half], o[c][i + 1] * weight[half]);
          if constexpr (kJoins)
            if (d < p.head_dim_v) pair = sink[half].joined_pair(d, pair.x, pair.y);
          x[n] = pack_pair<T>(pair.x, pair.y);
        }
        transpose_quad(x);
        const int column = c * S::kColumns + group * 32 + (lane & 3) * 8;
        if (valid[half] && (S::kExact || column < p.head_dim_v))
          *reinterpret_cast<uint4*>(sink[half].out + column) = make_uint4(x[0], x[1], x[2], x[3]);
      }
}

template <class S>
__device__ __forceinline__ void write_forward_rows(const AttentionParams& p, const ForwardWork& w, int first_row,
                                                   const ForwardRows& rows,
                                                   const float (&o)[S::kBlocks][S::kColumns / 2]) {
  if (p.state_out != nullptr) {
    write_forward_columns<S, true>(p, w, first_row, rows, o);
  } else {
    write_forward_columns<S, false>(p, w, first_row, rows, o);
  }
}

template <class S>
__device__ __forceinline__ void consume_forward(const AttentionParams& p, char* shared,
                                                const ForwardBarriers<S>& barriers) {
  const int group = threadIdx.x / 128, lane = threadIdx.x & 31, warp = threadIdx.x / 32 % 4;
  const uint32_t base = shared_address(shared);
  const auto* works = reinterpret_cast<const ForwardWork*>(shared + S::kWorkAt);
  const auto release = [&](uint32_t barrier) {
    if (lane == 0) barrier_arrive(barrier);
  };
  constexpr int kTurnThreads = 256;  // the consumer before says that the next one may
  const int my_turn = kFirstTurnBarrier + group, next_turn = kFirstTurnBarrier + (group + 1) % S::kGroups;
  if (S::kTurns && group == S::kGroups - 1) named_arrive(next_turn, kTurnThreads);  // consumer 0 has the first turn
  RingPosition<S::kStages> k_ring, v_ring;
  RingPosition<S::kQBuffers> queries;
  for (;; ++queries.count) {
    barrier_wait(barriers.q_full(queries.index()), queries.full_parity());
    const ForwardWork& w = works[queries.count % S::kWorkSlots];
    if (w.tiles == kNoMoreWork) return;
    fence_async_proxy();  // Q and key rows may have come by cp.async
    const uint64_t q_rows = matrix_descriptor(base + queries.index() * S::kQBytes + group * 64 * 128, 16, 1024);
    const int row0 = w.row0 + group * 64, first_row = row0 + warp * 16;
    const int32_t context_len = w.request.context_len;
    ScoreRule rule;
    ForwardRows rows;
    float o[S::kBlocks][S::kColumns / 2];
    const auto start_rows = [&] {
      rule = make_score_rule(p, p.origin == KeyOrigin::kCache ? key_scale(p, w.kv_head) : 1.0f);
      start_forward_rows(p, w, rule, row0, first_row, rows);
      if constexpr (S::kFp16) {
        const float* scales = reinterpret_cast<const float*>(shared + S::kQScaleAt) + queries.index() * S::kRows;
#pragma unroll
        for (int half = 0; half < 2; ++half) rows.scale[half] *= scales[group * 64 + warp * 16 + half * 8 + lane / 4];
      }
#pragma unroll
      for (int c = 0; c < S::kBlocks; ++c)
#pragma unroll
        for (int i = 0; i < S::kColumns / 2; ++i) o[c][i] = 0.0f;
    };
    const auto sees_all = [&](int t) { return rows.see_all(w.first + t * S::kKeys, S::kKeys); };
    if (w.tiles > 0) {
      float s[S::kKeys / 2], factor[2];
      uint32_t prob[S::kKeys / 16][4];
      barrier_wait(barriers.k_full(k_ring.index()), k_ring.full_parity());
      wgmma_fence();
      issue_scores<S>(s, q_rows, base + S::kKAt + k_ring.index() * S::kKBytes);
      start_rows();
      wgmma_wait<0>();
      release(barriers.k_empty(k_ring.index()));
      ++k_ring.count;
      forward_softmax<S, Scores::kAny>(p, rule, w.first + (w.tiles - 1) * S::kKeys, context_len, s, rows, factor);
      pack_probabilities<S>(s, prob);
      const auto step = [&](int t, auto scores) {
        barrier_wait(barriers.k_full(k_ring.index()), k_ring.full_parity());
        if constexpr (S::kTurns) named_wait(my_turn, kTurnThreads);
        wgmma_fence();
        issue_scores<S>(s, q_rows, base + S::kKAt + k_ring.index() * S::kKBytes);
        barrier_wait(barriers.v_full(v_ring.index()), v_ring.full_parity());
        wgmma_fence();
        issue_values<S>(o, prob, base + S::kVAt + v_ring.index() * S::kVBytes);
        if constexpr (S::kTurns) named_arrive(next_turn, kTurnThreads);
        wgmma_wait<1>();
        release(barriers.k_empty(k_ring.index()));
        ++k_ring.count;
        forward_softmax<S, decltype(scores)::value>(p, rule, w.first + t * S::kKeys, context_len, s, rows, factor);
        wgmma_wait<0>();
        release(barriers.v_empty(v_ring.index()));
        ++v_ring.count;
        rescale_output<S>(o, factor);
        pack_probabilities<S>(s, prob);
      };
#pragma unroll 1
      for (int t = w.tiles - 2; t >= 0; --t) with_scores(p, rule, sees_all(t), [&](auto scores) { step(t, scores); });
      release(barriers.q_empty(queries.index()));
      barrier_wait(barriers.v_full(v_ring.index()), v_ring.full_parity());
      wgmma_fence();
      issue_values<S>(o, prob, base + S::kVAt + v_ring.index() * S::kVBytes);
      wgmma_wait<0>();
      release(barriers.v_empty(v_ring.index()));
      ++v_ring.count;
    } else {
      start_rows();
      release(barriers.q_empty(queries.index()));
    }
    write_forward_rows<S>(p, w, first_row, rows, o);
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    forward(const __grid_constant__ AttentionParams p, const __grid_constant__ ForwardMaps maps,
            const __grid_constant__ ForwardOrder order) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ char shared_bytes[];
  char* shared = shared_bytes + (1024 - shared_address(shared_bytes) % 1024) % 1024;
  const ForwardBarriers<S> barriers{shared_address(shared + S::kBarrierAt)};
  launch_dependents();
  if (threadIdx.x == 0) {
    barriers.init();
    fence_async_proxy();
    for (const KeyMap* map : {&maps.cache, &maps.packed, &maps.packed_ends})
      if (map->tokens > 0) {
        prefetch_tensor_map(&map->k);
        prefetch_tensor_map(&map->v);
      }
  }
  __syncthreads();
  if (threadIdx.x >= S::kConsumers) {
    shrink_registers<S::kProducerRegisters>();
    if (threadIdx.x < S::kConsumers + S::kHalf) {
      lead_forward<S>(p, maps, order, shared, barriers);
    } else {
      follow_forward<S>(p, maps, shared, barriers);
    }
  } else {
    grow_registers<S::kConsumerRegisters>();
    consume_forward<S>(p, shared, barriers);
  }
#endif
}

template <class S>
cudaError_t launch_forward_shape(const AttentionParams& p, const ForwardMaps& maps, const ForwardOrder& order,
                                 int blocks, cudaStream_t stream) {
  const cudaError_t error =
      cudaFuncSetAttribute(forward<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (error != cudaSuccess) return error;
  forward<S><<<blocks, S::kThreads, S::kSharedBytes, stream>>>(p, maps, order);
  return cudaGetLastError();
}

}  // namespace sextant::cuda
