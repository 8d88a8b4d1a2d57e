// Eight consecutive elements at a time, between types.
#pragma once

#include "devices/cuda/kernels/convert.cuh"

namespace sextant::cuda {

struct Chunk {
  float x[8];
};

__device__ __forceinline__ Chunk load_chunk(DType dtype, const void* data, int64_t index) {
  Chunk c;
  if (dtype == DType::kF32) {
    const float4* p = reinterpret_cast<const float4*>(static_cast<const float*>(data) + index);
    const float4 a = p[0], b = p[1];
    c = {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
  } else if (is_quantized(dtype)) {
    const uint2 raw = *reinterpret_cast<const uint2*>(static_cast<const uint8_t*>(data) + index);
#pragma unroll
    for (int i = 0; i < 8; ++i) c.x[i] = load_float(dtype, reinterpret_cast<const uint8_t*>(&raw), i);
  } else {
    const uint4 raw = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(data) + index);
#pragma unroll
    for (int i = 0; i < 8; ++i) c.x[i] = load_float(dtype, &raw, i);
  }
  return c;
}

__device__ __forceinline__ void store_chunk(DType dtype, void* data, int64_t index, const Chunk& c) {
  if (dtype == DType::kF32) {
    float4* p = reinterpret_cast<float4*>(static_cast<float*>(data) + index);
    p[0] = make_float4(c.x[0], c.x[1], c.x[2], c.x[3]);
    p[1] = make_float4(c.x[4], c.x[5], c.x[6], c.x[7]);
  } else if (is_quantized(dtype)) {
    uint2 raw;
#pragma unroll
    for (int i = 0; i < 8; ++i) store_float(dtype, reinterpret_cast<uint8_t*>(&raw), i, c.x[i]);
    *reinterpret_cast<uint2*>(static_cast<uint8_t*>(data) + index) = raw;
  } else {
    uint4 raw;
#pragma unroll
    for (int i = 0; i < 8; ++i) store_float(dtype, &raw, i, c.x[i]);
    *reinterpret_cast<uint4*>(static_cast<uint16_t*>(data) + index) = raw;
  }
}

// Moves a chunk whose type stays the same: 16 bytes of a 16-bit type.
__device__ __forceinline__ void move_chunk_16bit(void* to, int64_t to_index, const void* from, int64_t from_index) {
  *reinterpret_cast<uint4*>(static_cast<uint16_t*>(to) + to_index) =
      *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(from) + from_index);
}

__device__ __forceinline__ int64_t cache_row(const KvAddressing& a, int64_t block, int32_t head, int32_t token) {
  return block * a.block_stride + head * a.head_stride + (token / a.token_tile) * a.token_outer_stride +
         (token % a.token_tile) * a.token_inner_stride;
}
__device__ __forceinline__ int64_t cache_dim(const KvAddressing& a, int32_t dim) {
  return (dim / a.dim_tile) * a.dim_outer_stride + (dim % a.dim_tile) * a.dim_inner_stride;
}

// Last entry of `starts` that is not after `x`, by a whole warp.
__device__ __forceinline__ int find_start_index(const int32_t* starts, int count, int32_t x) {
  const int lane = threadIdx.x & 31;
  int begin = 0;
  while (count > 1) {
    const int step = (count + 31) / 32;
    const bool not_after = lane * step < count && __ldg(starts + begin + lane * step) <= x;
    const int last = 31 - __clz(__ballot_sync(0xffffffffu, not_after) | 1u);
    count = min(step, count - last * step);
    begin += last * step;
  }
  return begin;
}

}  // namespace sextant::cuda
