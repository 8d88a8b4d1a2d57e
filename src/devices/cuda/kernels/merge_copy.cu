// merge_attn_states and copy_pad.
#include <algorithm>

#include "devices/cuda/kernels/cache_kernels.h"
#include "devices/cuda/kernels/row_moves.cuh"

namespace sextant::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

__device__ __forceinline__ bool token_passes(const MergeAttnStatesArgs& a, int32_t token) {
  if (a.query_start_loc == nullptr) return true;
  if (token < a.query_start_loc[0] || token >= a.query_start_loc[a.num_requests]) return false;
  const int b = find_start_index(a.query_start_loc, a.num_requests, token);
  return a.filter.matches(a.query_start_loc[b + 1] - a.query_start_loc[b], a.seq_lens[b]);
}

__device__ __forceinline__ float& lse_at(const TensorView& lse, int head, int32_t token) {
  return static_cast<float*>(lse.data)[head * lse.stride[0] + token * lse.stride[1]];
}

// Outputs of one 16-bit type in aligned rows. A block takes 2^shift tokens, so that their LSEs, which lie token by
// token, fill sectors. First the weights of all its (token, head), one a thread, which also writes the merged LSE: that
// may alias an input. Then the outputs, 8 dims a thread at a time; a batch's loads come before its stores, because the
// compiler must assume that outputs alias, too.
constexpr int kMaxStates = 1024;  // (token, head) whose weights are in shared memory at a time
template <class T>
__global__ void __launch_bounds__(kThreads) merge_halves(const MergeAttnStatesArgs a, int shift) {
  constexpr int kBatch = 4;
  __shared__ float2 weights[kMaxStates];  // [token][head]: of prefix and suffix
  __shared__ bool passes[kWarps];
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  const int heads = static_cast<int>(a.out.shape[1]), chunks = static_cast<int>(a.out.shape[2]) / 8;
  const int32_t token0 = static_cast<int32_t>(blockIdx.x) << shift;
  const int tokens = min(1 << shift, static_cast<int>(a.out.shape[0]) - token0);
  if (warp < tokens) {
    const bool pass = token_passes(a, token0 + warp);
    if (lane == 0) passes[warp] = pass;
  }
  __syncthreads();
  for (int head0 = 0; head0 < heads; head0 += kMaxStates >> shift) {
    const int part = min(heads - head0, kMaxStates >> shift);
    for (int i = threadIdx.x; i < part << shift; i += kThreads) {
      const int t = i & ((1 << shift) - 1), h = i >> shift;
      if (t >= tokens || !passes[t]) continue;
      float p = lse_at(a.prefix_lse, head0 + h, token0 + t), s = lse_at(a.suffix_lse, head0 + h, token0 + t);
      if (p == INFINITY) p = -INFINITY;
      if (s == INFINITY) s = -INFINITY;
      const float top = fmaxf(p, s), base = top == -INFINITY ? 0.0f : top;
      const float wp = expf(p - base), ws = expf(s - base), sum = wp + ws;
      const float inverse = sum == 0 ? 0.0f : 1.0f / sum;
      weights[t * part + h] = make_float2(wp * inverse, ws * inverse);
      if (a.lse.data != nullptr) lse_at(a.lse, head0 + h, token0 + t) = top == -INFINITY ? top : logf(sum) + top;
    }
    __syncthreads();
    const int items = tokens * part * chunks;
    for (int i0 = threadIdx.x; i0 < items; i0 += kBatch * kThreads) {
      uint4 x[kBatch], y[kBatch];
      float2 w[kBatch];
      T* to[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const uint32_t i = static_cast<uint32_t>(i0 + j * kThreads), row = i / static_cast<uint32_t>(chunks);
        const uint32_t t = row / static_cast<uint32_t>(part);
        to[j] = nullptr;
        x[j] = y[j] = make_uint4(0, 0, 0, 0);
        if (static_cast<int>(i) >= items || !passes[t]) continue;
        const int64_t token = token0 + static_cast<int32_t>(t), head = head0 + static_cast<int>(row - t * part);
        const int32_t d = static_cast<int32_t>(i - row * chunks) * 8;
        to[j] = static_cast<T*>(a.out.data) + token * a.out.stride[0] + head * a.out.stride[1] + d;
        w[j] = weights[row];
        // A state of weight 0 may hold anything; 0 * NaN must not reach the result.
        if (w[j].x != 0)
          x[j] = *reinterpret_cast<const uint4*>(static_cast<const T*>(a.prefix_out.data) +
                                                 token * a.prefix_out.stride[0] + head * a.prefix_out.stride[1] + d);
        if (w[j].y != 0)
          y[j] = *reinterpret_cast<const uint4*>(static_cast<const T*>(a.suffix_out.data) +
                                                 token * a.suffix_out.stride[0] + head * a.suffix_out.stride[1] + d);
      }
      const auto merge = [](uint32_t u, uint32_t v, float2 weight) {
        const float2 p = unpack_pair<T>(u), s = unpack_pair<T>(v);
        return pack_pair<T>(p.x * weight.x + s.x * weight.y, p.y * weight.x + s.y * weight.y);
      };
#pragma unroll
      for (int j = 0; j < kBatch; ++j)
        if (to[j] != nullptr)
          *reinterpret_cast<uint4*>(to[j]) = make_uint4(merge(x[j].x, y[j].x, w[j]), merge(x[j].y, y[j].y, w[j]),
                                                        merge(x[j].z, y[j].z, w[j]), merge(x[j].w, y[j].w, w[j]));
    }
    __syncthreads();  // the next heads' weights
  }
}

// Any types and alignments. A block takes one token; its threads take (head, 8 dims) each, or (head, dim) where rows
// are not aligned.
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

// Aligned rows of one 16-bit type, as they are: 8 dims a thread. 2^shift threads take a (row, head), so that short ones
// leave none of a warp idle, and each thread has several loads under way: the up-projection of MLA's prefill joins its
// keys so, of the whole context in every step.
constexpr int kMovesAhead = 4;
template <class Index>
__global__ void __launch_bounds__(kThreads) copy_halves(const CopyPadArgs a, int shift, Index items) {
  const auto heads = static_cast<Index>(a.src.shape[1]);
  const int dim = static_cast<int>(a.src.shape[2]), padded = static_cast<int>(a.dst.shape[2]);
  const Index thread = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x;
  const Index step = (static_cast<Index>(gridDim.x) * kThreads) >> shift;  // kThreads is a multiple of 2^shift
  const int first_dim = static_cast<int>(thread & ((Index{1} << shift) - 1)) * 8;
  for (Index item0 = thread >> shift; item0 < items; item0 += kMovesAhead * step) {
    for (int d = first_dim; d < padded; d += 8 << shift) {
      uint4 moved[kMovesAhead];
      int64_t to[kMovesAhead];
#pragma unroll
      for (int i = 0; i < kMovesAhead; ++i) {
        const Index item = item0 + static_cast<Index>(i) * step;
        moved[i] = make_uint4(0, 0, 0, 0);
        if (item >= items) continue;
        const Index row = item / heads, head = item - row * heads;
        to[i] = static_cast<int64_t>(row) * a.dst.stride[0] + static_cast<int64_t>(head) * a.dst.stride[1] + d;
        const int64_t from =
            static_cast<int64_t>(row) * a.src.stride[0] + static_cast<int64_t>(head) * a.src.stride[1] + d;
        if (d < dim) moved[i] = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(a.src.data) + from);
      }
#pragma unroll
      for (int i = 0; i < kMovesAhead; ++i)
        if (item0 + static_cast<Index>(i) * step < items)
          *reinterpret_cast<uint4*>(static_cast<uint16_t*>(a.dst.data) + to[i]) = moved[i];
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
    const float scale = a.src_scale != nullptr ? a.src_scale[head / (heads / a.num_src_scales)] : 1.0f;
    if (vectors) {
      for (int64_t d = lane * 8; d < padded; d += 256) {
        Chunk c{};
        if (d < dim) c = load_chunk(a.src.dtype, a.src.data, from + d);
#pragma unroll
        for (float& x : c.x) x *= scale;
        store_chunk(a.dst.dtype, a.dst.data, to + d, c);
      }
    } else {
      for (int64_t d = lane; d < padded; d += 32)
        store_float(a.dst.dtype, a.dst.data, to + d,
                    d < dim ? scale * load_float(a.src.dtype, a.src.data, from + d * a.src.stride[2]) : 0.0f);
    }
  }
}

}  // namespace

cudaError_t launch_merge_attn_states(const MergeAttnStatesArgs& args, cudaStream_t stream) {
  const auto tokens = static_cast<unsigned>(args.out.shape[0]);
  const bool vectors =
      is_vector_aligned(args.prefix_out) && is_vector_aligned(args.suffix_out) && is_vector_aligned(args.out);
  const DType dtype = args.out.dtype;
  if (vectors && (dtype == DType::kF16 || dtype == DType::kBF16) && args.prefix_out.dtype == dtype &&
      args.suffix_out.dtype == dtype) {
    int shift = 3;  // 8 tokens, a sector of LSEs, unless that leaves SMs idle
    while (shift > 0 && tokens >> shift < 1024) --shift;
    const unsigned blocks = (tokens + (1u << shift) - 1) >> shift;
    if (dtype == DType::kF16) {
      merge_halves<__half><<<blocks, kThreads, 0, stream>>>(args, shift);
    } else {
      merge_halves<__nv_bfloat16><<<blocks, kThreads, 0, stream>>>(args, shift);
    }
  } else if (vectors) {
    merge_states<true><<<tokens, kThreads, 0, stream>>>(args);
  } else {
    merge_states<false><<<tokens, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

cudaError_t launch_copy_pad(const CopyPadArgs& args, cudaStream_t stream) {
  const int64_t rows = args.src.shape[0] * args.src.shape[1];
  const bool vectors = is_vector_aligned(args.src) && is_vector_aligned(args.dst);
  const DType dtype = args.dst.dtype;
  if (vectors && args.src.dtype == dtype && (dtype == DType::kF16 || dtype == DType::kBF16) &&
      args.src_scale == nullptr) {
    int shift = 0;
    while (shift < 5 && int64_t{8} << shift < args.dst.shape[2]) ++shift;
    // With one load a thread until the device is full, then with several.
    constexpr int64_t kFull = int64_t{1} << 18;
    const int64_t threads = rows << shift;
    const int64_t wanted = threads <= kFull ? threads : std::max(kFull, threads / kMovesAhead);
    const int64_t halves_blocks = std::min<int64_t>((wanted + kThreads - 1) / kThreads, int64_t{1} << 20);
    if (rows < int64_t{1} << 30) {
      copy_halves<uint32_t>
          <<<static_cast<unsigned>(halves_blocks), kThreads, 0, stream>>>(args, shift, static_cast<uint32_t>(rows));
    } else {
      copy_halves<uint64_t>
          <<<static_cast<unsigned>(halves_blocks), kThreads, 0, stream>>>(args, shift, static_cast<uint64_t>(rows));
    }
    return cudaGetLastError();
  }
  const int64_t blocks = (rows + kWarps - 1) / kWarps;
  copy_pad<<<static_cast<unsigned>(blocks < 16384 ? blocks : 16384), kThreads, 0, stream>>>(args, vectors);
  return cudaGetLastError();
}

}  // namespace sextant::cuda
