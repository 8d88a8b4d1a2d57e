// What judging a random case computes: its data, and plain attention in double precision. Each step is a function of an
// index, written for clarity; launch.h runs it over a range, on the host's cores or as a kernel, where the memory is.
// Nothing here is shared with the kernels under test; tests/verify/random_judge_test.cpp checks it against the oracle.
#pragma once

#include <cmath>
#include <cstdint>

#include "sextant/kv_cache.h"

#if defined(__CUDACC__)
#define SEXTANT_STEP __host__ __device__ inline
#else
#define SEXTANT_STEP inline
#endif

namespace sextant::verify {

// ---------------------------------------------------------------------------------------------------
// Data: the value at (row, head, dim) is picked from a table of random numbers by a hash of the row's seed, so that
// memory can be filled in any order and a request keeps its data wherever it is put.

inline constexpr int32_t kTableSize = 4096;

// SplitMix64's finaliser (Steele et al., "Fast splittable pseudorandom number generators", 2014).
SEXTANT_STEP uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

SEXTANT_STEP int32_t table_index(uint64_t row_seed, int32_t head, int32_t dim) {
  const uint64_t four = mix(row_seed + (static_cast<uint64_t>(head) << 32 | static_cast<uint32_t>(dim / 4)));
  return static_cast<int32_t>(four >> (dim % 4 * 12)) & (kTableSize - 1);
}

// Numbers that a format holds exactly: their bits, and what they are worth. One table a scale.
struct ValueTable {
  const uint32_t* bits = nullptr;  // [num_tables][kTableSize]; with one set of bits for all: num_tables 1
  const float* values = nullptr;   // [num_values][kTableSize]
  int32_t num_bits = 1, num_values = 1;
  int32_t element_bytes = 4;
};

SEXTANT_STEP void put_bits(void* memory, int64_t element, uint32_t bits, int32_t element_bytes) {
  if (element_bytes == 1)
    static_cast<uint8_t*>(memory)[element] = static_cast<uint8_t>(bits);
  else if (element_bytes == 2)
    static_cast<uint16_t*>(memory)[element] = static_cast<uint16_t>(bits);
  else
    static_cast<uint32_t*>(memory)[element] = bits;
}

// Head h's table: heads divide evenly over the scales.
SEXTANT_STEP int32_t table_of_head(int32_t head, int32_t num_heads, int32_t num_tables) {
  return head / (num_heads / num_tables);
}

// A scale of each token and head: a power of two below `largest`, picked like the values. largest 0: none.
struct TokenScales {
  float largest = 0;
  uint64_t salt = 0;
  SEXTANT_STEP float of(uint64_t row_seed, int32_t head) const {
    float scale = largest;
    for (uint64_t halvings = mix(row_seed + salt + static_cast<uint64_t>(head)) % 4; halvings > 0; --halvings)
      scale /= 2;
    return scale;
  }
};

// Index: row * num_heads + head. Fills packed rows (queries, new keys) and their values as floats.
struct FillRows {
  ValueTable table;
  TokenScales scales;
  const uint64_t* row_seeds = nullptr;  // [rows]
  void* to = nullptr;                   // [rows, num_heads, dim] by strides; may be null
  int64_t row_stride = 0, head_stride = 0;
  float* values = nullptr;                        // [rows, num_heads, dim]; may be null
  int32_t num_heads = 1, dim = 0, first_dim = 0;  // dims first_dim.. of the hashed row

  SEXTANT_STEP void operator()(int64_t index) const {
    const int64_t row = index / num_heads;
    const auto head = static_cast<int32_t>(index % num_heads);
    const uint32_t* bits = table.bits + table_of_head(head, num_heads, table.num_bits) * kTableSize;
    const float* worth = table.values + table_of_head(head, num_heads, table.num_values) * kTableSize;
    const float scale = scales.largest > 0 ? scales.of(row_seeds[row], head) : 1.0F;
    for (int32_t d = 0; d < dim; ++d) {
      const int32_t at = table_index(row_seeds[row], head, first_dim + d);
      if (to != nullptr) put_bits(to, row * row_stride + head * head_stride + d, bits[at], table.element_bytes);
      if (values != nullptr) values[index * dim + d] = worth[at] * scale;
    }
  }
};

// Index: row * num_heads + head. Writes rows of keys or values where the addressing rule of the cache says.
struct FillCache {
  ValueTable table;
  const uint64_t* row_seeds = nullptr;  // [rows]
  const int64_t* slots = nullptr;       // [rows]; negative: not written
  void* to = nullptr;
  TokenScales scales;
  float* token_scales = nullptr;  // at scale_strides; may be null
  KvScaleStrides scale_strides;
  KvAddressing address;
  int32_t block_size = 1, num_heads = 1, dim = 0;

  SEXTANT_STEP void operator()(int64_t index) const {
    const int64_t row = index / num_heads, slot = slots[row];
    const auto head = static_cast<int32_t>(index % num_heads);
    if (slot < 0) return;
    if (token_scales != nullptr)
      token_scales[scale_strides.offset(slot / block_size, head, slot % block_size)] = scales.of(row_seeds[row], head);
    const uint32_t* bits = table.bits + table_of_head(head, num_heads, table.num_bits) * kTableSize;
    for (int32_t d = 0; d < dim; ++d)
      put_bits(to, address.offset(slot / block_size, head, slot % block_size, d),
               bits[table_index(row_seeds[row], head, d)], table.element_bytes);
  }
};

// Index: a run of kCompareBytes. Notes which runs of two memories differ.
inline constexpr int64_t kCompareBytes = 1024;
struct CompareBytes {
  const uint8_t* expected = nullptr;
  const uint8_t* got = nullptr;
  int64_t bytes = 0;
  uint8_t* differs = nullptr;  // [ceil(bytes / kCompareBytes)]

  SEXTANT_STEP void operator()(int64_t index) const {
    const int64_t begin = index * kCompareBytes;
    const int64_t end = begin + kCompareBytes < bytes ? begin + kCompareBytes : bytes;
    uint8_t any = 0;
    for (int64_t i = begin; i < end; ++i) any |= expected[i] ^ got[i];
    differs[index] = any != 0;
  }
};

// ---------------------------------------------------------------------------------------------------
// Plain attention of sampled rows. A row is one (token, query head).

struct SampledRow {
  int64_t token = 0;
  int64_t first_key_row = 0;  // of its request, in the packed values
  int32_t head = 0, kv_head = 0;
  int32_t begin = 0, end = 0;  // key positions that it sees
  int32_t context_len = 0;
};

// Keys of a row are taken in segments, so that one row of a million keys is work for many threads.
inline constexpr int32_t kSegmentKeys = 512;

struct AttendShared {
  const SampledRow* rows = nullptr;  // [num_rows]
  int64_t num_rows = 0;
  int32_t segments = 1;             // a row
  double* queries = nullptr;        // [num_rows, dim]: what is multiplied with keys
  double* scores = nullptr;         // [num_rows, segments * kSegmentKeys], then weights
  double* segment_max = nullptr;    // [num_rows, segments]
  double* segment_sum = nullptr;    // [num_rows, segments]
  double* segment_noise = nullptr;  // [num_rows, segments]
  double* row_max = nullptr;        // [num_rows]
  double* row_sum = nullptr;        // [num_rows]
  double* row_noise = nullptr;      // [num_rows]: largest root of the sum of (q k)^2, scaled
  double* row_score = nullptr;      // [num_rows]: largest |score|
  double* lse = nullptr;            // [num_rows]
  double* out = nullptr;            // [num_rows, dim_v]
  double* spread = nullptr;         // [num_rows, dim_v]: root of the sum of (p v)^2
  const float* q = nullptr;         // [T, num_heads, q_dim]
  const float* keys = nullptr;      // [key rows, num_kv_heads, dim]
  const float* values = nullptr;    // [key rows, num_kv_heads, value_stride]
  const float* sinks = nullptr;
  const float* alibi_slopes = nullptr;
  int32_t num_heads = 1, num_kv_heads = 1, dim = 0, dim_v = 0, value_stride = 0;
  double softmax_scale = 1, soft_cap = 0;

  SEXTANT_STEP int64_t score_at(int64_t row) const { return row * segments * kSegmentKeys; }
};

// Index: row * dim + d.
struct LoadQueries {
  AttendShared a;
  SEXTANT_STEP void operator()(int64_t index) const {
    const SampledRow& row = a.rows[index / a.dim];
    a.queries[index] = static_cast<double>(a.q[(row.token * a.num_heads + row.head) * a.dim + index % a.dim]);
  }
};

// Index: row * (rank + rope) + d. MLA: q_nope through W_UK of kv_b_proj, then q_pe (DeepSeek-V2, section 2.1).
struct AbsorbQueries {
  AttendShared a;
  const float* kv_b_proj = nullptr;  // [num_heads * (nope + v), rank]
  int32_t nope = 0, rope = 0, v = 0, rank = 0;
  SEXTANT_STEP void operator()(int64_t index) const {
    const SampledRow& row = a.rows[index / a.dim];
    const auto d = static_cast<int32_t>(index % a.dim);
    const float* q = a.q + (row.token * a.num_heads + row.head) * (nope + rope);
    if (d >= rank) {
      a.queries[index] = static_cast<double>(q[nope + d - rank]);
      return;
    }
    double sum = 0;
    for (int32_t n = 0; n < nope; ++n)
      sum += static_cast<double>(q[n]) *
             static_cast<double>(kv_b_proj[(static_cast<int64_t>(row.head) * (nope + v) + n) * rank + d]);
    a.queries[index] = sum;
  }
};

// Sum of q k, and of its squares.
struct DotSums {
  double sum = 0, squares = 0;
};
#if !defined(__CUDACC__)
DotSums dot_on_host(const double* q, const float* k, int32_t dim);
void add_on_host(double weight, const float* v, int32_t width, double* sum, double* squares);
#endif
SEXTANT_STEP DotSums dot(const double* q, const float* k, int32_t dim) {
#if defined(__CUDACC__)
  DotSums s;
  for (int32_t d = 0; d < dim; ++d) {
    const double product = q[d] * static_cast<double>(k[d]);
    s.sum += product;
    s.squares += product * product;
  }
  return s;
#else
  return dot_on_host(q, k, dim);
#endif
}

// Index: row * segments + segment.
struct Scores {
  AttendShared a;
  SEXTANT_STEP void operator()(int64_t index) const {
    const int64_t r = index / a.segments;
    const auto segment = static_cast<int32_t>(index % a.segments);
    const SampledRow& row = a.rows[r];
    const int32_t begin = row.begin + segment * kSegmentKeys;
    const int32_t end = begin + kSegmentKeys < row.end ? begin + kSegmentKeys : row.end;
    double most = -HUGE_VAL, noise = 0;
    for (int32_t key = begin; key < end; ++key) {
      const float* k = a.keys + ((row.first_key_row + key) * a.num_kv_heads + row.kv_head) * a.dim;
      const DotSums sums = dot(a.queries + r * a.dim, k, a.dim);
      double score = sums.sum * a.softmax_scale;
      if (a.soft_cap > 0) score = a.soft_cap * tanh(score / a.soft_cap);
      if (a.alibi_slopes != nullptr) score += static_cast<double>(a.alibi_slopes[row.head]) * (key - row.context_len);
      a.scores[a.score_at(r) + key - row.begin] = score;
      most = score > most ? score : most;
      noise = sums.squares > noise ? sums.squares : noise;
    }
    a.segment_max[index] = most;
    a.segment_noise[index] = noise;
  }
};

// Index: row.
struct RowMax {
  AttendShared a;
  SEXTANT_STEP void operator()(int64_t r) const {
    double most = -HUGE_VAL, noise = 0;
    for (int32_t s = 0; s < a.segments; ++s) {
      const double m = a.segment_max[r * a.segments + s], n = a.segment_noise[r * a.segments + s];
      most = m > most ? m : most;
      noise = n > noise ? n : noise;
    }
    a.row_max[r] = most;
    a.row_noise[r] = sqrt(noise) * a.softmax_scale;
  }
};

// Index: row * segments + segment. Scores become weights relative to the largest.
struct Weights {
  AttendShared a;
  SEXTANT_STEP void operator()(int64_t index) const {
    const int64_t r = index / a.segments;
    const SampledRow& row = a.rows[r];
    const int32_t begin = static_cast<int32_t>(index % a.segments) * kSegmentKeys;
    const int32_t end = begin + kSegmentKeys < row.end - row.begin ? begin + kSegmentKeys : row.end - row.begin;
    double sum = 0;
    for (int32_t i = begin; i < end; ++i) {
      double& weight = a.scores[a.score_at(r) + i];
      weight = exp(weight - a.row_max[r]);
      sum += weight;
    }
    a.segment_sum[index] = sum;
  }
};

// Index: row. A sink is one more term of the denominator.
struct RowSum {
  AttendShared a;
  SEXTANT_STEP void operator()(int64_t r) const {
    const SampledRow& row = a.rows[r];
    double sum = 0;
    for (int32_t s = 0; s < a.segments; ++s) sum += a.segment_sum[r * a.segments + s];
    const bool empty = row.end <= row.begin;
    if (a.sinks != nullptr) {
      const auto sink = static_cast<double>(a.sinks[row.head]);
      const double above = sink - a.row_max[r];  // a sink far above every score has no exponential
      a.lse[r] = empty ? sink : above > 0 ? sink + log1p(sum * exp(-above)) : a.row_max[r] + log(sum + exp(above));
      sum = empty ? 1 : sum + exp(sink - a.row_max[r]);
    } else {
      a.lse[r] = empty ? -HUGE_VAL : a.row_max[r] + log(sum);
      sum = empty ? 1 : sum;
    }
    a.row_sum[r] = sum;
  }
};

// Index: row * (dim_v / Width) + run of Width dims. dim_v is a multiple of Width.
template <int Width>
struct Outputs {
  AttendShared a;
  SEXTANT_STEP void operator()(int64_t index) const {
    const int64_t runs = a.dim_v / Width, r = index / runs;
    const SampledRow& row = a.rows[r];
    const int64_t first = index % runs * Width;
    const int64_t key_stride = static_cast<int64_t>(a.num_kv_heads) * a.value_stride;
    const float* v = a.values + (row.first_key_row + row.begin) * key_stride +
                     static_cast<int64_t>(row.kv_head) * a.value_stride + first;
    const double* weights = a.scores + a.score_at(r);
    double sum[Width] = {}, squares[Width] = {};
    for (int32_t i = 0; i < row.end - row.begin; ++i, v += key_stride) {
#if defined(__CUDACC__)
      for (int d = 0; d < Width; ++d) {
        const double term = weights[i] * static_cast<double>(v[d]);
        sum[d] += term;
        squares[d] += term * term;
      }
#else
      add_on_host(weights[i], v, Width, sum, squares);
#endif
    }
    for (int d = 0; d < Width; ++d) {
      a.out[r * a.dim_v + first + d] = sum[d] / a.row_sum[r];
      a.spread[r * a.dim_v + first + d] = sqrt(squares[d]) / a.row_sum[r];
    }
  }
};

// Index: row * v + d. MLA: the latent output through W_UV of kv_b_proj.
struct ProjectOutputs {
  AttendShared a;  // dim_v: the rank
  const float* kv_b_proj = nullptr;
  int32_t nope = 0, v = 0;
  double* out = nullptr;     // [num_rows, v]
  double* spread = nullptr;  // [num_rows, v]: of the latent's spread
  double* size = nullptr;    // [num_rows, v]: root of the sum of (w o)^2
  SEXTANT_STEP void operator()(int64_t index) const {
    const int64_t r = index / v, d = index % v;
    const float* w = kv_b_proj + (static_cast<int64_t>(a.rows[r].head) * (nope + v) + nope + d) * a.dim_v;
    double sum = 0, spreads = 0, sizes = 0;
    for (int32_t i = 0; i < a.dim_v; ++i) {
      const auto weight = static_cast<double>(w[i]);
      const double o = a.out[r * a.dim_v + i], s = a.spread[r * a.dim_v + i];
      sum += weight * o;
      sizes += weight * o * weight * o;
      spreads += weight * s * weight * s;
    }
    out[index] = sum;
    spread[index] = sqrt(spreads);
    size[index] = sqrt(sizes);
  }
};

}  // namespace sextant::verify
