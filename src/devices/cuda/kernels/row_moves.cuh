// Moving rows between token tensors and the cache, many bytes in flight: what one thread moves at a time, and the loop
// over a block's rows. Loads of a batch all come before its stores: the compiler must assume that the tensors overlap.
#pragma once

#include "devices/cuda/kernels/chunks.cuh"
#include "devices/cuda/kernels/ptx.cuh"

namespace sextant::cuda {

// 16-bit types, unchanged.
struct MoveHalves {
  static constexpr int kElements = 8;
  struct Loaded {
    uint4 x;
  };
  static __device__ __forceinline__ Loaded load(const void* from, int64_t index) {
    return {*reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(from) + index)};
  }
  static __device__ __forceinline__ void store(void* to, int64_t index, const Loaded& l, float) {
    *reinterpret_cast<uint4*>(static_cast<uint16_t*>(to) + index) = l.x;
  }
};

template <class T>
__device__ __forceinline__ float2 unpack_pair(uint32_t pair) {
  const T* x = reinterpret_cast<const T*>(&pair);
  return make_float2(to_float(x[0]), to_float(x[1]));
}

// T to fp8, divided by the scale.
template <class T, __nv_fp8_interpretation_t kFormat>
struct MoveToFp8 {
  static constexpr int kElements = 16;
  struct Loaded {
    uint4 x, y;
  };
  static __device__ __forceinline__ Loaded load(const void* from, int64_t index) {
    const uint4* p = reinterpret_cast<const uint4*>(static_cast<const T*>(from) + index);
    return {p[0], p[1]};
  }
  static __device__ __forceinline__ void store(void* to, int64_t index, const Loaded& l, float scale) {
    // The quotient by a power of two is the product with its inverse, to the bit.
    const uint32_t bits = __float_as_uint(scale), exponent = bits >> 23;
    const bool exact = (bits & 0x7fffff) == 0 && exponent >= 1 && exponent <= 253;
    const float inverse = __uint_as_float((254 - exponent) << 23);
    const uint32_t words[8] = {l.x.x, l.x.y, l.x.z, l.x.w, l.y.x, l.y.y, l.y.z, l.y.w};
    uint32_t out[4] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float2 v = unpack_pair<T>(words[i]);
      v = exact ? make_float2(v.x * inverse, v.y * inverse) : make_float2(v.x / scale, v.y / scale);
      out[i / 2] |= static_cast<uint32_t>(__nv_cvt_float2_to_fp8x2(v, __NV_SATFINITE, kFormat)) << (i % 2 * 16);
    }
    *reinterpret_cast<uint4*>(static_cast<uint8_t*>(to) + index) = make_uint4(out[0], out[1], out[2], out[3]);
  }
};

// fp8 to T, times the scale.
template <class T, __nv_fp8_interpretation_t kFormat>
struct MoveFromFp8 {
  static constexpr int kElements = 16;
  struct Loaded {
    uint4 x;
  };
  static __device__ __forceinline__ Loaded load(const void* from, int64_t index) {
    return {*reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(from) + index)};
  }
  static __device__ __forceinline__ void store(void* to, int64_t index, const Loaded& l, float scale) {
    const uint32_t words[4] = {l.x.x, l.x.y, l.x.z, l.x.w};
    uint32_t out[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t pair = words[i / 2] >> (i % 2 * 16) & 0xffff;
      const float2 v = unpack_pair<__half>(kFormat == __NV_E4M3 ? e4m3_pair_to_f16(pair) : e5m2_pair_to_f16(pair));
      out[i] = pack_pair<T>(v.x * scale, v.y * scale);
    }
    uint4* p = reinterpret_cast<uint4*>(static_cast<T*>(to) + index);
    p[0] = make_uint4(out[0], out[1], out[2], out[3]);
    p[1] = make_uint4(out[4], out[5], out[6], out[7]);
  }
};

// Moves one item (some elements of one head) of rows first, first + step, .. of `rows`; from_of and to_of give the
// element where the item of a row begins, to_of(row) < 0: the row is skipped.
template <class Move, class FromOf, class ToOf>
__device__ __forceinline__ void move_item(const void* from, void* to, int first, int rows, int step, float scale,
                                          FromOf from_of, ToOf to_of) {
  constexpr int kBatch = 4;
  for (int row0 = first; row0 < rows; row0 += kBatch * step) {
    typename Move::Loaded x[kBatch];
    int64_t target[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int row = row0 + i * step;
      target[i] = row < rows ? to_of(row) : -1;
      if (target[i] >= 0) x[i] = Move::load(from, from_of(row));
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      if (target[i] >= 0) Move::store(to, target[i], x[i], scale);
  }
}

// The threads of a block over rows x items: a thread stays with its item, so that what depends on it is worked out
// once. `step`: rows that a block moves at a time, 0 for threads left over.
struct ItemThread {
  int item, row, step;
};
__device__ __forceinline__ ItemThread find_item(int items) {
  const int step = max(1, static_cast<int>(blockDim.x) / items), row = static_cast<int>(threadIdx.x) / items;
  if (static_cast<int>(blockDim.x) < items) return {static_cast<int>(threadIdx.x), 0, 1};
  return {static_cast<int>(threadIdx.x) - row * items, row, row < step ? step : 0};
}
// Threads for rows of so many items: as many whole rows as fit in 256, or 256.
inline int threads_for(int64_t items) {
  if (items >= 256) return 256;
  return static_cast<int>((256 / items * items + 31) / 32 * 32);
}

}  // namespace sextant::cuda
