// What happens between the two matrix products, shared by all attention kernels: scale, softcap, masks, ALiBi, and the
// end of a row. Scores are kept in log2 units so that the exponential is one instruction.
#pragma once

#include "devices/cuda/kernels/batch.cuh"
#include "devices/cuda/kernels/convert.cuh"
#include "devices/cuda/kernels/ptx.cuh"
#include "devices/gpu/row_rules.h"

namespace sextant::cuda {

using gpu::finish_row;
using gpu::kLn2;
using gpu::kLog2E;
using gpu::make_score_rule;
using gpu::RowEnd;
using gpu::ScoreRule;

// kFp32: of operands in 32 bits too, for which tanh_short is not exact enough.
template <bool kFp32 = false>
__device__ __forceinline__ float score_log2(const ScoreRule& r, float dot) {
  const float s = dot * r.scale_log2;
  if (!r.has_cap) return s;
  return r.cap_log2 * (kFp32 ? tanhf(s * r.cap_inverse) : tanh_short(s * r.cap_inverse));
}
__device__ __forceinline__ bool is_visible(const AttentionParams& p, int32_t query_position, int32_t key_position) {
  return !(p.causal && key_position > query_position + p.right) &&
         !(p.window > 0 && key_position <= query_position - p.window);
}

__device__ __forceinline__ void store_lse(const AttentionParams& p, int32_t token, int32_t head, float lse) {
  if (p.lse != nullptr) p.lse[head * p.lse_head_stride + token * p.lse_token_stride] = lse;
}

// Where a row goes: the output, perhaps merged with a state's row, or a partial result.
template <class T>
struct RowSink {
  T* out = nullptr;
  float* out_f32 = nullptr;
  const float* state = nullptr;
  float state_weight = 0;
  // x joined by the state's element. A state of weight 0 may hold anything; 0 * NaN must not reach the result.
  __device__ __forceinline__ float joined(int d, float x) const {
    return state_weight == 0 ? x : fmaf(state_weight, state[d], x);
  }
  __device__ __forceinline__ float2 joined_pair(int d, float x, float y) const {  // d even
    if (state_weight == 0) return make_float2(x, y);
    if ((reinterpret_cast<uintptr_t>(state) & 7) != 0) return make_float2(joined(d, x), joined(d + 1, y));
    const float2 other = *reinterpret_cast<const float2*>(state + d);
    return make_float2(fmaf(state_weight, other.x, x), fmaf(state_weight, other.y, y));
  }
  __device__ __forceinline__ void store(int d, float x) const {
    x = joined(d, x);
    if (out_f32 != nullptr) {
      out_f32[d] = x;
    } else {
      out[d] = from_float<T>(x);
    }
  }
  // d even; rows may start on any element.
  __device__ __forceinline__ void store_pair(int d, float x, float y) const {
    if (out_f32 != nullptr && (reinterpret_cast<uintptr_t>(out_f32) & 7) == 0) {
      *reinterpret_cast<float2*>(out_f32 + d) = joined_pair(d, x, y);
      return;
    }
    if constexpr (sizeof(T) == 2) {
      if (out_f32 == nullptr && (reinterpret_cast<uintptr_t>(out) & 3) == 0) {
        const float2 pair = joined_pair(d, x, y);
        *reinterpret_cast<uint32_t*>(out + d) = pack_pair<T>(pair.x, pair.y);
        return;
      }
    }
    store(d, x);
    store(d + 1, y);
  }
  // kCount pairs, kStep apart from d on, of value(i, 0 or 1) * weight; of rows without a state. How they can be stored
  // is decided once.
  template <int kCount, int kStep, class Value>
  __device__ __forceinline__ void store_pairs(int d, float weight, Value value) const {
    if (out_f32 != nullptr && (reinterpret_cast<uintptr_t>(out_f32) & 7) == 0) {
#pragma unroll
      for (int i = 0; i < kCount; ++i)
        *reinterpret_cast<float2*>(out_f32 + d + i * kStep) = make_float2(value(i, 0) * weight, value(i, 1) * weight);
      return;
    }
    if constexpr (sizeof(T) == 2) {
      if (out_f32 == nullptr && (reinterpret_cast<uintptr_t>(out) & 3) == 0) {
#pragma unroll
        for (int i = 0; i < kCount; ++i)
          *reinterpret_cast<uint32_t*>(out + d + i * kStep) = pack_pair<T>(value(i, 0) * weight, value(i, 1) * weight);
        return;
      }
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      store(d + i * kStep, value(i, 0) * weight);
      store(d + i * kStep + 1, value(i, 1) * weight);
    }
  }
};
template <class T>
__device__ __forceinline__ RowSink<T> output_row(const AttentionParams& p, int32_t token, int32_t head) {
  const int64_t offset = token * p.out_token_stride + head * p.out_head_stride;
  RowSink<T> row;
  if (p.out_f32) {
    row.out_f32 = static_cast<float*>(p.out) + offset;
  } else {
    row.out = static_cast<T*>(p.out) + offset;
  }
  return row;
}

// A final row meets the state that the op was given, if any: `end` becomes that of both, `sink` adds the state's share.
// Merging as in arXiv:2501.01005, section 2.2; an LSE of +inf counts as -inf.
template <class T>
__device__ __forceinline__ void join_state(const AttentionParams& p, int32_t token, int32_t head, RowEnd& end,
                                           RowSink<T>& sink) {
  if (p.state_lse == nullptr) return;
  float lse = p.state_lse[head * p.state_lse_head_stride + token * p.state_lse_token_stride];
  if (lse == INFINITY) lse = -INFINITY;
  const float top = fmaxf(end.lse, lse);
  if (top == -INFINITY) return;
  const float own = exp2f((end.lse - top) * kLog2E), other = exp2f((lse - top) * kLog2E), total = own + other;
  end.weight *= own / total;
  end.lse = top + logf(total);
  sink.state = p.state_out + token * p.state_token_stride + head * p.state_head_stride;
  sink.state_weight = other / total;
}

// Ends row (query, head) of a fixed-split kernel: final where the request has one partition, else partial `index`.
// Only one thread of a row passes `writes_lse`.
template <class T>
__device__ __forceinline__ RowSink<T> end_row(const AttentionParams& p, const Request& r, const Partition& part,
                                              int index, int32_t query, int32_t head, float max, float sum,
                                              float v_scale, bool writes_lse, float* weight) {
  if (part.count == 1) {
    RowEnd end = finish_row(max, sum, v_scale, p.sinks, head);
    RowSink<T> sink = output_row<T>(p, r.query_start + query, head);
    join_state(p, r.query_start + query, head, end, sink);
    if (writes_lse) store_lse(p, r.query_start + query, head, end.lse);
    *weight = end.weight;
    return sink;
  }
  const RowEnd end = finish_row(max, sum, v_scale, nullptr, head);
  const int64_t row = partial_row(p, r, query, head) + index;
  if (writes_lse) p.partial_lse[row] = end.lse;
  *weight = end.weight;
  RowSink<T> sink;
  sink.out_f32 = p.partial_out + row * p.head_dim_v;
  return sink;
}

}  // namespace sextant::cuda
