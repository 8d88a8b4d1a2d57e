// merge_attn_states and copy_pad.
#include "devices/cuda/kernels/cache_kernels.h"
#include "devices/cuda/kernels/chunks.cuh"

namespace sextant::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

__device__ __forceinline__ bool token_passes(const MergeAttnStatesArgs& a, int32_t token) {
  if (a.query_start_loc == nullptr) return true;
  if (token < a.query_start_loc[0] || token >= a.query_start_loc[a.num_requests]) return false;
  const int b = find_start_index(a.query_start_loc, a.num_requests, token);
  const int32_t query_len = a.query_start_loc[b + 1] - a.query_start_loc[b], seq_len = a.seq_lens[b];
  return query_len >= a.filter.min_query_len && query_len <= a.filter.max_query_len &&
         (a.filter.context == RequestFilter::Context::kAny ||
          (a.filter.context == RequestFilter::Context::kSome) == (seq_len > query_len));
}

// A block takes one token; its threads take (head, 8 dims) each, or (head, dim) where rows are not aligned.
template <bool kVectors>
__global__ void __launch_bounds__(kThreads) merge_states(const MergeAttnStatesArgs a) {
  const int32_t token = blockIdx.x;
  if (!token_passes(a, token)) return;
  const int heads = static_cast<int>(a.out.shape[1]), dim = static_cast<int>(a.out.shape[2]);
  const int chunks = kVectors ? dim / 8 : dim;
  // A head's items go to one pass of the loop over heads_a_pass, so that its LSE is written after all its reads.
  const int heads_a_pass = max(1, kThreads / chunks);
  for (int head0 = 0; head0 < heads; head0 += heads_a_pass) {
    const int here = min(heads_a_pass, heads - head0);
    for (int i = threadIdx.x; i < here * chunks; i += kThreads) {
      const int head = head0 + i / chunks, d = i % chunks * (kVectors ? 8 : 1);
      float p = static_cast<float*>(a.prefix_lse.data)[head * a.prefix_lse.stride[0] + token * a.prefix_lse.stride[1]];
      float s = static_cast<float*>(a.suffix_lse.data)[head * a.suffix_lse.stride[0] + token * a.suffix_lse.stride[1]];
      if (p == INFINITY) p = -INFINITY;
      if (s == INFINITY) s = -INFINITY;
      const float top = fmaxf(p, s);
      const float wp = top == -INFINITY ? 0.0f : expf(p - top), ws = top == -INFINITY ? 0.0f : expf(s - top);
      const float inverse = top == -INFINITY ? 0.0f : 1.0f / (wp + ws);
      const int64_t from_p = token * a.prefix_out.stride[0] + head * a.prefix_out.stride[1] + d;
      const int64_t from_s = token * a.suffix_out.stride[0] + head * a.suffix_out.stride[1] + d;
      const int64_t to = token * a.out.stride[0] + head * a.out.stride[1] + d;
      // A state of weight 0 may hold anything; 0 * NaN must not reach the result.
      if constexpr (kVectors) {
        Chunk x{}, y{};
        if (wp != 0) x = load_chunk(a.prefix_out.dtype, a.prefix_out.data, from_p);
        if (ws != 0) y = load_chunk(a.suffix_out.dtype, a.suffix_out.data, from_s);
#pragma unroll
        for (int e = 0; e < 8; ++e) x.x[e] = (x.x[e] * wp + y.x[e] * ws) * inverse;
        store_chunk(a.out.dtype, a.out.data, to, x);
      } else {
        const float x = wp != 0 ? load_float(a.prefix_out.dtype, a.prefix_out.data, from_p) : 0.0f;
        const float y = ws != 0 ? load_float(a.suffix_out.dtype, a.suffix_out.data, from_s) : 0.0f;
        store_float(a.out.dtype, a.out.data, to, (x * wp + y * ws) * inverse);
      }
    }
    if (a.lse.data == nullptr) continue;
    __syncthreads();  // lse may alias an input
    if (static_cast<int>(threadIdx.x) < here) {
      const int head = head0 + static_cast<int>(threadIdx.x);
      float p = static_cast<float*>(a.prefix_lse.data)[head * a.prefix_lse.stride[0] + token * a.prefix_lse.stride[1]];
      float s = static_cast<float*>(a.suffix_lse.data)[head * a.suffix_lse.stride[0] + token * a.suffix_lse.stride[1]];
      if (p == INFINITY) p = -INFINITY;
      if (s == INFINITY) s = -INFINITY;
      const float top = fmaxf(p, s);
      static_cast<float*>(a.lse.data)[head * a.lse.stride[0] + token * a.lse.stride[1]] =
          top == -INFINITY ? -INFINITY : logf(expf(p - top) + expf(s - top)) + top;
    }
  }
}

// A warp takes one (row, head) at a time.
__global__ void __launch_bounds__(kThreads) copy_pad(const CopyPadArgs a, bool vectors) {
  const int lane = threadIdx.x & 31;
  const int64_t rows = a.src.shape[0], heads = a.src.shape[1], dim = a.src.shape[2], padded = a.dst.shape[2];
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; i < rows * heads;
       i += static_cast<int64_t>(gridDim.x) * kWarps) {
    const int64_t row = i / heads, head = i - row * heads;
    const int64_t from = row * a.src.stride[0] + head * a.src.stride[1],
                  to = row * a.dst.stride[0] + head * a.dst.stride[1];
    if (vectors) {
      for (int64_t d = lane * 8; d < padded; d += 256) {
        Chunk c{};
        if (d < dim) c = load_chunk(a.src.dtype, a.src.data, from + d);
        store_chunk(a.dst.dtype, a.dst.data, to + d, c);
      }
    } else {
      for (int64_t d = lane; d < padded; d += 32)
        store_float(a.dst.dtype, a.dst.data, to + d,
                    d < dim ? load_float(a.src.dtype, a.src.data, from + d * a.src.stride[2]) : 0.0f);
    }
  }
}

}  // namespace

cudaError_t launch_merge_attn_states(const MergeAttnStatesArgs& args, cudaStream_t stream) {
  const auto tokens = static_cast<unsigned>(args.out.shape[0]);
  if (is_vector_aligned(args.prefix_out) && is_vector_aligned(args.suffix_out) && is_vector_aligned(args.out)) {
    merge_states<true><<<tokens, kThreads, 0, stream>>>(args);
  } else {
    merge_states<false><<<tokens, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

cudaError_t launch_copy_pad(const CopyPadArgs& args, cudaStream_t stream) {
  const int64_t rows = args.src.shape[0] * args.src.shape[1];
  const int64_t blocks = (rows + kWarps - 1) / kWarps;
  copy_pad<<<static_cast<unsigned>(blocks < 16384 ? blocks : 16384), kThreads, 0, stream>>>(
      args, is_vector_aligned(args.src) && is_vector_aligned(args.dst));
  return cudaGetLastError();
}

}  // namespace sextant::cuda
