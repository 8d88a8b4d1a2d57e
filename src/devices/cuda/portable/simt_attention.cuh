// Attention by scalar FMA, for what the tensor-core kernels do not take: fp32, and head sizes or latent widths outside
// their tiles. Any addressing rule, any cache type, every feature.
//
//   block = 16 query rows (queries x heads of one KV head) x 4 warps; a warp owns 4 rows, a lane one key of 32.
//   scores:  K tile [32][D + 1] in shared memory, so that lanes (keys) fall on different banks; Q^T [D][16] broadcast
//   output:  a lane owns dims lane, lane + 32, ...; P^T [32][4] broadcast
#pragma once

#include "devices/cuda/kernels/softmax.cuh"

namespace sextant::cuda {

constexpr int kSimtRows = 16, kSimtKeys = 32, kSimtThreads = 128;

inline size_t simt_shared_bytes(const AttentionParams& p) {
  const size_t q = static_cast<size_t>(p.head_dim) * kSimtRows, k = static_cast<size_t>(kSimtKeys) * (p.head_dim + 1);
  const size_t v = p.values_in_keys ? 0 : static_cast<size_t>(kSimtKeys) * p.head_dim_v;
  return (q + k + v + 4 * kSimtKeys * 4) * sizeof(float);
}

// One token's keys or values as floats, dims spread over the lanes of a warp.
__device__ __forceinline__ void simt_load_row(const AttentionParams& p, const Request& r, int32_t kv_head,
                                              int32_t position, bool values, float* row) {
  const int lane = threadIdx.x & 31;
  const int dim = values ? p.head_dim_v : p.head_dim;
  if (position >= r.key_hi) {
    for (int d = lane; d < dim; d += 32) row[d] = 0.0f;
  } else if (is_packed(p, r, position)) {
    const int64_t token = static_cast<int64_t>(r.packed_start) + position - r.first_packed;
    const int64_t base = values ? token * p.packed_v_token_stride + kv_head * p.packed_v_head_stride
                                : token * p.packed_k_token_stride + kv_head * p.packed_k_head_stride;
    for (int d = lane; d < dim; d += 32) row[d] = load_float(p.dtype, values ? p.packed_v : p.packed_k, base + d);
  } else {
    const BlockOffset at = split_position(p, position);
    const int64_t block = clamp_block(p, __ldg(p.block_table + r.index * p.block_table_stride + at.block));
    const KvAddressing& rule = values ? p.v_addr : p.k_addr;
    const int64_t base = token_offset(rule, block, kv_head, at.offset);
    const float* tokens = values ? p.v_token_scales : p.k_token_scales;
    const float scale = tokens != nullptr ? __ldg(tokens + p.scale_strides.offset(block, kv_head, at.offset))
                        : values          ? value_scale(p, kv_head)
                                          : key_scale(p, kv_head);
    for (int d = lane; d < dim; d += 32)
      row[d] = load_float(p.cache_dtype, values ? p.cache_v : p.cache_k, base + dim_offset(rule, d)) * scale;
  }
}

using gpu::SeenKeys;

// What a query at `position` sees of a partition's keys. Its span is looked at where it is a `token` of the batch.
__device__ __forceinline__ SeenKeys seen_keys(const AttentionParams& p, const Partition& part, int32_t position,
                                              int64_t token) {
  const int32_t* span = p.token_spans != nullptr && token >= 0 ? p.token_spans + 2 * token : nullptr;
  return gpu::seen_keys(p.own, span, position, part.begin, part.end);
}

// kDims: head_dim_v <= 32 * kDims.
template <class T, int kDims>
__global__ void __launch_bounds__(kSimtThreads) simt_attention(const AttentionParams p) {
  extern __shared__ float shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  const int tile = gridDim.x - 1 - blockIdx.x, kv_head = blockIdx.y;
  const Request r = load_request(p, find_request(p, tile, kSimtRows));
  const int first_tile = static_cast<int>(static_cast<int64_t>(r.query_start) * p.group_size / kSimtRows) + r.index;
  const int row0 = (tile - first_tile) * kSimtRows, num_rows = r.query_len * p.group_size;
  if (!r.active || row0 >= num_rows) return;
  const Partition part = find_partition(p, r, blockIdx.z);
  if (static_cast<int>(blockIdx.z) >= part.count) return;

  float* q_shared = shared;                             // [D][16]
  float* k_shared = q_shared + p.head_dim * kSimtRows;  // [32][D + 1]
  const int k_stride = p.head_dim + 1;
  float* v_shared = p.values_in_keys ? k_shared : k_shared + kSimtKeys * k_stride;  // [32][v_stride]
  const int v_stride = p.values_in_keys ? k_stride : p.head_dim_v;
  float* p_shared =
      k_shared + kSimtKeys * k_stride + (p.values_in_keys ? 0 : kSimtKeys * p.head_dim_v) + warp * kSimtKeys * 4;

  for (int i = threadIdx.x; i < kSimtRows * p.head_dim; i += kSimtThreads) {
    const int row = i / p.head_dim, d = i % p.head_dim;
    float x = 0;
    if (row0 + row < num_rows) {
      const int64_t token = r.query_start + (row0 + row) / p.group_size;
      const int head = kv_head * p.group_size + (row0 + row) % p.group_size;
      x = to_float(static_cast<const T*>(p.q)[token * p.q_token_stride + head * p.q_head_stride + d]);
    }
    q_shared[d * kSimtRows + row] = x;
  }

  float acc[4][kDims] = {}, row_max[4], row_sum[4] = {}, slope[4];
  SeenKeys seen[4];
  for (int i = 0; i < 4; ++i) {
    const int row = row0 + warp * 4 + i, query = row / p.group_size;
    row_max[i] = -INFINITY;
    seen[i] = seen_keys(p, part, r.context_len + query, row < num_rows ? int64_t{r.query_start} + query : -1);
    slope[i] =
        p.alibi_slopes && row < num_rows ? p.alibi_slopes[kv_head * p.group_size + row % p.group_size] * kLog2E : 0.0f;
  }
  const ScoreRule rule = make_score_rule(p, 1.0f);
  // Of the first row and of the last.
  const int32_t first_query = row0 / p.group_size, last_query = (min(row0 + kSimtRows, num_rows) - 1) / p.group_size;
  const int32_t begin = seen_keys(p, part, r.context_len + first_query, int64_t{r.query_start} + first_query).first;
  const int32_t end = seen_keys(p, part, r.context_len + last_query, int64_t{r.query_start} + last_query).end;

  for (int32_t key0 = begin; key0 < end; key0 += kSimtKeys) {
    __syncthreads();
    for (int i = warp; i < kSimtKeys; i += 4) {
      simt_load_row(p, r, kv_head, key0 + i, false, k_shared + i * k_stride);
      if (!p.values_in_keys) simt_load_row(p, r, kv_head, key0 + i, true, v_shared + i * v_stride);
    }
    __syncthreads();
    float s[4] = {};
    const float* k_row = k_shared + lane * k_stride;
    for (int d = 0; d < p.head_dim; ++d) {
      const float4 q = *reinterpret_cast<const float4*>(q_shared + d * kSimtRows + warp * 4);
      const float k = k_row[d];
      s[0] += q.x * k;
      s[1] += q.y * k;
      s[2] += q.z * k;
      s[3] += q.w * k;
    }
    const int32_t position = key0 + lane;
    float probability[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[i] = score_log2<true>(rule, s[i]) + slope[i] * static_cast<float>(position - r.context_len);
      if (position < seen[i].first || position >= seen[i].end) s[i] = -INFINITY;
      float top = s[i];
#pragma unroll
      for (int offset = 16; offset > 0; offset /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
      const float next = fmaxf(row_max[i], top);
      const float base = next == -INFINITY ? 0.0f : next;
      const float rescale = exp2f(row_max[i] - base);
      probability[i] = exp2f(s[i] - base);
      float total = probability[i];
#pragma unroll
      for (int offset = 16; offset > 0; offset /= 2) total += __shfl_xor_sync(0xffffffffu, total, offset);
      row_sum[i] = row_sum[i] * rescale + total;
      row_max[i] = next;
#pragma unroll
      for (int j = 0; j < kDims; ++j) acc[i][j] *= rescale;
    }
    __syncwarp();
    *reinterpret_cast<float4*>(p_shared + lane * 4) =
        make_float4(probability[0], probability[1], probability[2], probability[3]);
    __syncwarp();
    for (int key = 0; key < kSimtKeys; ++key) {
      const float4 w = *reinterpret_cast<const float4*>(p_shared + key * 4);
#pragma unroll
      for (int j = 0; j < kDims; ++j) {
        const int d = lane + 32 * j;
        const float v = d < p.head_dim_v ? v_shared[key * v_stride + d] : 0.0f;
        acc[0][j] += w.x * v;
        acc[1][j] += w.y * v;
        acc[2][j] += w.z * v;
        acc[3][j] += w.w * v;
      }
    }
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = row0 + warp * 4 + i;
    if (row >= num_rows) break;
    const int32_t query = row / p.group_size, head = kv_head * p.group_size + row % p.group_size;
    float weight;
    const RowSink<T> sink =
        end_row<T>(p, r, part, blockIdx.z, query, head, row_max[i], row_sum[i], 1.0f, lane == 0, &weight);
#pragma unroll
    for (int j = 0; j < kDims; ++j)
      if (lane + 32 * j < p.head_dim_v) sink.store(lane + 32 * j, acc[i][j] * weight);
  }
}

}  // namespace sextant::cuda
