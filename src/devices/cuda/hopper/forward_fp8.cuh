// Attention forward on Hopper with all products in fp8: e4m3 queries over an e4m3 cache. The forward kernel's work
// list, rows, softmax rules and stores (forward.cuh); what differs:
//
//   producer, half a warpgroup   work items, Q, K
//   producer, the other half     V, transposed in shared memory (forward_fp8_load.cuh)
//   consumers 0 and 1            64 rows each
//
//   a consumer:  S_0 | softmax | S_1, T = P_0 V_0 [left half] | maxima | O += T, T = P_0 V_0 [right half]
//                | exponentials | O += T | S_2, ...
//
// P is rounded to e4m3 with a row's largest at 2^8 (e4m3's largest is 448), so that what is 2^-14 of it still has all
// three bits of mantissa; the sum carries the same factor, which goes with the division. The tensor core keeps 13 bits
// below the largest addend of a sum of fp8 products, which over thousands of keys would eat the result: each tile's
// product is summed up by itself (T, 64 columns at a time) and joins O in fp32, together with the rescaling of O,
// which therefore costs nothing and follows every growth of the maximum.
#pragma once

#include "devices/cuda/hopper/forward_fp8_load.cuh"
#include "devices/cuda/hopper/wgmma_fp8.cuh"

namespace sextant::cuda {

constexpr float kFp8Offset = 8.0f;  // log2 of a row's largest probability

// Registers that asynchronous products wrote: not read before this point.
template <int kCount>
__device__ __forceinline__ void written(float (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(x[i])::"memory");
}

// S = Q K^T of 64 rows; issued, not waited for.
template <class S>
__device__ __forceinline__ void issue_fp8_scores(float (&s)[S::kKeys / 2], uint64_t q_rows, uint32_t k_tile) {
  const uint64_t keys = matrix_descriptor(k_tile, 16, 1024);
#pragma unroll
  for (int k = 0; k < S::DK / 32; ++k)
    wgmma_fp8_scores(s, move_descriptor(q_rows, k * 32), move_descriptor(keys, k * 32), k > 0);
  wgmma_commit();
}

// T = P V of 64 columns; issued, not waited for.
template <class S>
__device__ __forceinline__ void issue_fp8_values(float (&t)[32], const uint32_t (&prob)[S::kKeys / 32][4],
                                                 uint32_t t_tile, int block) {
  const uint64_t values = matrix_descriptor(t_tile + block * 64 * S::kRowBytes, 16, 1024);
#pragma unroll
  for (int k = 0; k < S::kKeys / 32; ++k) wgmma_fp8_values(t, prob[k], move_descriptor(values, k * 32), k > 0);
  wgmma_commit();
}

// Masks and biases, then the rows' maxima. rows.max is where probabilities are 1: kFp8Offset below the largest score.
// `factor` is what O must be multiplied by. Returns what scores must be multiplied by.
template <class S, Scores kScores>
__device__ __forceinline__ float find_fp8_maxima(const AttentionParams& p, const ScoreRule& rule, int32_t key0,
                                                 int32_t context_len, float (&s)[S::kKeys / 2], ForwardRows& rows,
                                                 float (&factor)[2]) {
  const float scale = score_scale<kScores>(p, rule, rule.scale_log2);
  if constexpr (kScores != Scores::kPlain) adjust_scores<S, kScores>(p, rule, key0, context_len, s, rows);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float tops[4];  // short chains
#pragma unroll
    for (int n = 0; n < 4; ++n) tops[n] = fmaxf(s[n * 4 + half * 2], s[n * 4 + half * 2 + 1]);
#pragma unroll
    for (int n = 4; n < S::kKeys / 8; ++n)
      tops[n % 4] = fmaxf(tops[n % 4], fmaxf(s[n * 4 + half * 2], s[n * 4 + half * 2 + 1]));
    float top = fmaxf(fmaxf(tops[0], tops[1]), fmaxf(tops[2], tops[3]));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2)) * scale - kFp8Offset;
    const bool grows = top > rows.max[half];
    factor[half] = grows ? exp2_approx(rows.max[half] - top) : 1.0f;
    rows.max[half] = grows ? top : rows.max[half];
  }
  return scale;
}

// Scores to probabilities, in place, and their sums.
template <class S>
__device__ __forceinline__ void exponentiate(float (&s)[S::kKeys / 2], float scale, ForwardRows& rows,
                                             const float (&factor)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float shift = rows.max[half] == -INFINITY ? 0.0f : -rows.max[half];
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

// A thread's accumulators become its A operand as they are: the transposed values have their keys in this order.
template <class S>
__device__ __forceinline__ void pack_fp8_probabilities(const float (&s)[S::kKeys / 2],
                                                       uint32_t (&prob)[S::kKeys / 32][4]) {
#pragma unroll
  for (int k = 0; k < S::kKeys / 32; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* x = s + k * 16 + (i / 2) * 8 + (i % 2) * 2;
      prob[k][i] = pack_fp8(x[0], x[1], x[4], x[5]);
    }
}

__device__ __forceinline__ void join_output(float (&o)[32], const float (&t)[32], const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < 32; ++i) o[i] = fmaf(o[i], factor[(i / 2) % 2], t[i]);
}

template <class S>
__device__ __forceinline__ void consume_fp8(const AttentionParams& p, const Fp8Queries& query_scales, char* shared,
                                            const Fp8Barriers<S>& barriers) {
  const int group = threadIdx.x / 128, lane = threadIdx.x & 31, warp = threadIdx.x / 32 % 4;
  const uint32_t base = shared_address(shared);
  const auto* works = reinterpret_cast<const ForwardWork*>(shared + S::kWorkAt);
  const auto release = [&](uint32_t barrier) {
    if (lane == 0) barrier_arrive(barrier);
  };
  RingPosition<S::kKeyStages> k_ring;
  RingPosition<S::kTransposedStages> t_ring;
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
    float o[S::kBlocks][32];
    const auto start_rows = [&] {
      const float q_scale = query_scales.scale == nullptr
                                ? 1.0f
                                : __ldg(query_scales.scale + (query_scales.num_scales > 1 ? w.kv_head : 0));
      rule = make_score_rule(p, key_scale(p, w.kv_head) * q_scale);
      start_forward_rows(p, w, rule, row0, first_row, rows);
#pragma unroll
      for (int c = 0; c < S::kBlocks; ++c)
#pragma unroll
        for (int i = 0; i < 32; ++i) o[c][i] = 0.0f;
    };
    const auto sees_all = [&](int t) { return rows.see_all(w.first + t * S::kKeys, S::kKeys); };
    if (w.tiles > 0) {
      float s[S::kKeys / 2], t_sum[32], factor[2], next_factor[2];
      uint32_t prob[S::kKeys / 32][4];
      const auto t_tile = [&] { return base + S::kTAt + t_ring.index() * S::kTBytes; };
      barrier_wait(barriers.k_full(k_ring.index()), k_ring.full_parity());
      wgmma_fence();
      issue_fp8_scores<S>(s, q_rows, base + S::kKAt + k_ring.index() * S::kKBytes);
      start_rows();
      wgmma_wait<0>();
      written(s);
      release(barriers.k_empty(k_ring.index()));
      ++k_ring.count;
      const float first_scale =
          find_fp8_maxima<S, Scores::kAny>(p, rule, w.first + (w.tiles - 1) * S::kKeys, context_len, s, rows, factor);
      exponentiate<S>(s, first_scale, rows, factor);
      pack_fp8_probabilities<S>(s, prob);
      factor[0] = factor[1] = 1.0f;  // O is zero
      const auto step = [&](int t, auto scores) {
        barrier_wait(barriers.k_full(k_ring.index()), k_ring.full_parity());
        wgmma_fence();
        issue_fp8_scores<S>(s, q_rows, base + S::kKAt + k_ring.index() * S::kKBytes);
        barrier_wait(barriers.t_full(t_ring.index()), t_ring.full_parity());
        wgmma_fence();
        issue_fp8_values<S>(t_sum, prob, t_tile(), 0);
        wgmma_wait<1>();
        written(s);
        release(barriers.k_empty(k_ring.index()));
        ++k_ring.count;
        const float scale = find_fp8_maxima<S, decltype(scores)::value>(p, rule, w.first + t * S::kKeys, context_len, s,
                                                                        rows, next_factor);
        if constexpr (S::kBlocks == 2) {
          wgmma_wait<0>();
          written(t_sum);
          join_output(o[0], t_sum, factor);
          wgmma_fence();
          issue_fp8_values<S>(t_sum, prob, t_tile(), 1);
        }
        exponentiate<S>(s, scale, rows, next_factor);
        wgmma_wait<0>();
        written(t_sum);
        release(barriers.t_empty(t_ring.index()));
        ++t_ring.count;
        join_output(o[S::kBlocks - 1], t_sum, factor);
        factor[0] = next_factor[0];
        factor[1] = next_factor[1];
        pack_fp8_probabilities<S>(s, prob);
      };
#pragma unroll 1
      for (int t = w.tiles - 2; t >= 0; --t) with_scores(p, rule, sees_all(t), [&](auto scores) { step(t, scores); });
      release(barriers.q_empty(queries.index()));
      barrier_wait(barriers.t_full(t_ring.index()), t_ring.full_parity());
#pragma unroll
      for (int c = 0; c < S::kBlocks; ++c) {
        wgmma_fence();
        issue_fp8_values<S>(t_sum, prob, t_tile(), c);
        wgmma_wait<0>();
        written(t_sum);
        join_output(o[c], t_sum, factor);
      }
      release(barriers.t_empty(t_ring.index()));
      ++t_ring.count;
    } else {
      start_rows();
      release(barriers.q_empty(queries.index()));
    }
    write_forward_rows<S>(p, w, first_row, rows, o);
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    forward_fp8(const __grid_constant__ AttentionParams p, const __grid_constant__ Fp8Queries query_scales,
                const __grid_constant__ ForwardMaps maps, const __grid_constant__ ForwardOrder order) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ char shared_bytes[];
  char* shared = shared_bytes + (1024 - shared_address(shared_bytes) % 1024) % 1024;
  const Fp8Barriers<S> barriers{shared_address(shared + S::kBarrierAt)};
  launch_dependents();
  if (threadIdx.x == 0) {
    barriers.init();
    fence_async_proxy();
    if (maps.cache.tokens > 0) {
      prefetch_tensor_map(&maps.cache.k);
      prefetch_tensor_map(&maps.cache.v);
    }
  }
  __syncthreads();
  if (threadIdx.x >= S::kConsumers) {
    shrink_registers<80>();
    if (threadIdx.x < S::kConsumers + S::kHalf) {
      lead_fp8<S>(p, maps, order, shared, barriers);
    } else {
      follow_fp8<S>(p, maps, shared, barriers);
    }
  } else {
    grow_registers<208>();
    consume_fp8<S>(p, query_scales, shared, barriers);
  }
#endif
}

template <class S>
cudaError_t launch_forward_fp8_shape(const AttentionParams& p, const Fp8Queries& queries, const ForwardMaps& maps,
                                     const ForwardOrder& order, int blocks, cudaStream_t stream) {
  const cudaError_t error =
      cudaFuncSetAttribute(forward_fp8<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (error != cudaSuccess) return error;
  forward_fp8<S><<<blocks, S::kThreads, S::kSharedBytes, stream>>>(p, queries, maps, order);
  return cudaGetLastError();
}

}  // namespace sextant::cuda
