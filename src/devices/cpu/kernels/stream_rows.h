// The products of decode, where a few query rows meet many keys and memory is the limit: K and V are multiplied as they
// lie in the cache, one pointer a token, without packing.
//
//   scores:  kRows rows x kLanes / kRows keys at once, a vector of partial sums each, folded by one reduce_lanes
//   output:  kRows rows x kChunks chunks of dims in registers while the keys of a tile pass by
//
// A chunk is 2 * kLanes elements. A stream policy S says how a chunk is loaded and multiplied; the order of its
// elements inside the two vectors is the policy's own (S::order undoes it when a row is written).
#pragma once

#include "devices/cpu/kernels/engine_fma.h"
#include "devices/cpu/kernels/prefetch.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

constexpr int64_t kStreamKeys = 64;  // keys a tile
constexpr int kChunk = 2 * kLanes;
constexpr int64_t kStepKeys = 4;  // keys of the output product between two steps of the prefetcher

enum class ChunkOrder { kNatural, kEvenOdd, kPairs, kCodes };
constexpr int64_t chunk_of(ChunkOrder order) { return order == ChunkOrder::kCodes ? 2 * kChunk : kChunk; }

// Where element i of a chunk of values ends up in the accumulators.
constexpr int64_t place_of(ChunkOrder order, int64_t i) {
  switch (order) {
    case ChunkOrder::kEvenOdd:
      return i % 2 * kLanes + i / 2;
    case ChunkOrder::kPairs:  // eight dims of a 128-bit lane: the first four in the first vector
      return i % 8 / 4 * kLanes + i / 8 * 4 + i % 4;
    case ChunkOrder::kCodes:  // 16 dims of a 128-bit lane: four in each of four vectors
      return i % 16 / 4 * kLanes + i / 16 * 4 + i % 4;
    default:
      return i;
  }
}

template <ChunkOrder kOrder>
inline void undo_order(const float* src, int64_t n, float* dst) {
  constexpr int64_t kSize = chunk_of(kOrder);
  for (int64_t d = 0; d < n; d += kSize)
#pragma GCC unroll 64
    for (int64_t i = 0; i < kSize; ++i) dst[d + i] = src[d + place_of(kOrder, i)];
}
// A row of n accumulators, whole chunks, in the order of dims: itself, or its copy.
inline const float* in_natural_order(ChunkOrder order, const float* row, int64_t n, float* copy) {
  switch (order) {
    case ChunkOrder::kNatural:
      return row;
    case ChunkOrder::kEvenOdd:
      undo_order<ChunkOrder::kEvenOdd>(row, n, copy);
      break;
    case ChunkOrder::kPairs:
      undo_order<ChunkOrder::kPairs>(row, n, copy);
      break;
    case ChunkOrder::kCodes:
      undo_order<ChunkOrder::kCodes>(row, n, copy);
      break;
  }
  return copy;
}

template <class S, DType T, int kRows>
void stream_scores(const char* const* keys, int64_t count, int64_t dim, const typename S::Elem* q, int64_t depth,
                   float* s, Prefetcher& ahead) {
  constexpr int kKeys = kLanes / kRows;
  for (int64_t j = 0; j < count; j += kKeys) {
    ahead.step();
    F32 sum[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) sum[i] = set1(0.0f);
    const auto step = [&](int64_t d, int64_t n) __attribute__((always_inline)) {
#pragma GCC unroll 16
      for (int i = 0; i < kKeys; ++i) {
        const auto key = S::template load_chunk<T>(keys[j + i] + d * kElementBytes<T>, n);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) sum[r * kKeys + i] = S::dot(key, q + r * depth + d, sum[r * kKeys + i]);
      }
    };
    int64_t d = 0;
    for (; d + kChunk <= dim; d += kChunk) step(d, kChunk);
    if (d + kLanes == dim)
      step(d, kLanes);  // head sizes 80 and 112: half a chunk without a mask
    else if (d < dim)
      step(d, dim - d);
    float totals[kLanes];
    store(totals, reduce_lanes(sum));
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
      __builtin_memcpy(s + r * kStreamKeys + j, totals + r * kKeys, kKeys * sizeof(float));
  }
}

// n: elements of the last chunk that exist.
template <class S, DType T, int kRows, int kChunks>
inline __attribute__((always_inline)) void stream_chunks(const char* const* values, int64_t count, int64_t d, int64_t n,
                                                         const typename S::Elem* p, float* o, int64_t o_stride,
                                                         Prefetcher& ahead) {
  F32 sum[kRows][2 * kChunks];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < 2 * kChunks; ++c) sum[r][c] = load(o + r * o_stride + d + c * kLanes);
  for (int64_t t = 0; t < count; t += S::kUnit) {
    if (t % kStepKeys == 0) ahead.step();
    typename S::Values v[2 * kChunks];
#pragma GCC unroll 4
    for (int c = 0; c < kChunks; ++c)
      S::template load_values<T>(values + t, (d + c * kChunk) * kElementBytes<T>, c + 1 < kChunks ? kChunk : n,
                                 v[2 * c], v[2 * c + 1]);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const auto weight = S::weight(p + r * kStreamKeys + t);
#pragma GCC unroll 8
      for (int c = 0; c < 2 * kChunks; ++c) sum[r][c] = S::weigh(weight, v[c], sum[r][c]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < 2 * kChunks; ++c) store(o + r * o_stride + d + c * kLanes, sum[r][c]);
}

// Chunks of dims whose sums fit the registers with so many rows.
constexpr int chunks_at_once(int rows) {
  return kLanes == 16 ? (rows == 4 ? 2 : 4) : (rows == 4 ? 1 : rows == 2 ? 2 : 4);
}

// Calls part<width>(first) for `count` things, at most kMost at a time and as evenly as that goes: few sums at a time
// would wait for each other.
template <int kMost, class Part>
inline void for_even_parts(int64_t count, const Part& part) {
  const auto call = [&]<int kWidth>(const auto& self, int64_t width, int64_t first) {
    if constexpr (kWidth > 1)
      if (width < kWidth) return self.template operator()<kWidth - 1>(self, width, first);
    part.template operator()<kWidth>(first);
  };
  for (int64_t parts = (count + kMost - 1) / kMost, done = 0; parts > 0; --parts) {
    const int64_t width = (count - done + parts - 1) / parts;
    call.template operator()<kMost>(call, width, done);
    done += width;
  }
}

template <class S, DType T, int kRows>
void stream_output(const char* const* values, int64_t count, int64_t dim, const typename S::Elem* p, float* o,
                   int64_t o_stride, Prefetcher& ahead) {
  for_even_parts<chunks_at_once(kRows)>((dim + kChunk - 1) / kChunk, [&]<int kChunks>(int64_t first) {
    const int64_t d = first * kChunk, last = d + (kChunks - 1) * kChunk;
    stream_chunks<S, T, kRows, kChunks>(values, count, d, smaller(dim - last, kChunk), p, o, o_stride, ahead);
  });
}

// Calls block<rows>(first row) over all rows, four, two or one at a time.
template <class Block>
inline void for_row_blocks(int64_t rows, const Block& block) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) block.template operator()<4>(r);
  if (r + 2 <= rows) {
    block.template operator()<2>(r);
    r += 2;
  }
  if (r < rows) block.template operator()<1>(r);
}

// How often the products below call the prefetcher.
inline int64_t score_steps(int64_t rows, int64_t count) {
  int64_t steps = 0;
  for_row_blocks(rows, [&]<int kRows>(int64_t) { steps += count * kRows / kLanes; });
  return steps;
}
inline int64_t output_steps(int64_t rows, int64_t count, int64_t dim) {
  int64_t steps = 0;
  for_row_blocks(rows, [&]<int kRows>(int64_t) {
    const int64_t width = chunks_at_once(kRows) * kChunk;
    steps += (dim + width - 1) / width * count / kStepKeys;
  });
  return steps;
}

// Products in fp32, from the types that a machine widens cheaply; fp8 arrives as bf16, which holds it exactly.
struct FmaStream {
  using Elem = float;
  using Values = F32;
  static constexpr int kUnit = 1;
  static constexpr int kExpDegree = 5;
  static constexpr int64_t kSoftmaxSteps = 3;  // of the prefetcher, as long as the softmax of a row takes
  static constexpr bool kReadsPanels = false;
  static constexpr bool kReadsTiles = false;
  static constexpr bool kReadsCodes = false;
  struct Chunk {
    F32 x, y;
  };
  static ChunkOrder order(DType keys) { return keys == DType::kBF16 ? ChunkOrder::kEvenOdd : ChunkOrder::kNatural; }

  // Queries in the order of the keys' chunks.
  template <DType T>
  static void pack_query(const void* src, int64_t n, int64_t padded, DType keys, float* dst) {
    const char* p = static_cast<const char*>(src);
    if (order(keys) == ChunkOrder::kNatural) {
      for (int64_t d = 0; d < padded; d += kLanes) store(dst + d, load_first<T>(p + d * kElementBytes<T>, n - d));
      return;
    }
    for (int64_t d = 0; d < padded; d += kChunk) {
      float chunk[kChunk];
      for (int64_t i = 0; i < kChunk; i += kLanes)
        store(chunk + i, load_first<T>(p + (d + i) * kElementBytes<T>, n - d - i));
#pragma GCC unroll 32
      for (int64_t i = 0; i < kChunk; ++i) dst[d + place_of(ChunkOrder::kEvenOdd, i)] = chunk[i];
    }
  }
  template <DType T>
  static Chunk load_chunk(const char* p, int64_t n) {
    Chunk c;
    load_two_first<T>(p, n, c.x, c.y);
    return c;
  }
  static F32 dot(Chunk k, const float* q, F32 sum) { return fmadd(k.y, load(q + kLanes), fmadd(k.x, load(q), sum)); }
  template <DType T>
  static void load_values(const char* const* rows, int64_t offset, int64_t n, F32& x, F32& y) {
    load_two_first<T>(rows[0] + offset, n, x, y);
  }
  static F32 weight(const float* p) { return set1(*p); }
  static F32 weigh(F32 weight, F32 v, F32 sum) { return fmadd(weight, v, sum); }
  static void store_p(float* p, int64_t j, F32 x) { store(p + j, x); }

  // Rows beyond four read the keys again, so few keys at a time that they still lie in the first-level cache.
  static int64_t keys_at_once(DType dtype, int64_t count, int64_t dim, int64_t rows) {
    const int64_t fitting = kBytesAtOnce / (dim * (dtype == DType::kF32 ? 4 : 2)) / kPanel * kPanel;
    return rows <= 4 ? count : smaller(count, larger(fitting, kPanel));
  }
  static constexpr int64_t kBytesAtOnce = 16 << 10;

  static void scores(DType dtype, const char* const* keys, int64_t count, int64_t dim, const float* q, int64_t depth,
                     int64_t rows, float* s, Prefetcher& ahead) {
    const int64_t step = keys_at_once(dtype, count, dim, rows);
    with_key_type(dtype, [&]<DType T>() {
      for (int64_t j = 0; j < count; j += step)
        for_row_blocks(rows, [&]<int kRows>(int64_t r) {
          stream_scores<FmaStream, T, kRows>(keys + j, smaller(step, count - j), dim, q + r * depth, depth,
                                             s + r * kStreamKeys + j, ahead);
        });
    });
  }
  static void output(DType dtype, const char* const* values, int64_t count, int64_t dim, const float* p, int64_t rows,
                     float* o, int64_t o_stride, Prefetcher& ahead) {
    const int64_t step = keys_at_once(dtype, count, dim, rows);
    with_key_type(dtype, [&]<DType T>() {
      for (int64_t j = 0; j < count; j += step)
        for_row_blocks(rows, [&]<int kRows>(int64_t r) {
          stream_output<FmaStream, T, kRows>(values + j, smaller(step, count - j), dim, p + r * kStreamKeys + j,
                                             o + r * o_stride, o_stride, ahead);
        });
    });
  }
  template <class F>
  static void with_key_type(DType dtype, const F& f) {
    if (dtype == DType::kBF16) return f.template operator()<DType::kBF16>();
    if (dtype == DType::kF16) return f.template operator()<DType::kF16>();
    f.template operator()<DType::kF32>();
  }
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
