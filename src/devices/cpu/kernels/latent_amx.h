// Latent decode (MLA) on AMX, from a cache of plain rows: one tensor holds K, and V is its first columns.
//
//   S^T = K Q^T     K is the first operand of a tile product, which wants rows as they lie: nothing is copied or packed
//   softmax         a row of the batch is a lane, so maxima and sums need no folding;  S^T -> P by transposition
//   O += P V        V is the second operand, which wants pairs of tokens side by side. Many rows: one shuffle a vector,
//                   32 columns at a time, so that the pairs are used from the first-level cache. Up to 16 rows: the
//                   unit takes a row's neighbouring columns for the pair, and weights (p, 0) and (0, p) give the sums
//                   of even and of odd columns. Half of what is multiplied is zero, but the rows are used as they lie.
//
// One copy of the latent cannot be both operands as it lies. The packed layout of MHA would spare the pairs and cost a
// transposition of K, four shuffles a vector; pairs of tokens would spare the shuffle and cost K a product with half of
// its operand zero. So the cache keeps its rows, and every device reads the same.
//
// A lane's arithmetic depends on its own row and on absolute positions alone.
#pragma once

#include "devices/cpu/kernels/attention_kernel.h"
#include "devices/cpu/kernels/prefetch.h"
#include "devices/cpu/kernels/softmax_amx.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

template <class E>
class LatentTiles {
  using Run = AttentionRun<E>;

 public:
  // Keys [from, to) of the run's current source, its only one.
  LatentTiles(Run& run, int64_t from, int64_t to)
      : run_(run), it_(run.it), m_(run.m), source_(*run.source), from_(from), to_(to), p_(m_.v[1]) {
    few_rows_ = run_.rows <= kPanel && m_.dv_padded >= 64;  // their weights fill 64 rows of the buffer
    in_place_ = source_.dtype == DType::kBF16 && source_.block_size % kPanel == 0 && it_.head_dim == m_.depth;
    weight_rows_ = m_.dv_padded;  // rows of P that fit a buffer of V
  }

  void attend() {
    turn_queries();
    run_.clear_output(0, m_.rows_padded);
    run_.blocks_with_output = ~uint64_t{0};
    for (int64_t r = run_.rows; r < m_.rows_padded; ++r) {  // lanes of padding see nothing
      m_.lo[r] = m_.hi[r] = 0;
      m_.row_max[r] = kNegInf;
      m_.row_sum[r] = 0.0f;
    }
    int64_t begin = from_ / it_.tile_keys * it_.tile_keys;
    locate(begin, rows_[0]);
    for (int current = 0; begin < to_; begin += it_.tile_keys, current ^= 1) {
      ahead_.finish();
      fetch(begin + it_.tile_keys, rows_[current ^ 1]);
      run_.tile_begin = begin;
      run_.set_range(from_, to_);
      const auto c = run_.visible_columns(0, run_.rows);
      if (c.from >= c.to) continue;
      column_ = c.from / kBlockKeys * kBlockKeys;
      last_column_ = round_up(c.to, kBlockKeys);
      bind_rows(rows_[current]);
      if (few_rows_)
        tile_of_few_rows();
      else
        for (int64_t r = 0; r < run_.rows; r += weight_rows_) tile_of_rows(r, smaller(r + weight_rows_, run_.rows));
    }
    if (few_rows_) join_columns();
  }

 private:
  static constexpr int64_t kMaxTileKeys = 256;
  static constexpr int64_t kBlockKeys = 64;  // of the score product, at most
  static constexpr int64_t kScoreRows = 32;  // lanes of S^T at once
  // Of the prefetcher:
  static constexpr int64_t kPairsAStep = 16;   // pairs of tokens between two steps
  static constexpr int64_t kSoftmaxSteps = 1;  // as long as softmax_apart takes for 32 keys

  // Queries lie in tiles of 16 rows x 32 dims; the second operand wants pairs of dims by rows.
  void turn_queries() {
    for (int64_t i = 0; i < m_.rows_padded * m_.depth; i += kTileElements) {
      __m512i r[16];
      for (int j = 0; j < 16; ++j) r[j] = _mm512_loadu_si512(m_.q + i + j * 32);
      transpose(r);
      for (int j = 0; j < 16; ++j) _mm512_storeu_si512(m_.q + i + j * 32, r[j]);
    }
  }

  // ---- keys ----

  // rows[i]: position begin + i; zeros where nothing of the item lies.
  void locate(int64_t begin, const char** rows) const {
    const int64_t lo = smaller(larger(from_ - begin, 0), it_.tile_keys),
                  hi = larger(lo, smaller(to_ - begin, it_.tile_keys));
    for (int64_t i = 0; i < lo; ++i) rows[i] = m_.zeros;
    for (int64_t i = hi; i < it_.tile_keys; ++i) rows[i] = m_.zeros;
    const KeyTensor k = {static_cast<const char*>(source_.k), &source_.k_addr, source_.k_row_stride, it_.head_dim};
    locate_rows(source_, k, begin, lo, hi, rows);
  }

  // The next tile comes into the second-level cache while this one is at work.
  void fetch(int64_t begin, const char** rows) {
    ahead_ = {};
    if (begin >= to_) return;
    locate(begin, rows);
    const int64_t tile = it_.tile_keys, count = smaller(tile, to_ - begin), dim = it_.head_dim,
                  bytes = element_bytes(source_.dtype);
    const int64_t stretch = source_.block_size % kPanel == 0 && rows[1] - rows[0] == dim * bytes ? kPanel : 1;
    if (stretch > 1)
      for (int64_t i = 0; i < count; i += stretch) stretches_[i / stretch] = rows[i];
    const char* const* first = stretch > 1 ? stretches_ : rows;
    const int64_t stretches = (count + stretch - 1) / stretch, half = stretches / 2;
    ahead_.add(first, half, 0, stretch * dim * bytes, 0, 1);
    ahead_.add(first + half, stretches - half, 0, stretch * dim * bytes, 0, 1);
    const int64_t groups = (run_.rows + kScoreRows - 1) / kScoreRows;
    ahead_.start(few_rows_ ? tile / 64 * (m_.depth / 32 + m_.dv_padded / kPanel) + tile / 32 * kSoftmaxSteps
                           : groups * tile / 32 * (m_.depth + m_.dv_padded) / 32 +
                                 m_.dv_padded / 32 * tile / (2 * kPairsAStep));
  }

  // Sixteen keys as a tile is loaded: row i at first + i * stride bytes.
  struct KeyGroup {
    const char* first;
    int64_t stride;
  };

  // Rows as both products want them: in place, or brought into rows of bf16, padded with zeros.
  void bind_rows(const char** rows) {
    token_ = rows;
    char* staging = reinterpret_cast<char*>(m_.k);
    for (int64_t j = column_; j < last_column_; j += kPanel) {
      const int64_t position = run_.tile_begin + j;
      if (in_place_ && position >= run_.begin && position + kPanel <= run_.end) {
        group_[j / kPanel] = {rows[j], rows[j + 1] - rows[j]};
        continue;
      }
      group_[j / kPanel] = {staging + j * m_.depth * 2, m_.depth * 2};
      for (int64_t i = j; i < j + kPanel; ++i) {
        char* row = staging + i * m_.depth * 2;
        const bool visible = run_.tile_begin + i >= run_.begin && run_.tile_begin + i < run_.end;
        copy_row(visible ? rows[i] : nullptr, reinterpret_cast<uint16_t*>(row));
        rows[i] = row;
      }
    }
  }
  void copy_row(const char* src, uint16_t* dst) const {
    if (src == nullptr) {
      __builtin_memset(dst, 0, static_cast<size_t>(m_.depth) * 2);
      return;
    }
    dispatch_dtype(source_.dtype, [&]<DType T>() {
      if constexpr (kElementBytes<T> == 1) {
        widen_codes_row(T, src, it_.head_dim, dst);
        __builtin_memset(dst + it_.head_dim, 0, static_cast<size_t>(m_.depth - it_.head_dim) * 2);
      } else {
        E::template pack_row<T>(src, it_.head_dim, m_.depth, dst);
      }
    });
  }

  // ---- products ----

  void tile_of_rows(int64_t r0, int64_t r1) {
    for (int64_t r = r0; r < r1; r += kScoreRows) {
      for (int64_t j = column_; j < last_column_; j += 32) scores_of_32_keys(j, r);
      shape_and_mask(r, smaller(r + kScoreRows, r1));
      for (int64_t i = r; i < smaller(r + kScoreRows, r1); i += kPanel) softmax(i, m_.s[0] + i - r, i - r0);
    }
    for (int64_t d = 0; d < m_.dv_padded; d += 32) {
      pair_tokens(d);
      for (int64_t r = r0; r < r1; r += kScoreRows) output_of_32_rows(r, r - r0, d);
    }
  }
  void tile_of_few_rows() {
    for (int64_t j = column_; j < last_column_; j += 64) scores_of_64_keys(j);
    shape_and_mask(0, run_.rows);
    softmax_apart();
    for (int64_t d = 0; d < m_.dv_padded; d += 64) output_in_place(d, smaller(m_.dv_padded - d, 64) / 32);
  }

  // S^T [32 keys, 32 rows]: tiles 0-3 accumulate, 4-5 hold keys, 6-7 queries.
  void scores_of_32_keys(int64_t column, int64_t row) {
    const KeyGroup a = group_[column / kPanel], b = group_[column / kPanel + 1];
    const uint16_t *q = m_.q + row * m_.depth, *q2 = q + kPanel * m_.depth;
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    const int64_t depth = m_.depth;
    for (int64_t d = 0; d < depth; d += 32) {
      ahead_.step();
      tile_load<6>(q + d * kPanel, 64);
      tile_load_once<4>(a.first + d * 2, a.stride);
      tile_dot<0, 4, 6>();
      tile_load<7>(q2 + d * kPanel, 64);
      tile_dot<1, 4, 7>();
      tile_load_once<5>(b.first + d * 2, b.stride);
      tile_dot<2, 5, 6>();
      tile_dot<3, 5, 7>();
    }
    float* s = m_.s[0] + column * kScoreRows;
    constexpr int64_t kStride = kScoreRows * 4;
    tile_store<0>(s, kStride);
    tile_store<1>(s + kPanel, kStride);
    tile_store<2>(s + kPanel * kScoreRows, kStride);
    tile_store<3>(s + kPanel * kScoreRows + kPanel, kStride);
  }

  // S^T [64 keys, 16 rows].
  void scores_of_64_keys(int64_t column) {
    const KeyGroup k[4] = {group_[column / kPanel], group_[column / kPanel + 1], group_[column / kPanel + 2],
                           group_[column / kPanel + 3]};
    const int64_t depth = m_.depth;
    const uint16_t* q = m_.q;
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    for (int64_t d = 0; d < depth; d += 32) {
      ahead_.step();
      tile_load<6>(q + d * kPanel, 64);
      tile_load_once<4>(k[0].first + d * 2, k[0].stride);
      tile_dot<0, 4, 6>();
      tile_load_once<5>(k[1].first + d * 2, k[1].stride);
      tile_dot<1, 5, 6>();
      tile_load_once<4>(k[2].first + d * 2, k[2].stride);
      tile_dot<2, 4, 6>();
      tile_load_once<5>(k[3].first + d * 2, k[3].stride);
      tile_dot<3, 5, 6>();
    }
    float* s = m_.s[0] + column * kScoreRows;
    constexpr int64_t kStride = kScoreRows * 4, kNext = kPanel * kScoreRows;
    tile_store<0>(s, kStride);
    tile_store<1>(s + kNext, kStride);
    tile_store<2>(s + 2 * kNext, kStride);
    tile_store<3>(s + 3 * kNext, kStride);
  }

  // Columns d .. d + 32 of V as [2][token / 2][16][2].
  void pair_tokens(int64_t d) {
    alignas(64) static constexpr uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_load_si512(kLow), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    const int64_t panel_stride = m_.v_tokens * kPanel, first = column_, last = last_column_;
    const char* const* rows = token_;
    uint16_t* dst = m_.v[0];
    const int64_t left = it_.head_dim - d;
    const __mmask32 mask = left >= 32 ? ~0u : (1u << left) - 1u;  // of the columns that a row has
    for (int64_t t = first; t < last; t += 2 * kPairsAStep) {
      ahead_.step();
#pragma GCC unroll 4
      for (int64_t i = t; i < t + 2 * kPairsAStep; i += 2) {
        const __m512i x = _mm512_maskz_loadu_epi16(mask, rows[i] + 2 * d),
                      y = _mm512_maskz_loadu_epi16(mask, rows[i + 1] + 2 * d);
        _mm512_storeu_si512(dst + i * kPanel, _mm512_permutex2var_epi16(x, low, y));
        _mm512_storeu_si512(dst + i * kPanel + panel_stride, _mm512_permutex2var_epi16(x, high, y));
      }
    }
  }

  const uint16_t* weights(int64_t p_row, int64_t column) const {
    return p_ + p_row * it_.tile_keys + column / 32 * kTileElements;
  }

  // O [32 rows, 32 columns]: tiles 4-5 hold weights, 6-7 values.
  void output_of_32_rows(int64_t row, int64_t p_row, int64_t d) {
    const int64_t bytes = m_.o_stride * 4;
    float *o = m_.o + row * m_.o_stride + d, *o2 = o + kPanel * m_.o_stride;
    const uint16_t *p = weights(p_row, column_), *p2 = weights(p_row + kPanel, column_);
    const uint16_t *v = m_.v[0] + column_ * kPanel, *v2 = v + m_.v_tokens * kPanel;
    tile_load<0>(o, bytes);
    tile_load<1>(o + kPanel, bytes);
    tile_load<2>(o2, bytes);
    tile_load<3>(o2 + kPanel, bytes);
    const int64_t tokens = last_column_ - column_;
    for (int64_t t = 0; t < tokens; t += 32) {
      ahead_.step();
      tile_load<6>(v + t * kPanel, 64);
      tile_load_once<4>(p + t * kPanel, 64);
      tile_dot<0, 4, 6>();
      tile_load<7>(v2 + t * kPanel, 64);
      tile_dot<1, 4, 7>();
      tile_load_once<5>(p2 + t * kPanel, 64);
      tile_dot<2, 5, 6>();
      tile_dot<3, 5, 7>();
    }
    tile_store<0>(o, bytes);
    tile_store<1>(o + kPanel, bytes);
    tile_store<2>(o2, bytes);
    tile_store<3>(o2 + kPanel, bytes);
  }

  // O [16 rows, 64 columns], or 32 of a last half chunk: tiles 4 and 5 hold weights (p, 0) and (0, p), 6 and 7 the
  // values of 16 tokens as they lie. Of 32 columns the even ones go to the first sixteen places, the odd ones to the
  // others.
  void output_in_place(int64_t d, int64_t chunks) {
    const int64_t bytes = m_.o_stride * 4;
    float* o = m_.o + d;
    const bool two = chunks > 1;
    tile_load<0>(o, bytes);
    tile_load<1>(o + 16, bytes);
    if (two) {
      tile_load<2>(o + 32, bytes);
      tile_load<3>(o + 48, bytes);
    }
    for (int64_t t = column_; t < last_column_; t += kPanel) {
      const KeyGroup v = group_[t / kPanel];
      const uint16_t* p = p_ + t / kPanel * 2 * kTileElements;
      ahead_.step();
      tile_load<4>(p, 64);
      tile_load_once<6>(v.first + 2 * d, v.stride);
      tile_dot<0, 4, 6>();
      tile_load<5>(p + kTileElements, 64);
      tile_dot<1, 5, 6>();
      if (!two) continue;
      tile_load_once<7>(v.first + 2 * d + 64, v.stride);
      tile_dot<2, 4, 7>();
      tile_dot<3, 5, 7>();
    }
    tile_store<0>(o, bytes);
    tile_store<1>(o + 16, bytes);
    if (!two) return;
    tile_store<2>(o + 32, bytes);
    tile_store<3>(o + 48, bytes);
  }
  // Columns in their order again.
  void join_columns() const {
    for (int64_t r = 0; r < run_.rows; ++r)
      for (float *o = m_.o + r * m_.o_stride, *end = o + m_.dv_padded; o < end; o += 32) {
        const auto [low, high] = join_even_odd(_mm512_loadu_ps(o), _mm512_loadu_ps(o + 16));
        _mm512_storeu_ps(o, low);
        _mm512_storeu_ps(o + 16, high);
      }
  }

  // ---- softmax ----

  // Rows [r, end) of the batch are the lanes of S^T. Whole keys that all of them see are left as they are.
  void shape_and_mask(int64_t r, int64_t end) {
    shape_.scale = it_.scale * source_.k_scale;
    shape_.soft_cap = it_.soft_cap;
    shape_.alibi_slope = it_.alibi_slopes;
    const int64_t panels = (end - r + kPanel - 1) / kPanel;
    for (int64_t i = 0; i < panels && shape_.shaped(); ++i) shape_lanes(r + i * kPanel, m_.s[0] + i * kPanel);
    const auto bounds = run_.bounds_of(r, end);
    const int64_t lo = larger(bounds.lo_max, run_.begin) - run_.tile_begin,
                  hi = smaller(bounds.hi_min, run_.end) - run_.tile_begin;
    for (int64_t i = 0; i < panels; ++i) {
      float* s = m_.s[0] + i * kPanel;
      for (int64_t j = column_; j < last_column_ && j < lo; ++j) mask_key(j, r + i * kPanel, s);
      for (int64_t j = larger(column_, hi); j < last_column_; ++j) mask_key(j, r + i * kPanel, s);
    }
  }
  void shape_lanes(int64_t r, float* s) const {
    const bool cap = shape_.soft_cap > 0.0f, slopes = it_.alibi_slopes != nullptr;
    const F32 scale = set1(cap ? shape_.scale / shape_.soft_cap : shape_.scale * kLog2E);
    float slope[kPanel] = {}, origin[kPanel] = {};
    for (int64_t i = 0; i < kPanel && r + i < run_.rows && slopes; ++i) {
      slope[i] = it_.alibi_slopes[(r + i) % it_.num_heads] * kLog2E;
      const int64_t request = (r + i) / it_.num_heads;
      origin[i] = static_cast<float>(it_.context_len[request]);
    }
    for (int64_t j = column_; j < last_column_; ++j) {
      F32 x = mul(load(s + j * kScoreRows), scale);
      if (cap) x = mul(tanh<E::kExpDegree>(x), set1(shape_.soft_cap * kLog2E));
      if (slopes) x = fmadd(load(slope), sub(set1(static_cast<float>(run_.tile_begin + j)), load(origin)), x);
      store(s + j * kScoreRows, x);
    }
  }
  void mask_key(int64_t j, int64_t r, float* s) const {
    const int64_t position = run_.tile_begin + j;
    const __m512i at = _mm512_set1_epi32(static_cast<int>(position));
    Mask visible = static_cast<Mask>(_mm512_cmple_epi32_mask(_mm512_loadu_si512(m_.lo + r), at) &
                                     _mm512_cmplt_epi32_mask(at, _mm512_loadu_si512(m_.hi + r)));
    if (position < run_.begin || position >= run_.end) visible = 0;
    store(s + j * kScoreRows, select(visible, load(s + j * kScoreRows), set1(kNegInf)));
  }

  // What to add to the scores of lanes r .. r + 15, whose maxima are brought up to date.
  __m512 minus_maximum(int64_t r, const float* s, __m512 scale) {
    const auto at = [&](int64_t j) { return _mm512_loadu_ps(s + j * kScoreRows); };
    __m512 top[4];
    for (int i = 0; i < 4; ++i) top[i] = at(column_ + i);
    for (int64_t j = column_ + 4; j < last_column_; j += 4)
      for (int i = 0; i < 4; ++i) top[i] = _mm512_max_ps(top[i], at(j + i));
    return raise_maxima(
        r, _mm512_mul_ps(_mm512_max_ps(_mm512_max_ps(top[0], top[1]), _mm512_max_ps(top[2], top[3])), scale));
  }
  void add_sums(int64_t r, const RowSum& sum) {
    float* row_sum = m_.row_sum + r;
    _mm512_storeu_ps(row_sum, _mm512_add_ps(_mm512_loadu_ps(row_sum), _mm512_add_ps(sum.even, sum.odd)));
  }

  // Lanes r .. r + 15: S^T -> P as tiles of 16 rows x 32 keys, sums and maxima brought up to date.
  void softmax(int64_t r, const float* s, int64_t p_row) {
    const __m512 scale = _mm512_set1_ps(shape_.remaining_scale()), minus_max = minus_maximum(r, s, scale);
    // Keys j and j + 1 of a lane become one pair.
    alignas(64) static constexpr uint16_t kPairs[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i pairs = _mm512_load_si512(kPairs);
    RowSum sum;
    for (int64_t j = column_; j < last_column_; j += 32) {
      __m512i w[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        const __m512 x = weight(s, j + 2 * i, scale, minus_max), y = weight(s, j + 2 * i + 1, scale, minus_max);
        sum.even = _mm512_add_ps(sum.even, x);
        sum.odd = _mm512_add_ps(sum.odd, y);
        w[i] = _mm512_permutexvar_epi16(pairs, as_int(_mm512_cvtne2ps_pbh(y, x)));
      }
      transpose(w);
      uint16_t* p = p_ + p_row * it_.tile_keys + j / 32 * kTileElements;
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(p + i * 32, w[i]);
    }
    add_sums(r, sum);
  }
  // Lanes 0 .. 15: S^T -> P as two tiles of 16 rows x 16 keys, of pairs (p, 0) and of pairs (0, p).
  void softmax_apart() {
    const float* s = m_.s[0];
    const __m512 scale = _mm512_set1_ps(shape_.remaining_scale()), minus_max = minus_maximum(0, s, scale);
    RowSum sum;
    for (int64_t j = column_; j < last_column_; j += kPanel) {
      if (j % 32 == 0) ahead_.step(kSoftmaxSteps);
      __m512i w[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i += 2) {
        const __m512 x = weight(s, j + i, scale, minus_max), y = weight(s, j + i + 1, scale, minus_max);
        sum.even = _mm512_add_ps(sum.even, x);
        sum.odd = _mm512_add_ps(sum.odd, y);
        w[i] = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
        w[i + 1] = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(y)));
      }
      transpose(w);
      uint16_t* p = p_ + j / kPanel * 2 * kTileElements;
      for (int i = 0; i < 16; ++i) {
        _mm512_storeu_si512(p + i * 32, w[i]);
        _mm512_storeu_si512(p + kTileElements + i * 32, _mm512_slli_epi32(w[i], 16));
      }
    }
    add_sums(0, sum);
  }
  static __m512 weight(const float* s, int64_t j, __m512 scale, __m512 minus_max) {
    return exp2_of(_mm512_fmadd_ps(_mm512_loadu_ps(s + j * kScoreRows), scale, minus_max));
  }

  // Raises the maxima of 16 rows where they must be raised; see kMaxLag. Returns what to add to their scores.
  __m512 raise_maxima(int64_t r, __m512 tile_max) {
    const __m512 none = _mm512_set1_ps(kNegInf), old_max = _mm512_loadu_ps(m_.row_max + r);
    const Mask raised = _mm512_cmp_ps_mask(tile_max, _mm512_add_ps(old_max, _mm512_set1_ps(kMaxLag)), _CMP_GT_OQ);
    const Mask rescaled = raised & _mm512_cmp_ps_mask(old_max, none, _CMP_NEQ_UQ);
    const __m512 new_max = _mm512_mask_mov_ps(old_max, raised, tile_max);
    if (rescaled != 0) {
      const __m512 alpha =
          _mm512_mask_mov_ps(_mm512_set1_ps(1.0f), rescaled, exp2_of(_mm512_sub_ps(old_max, tile_max)));
      _mm512_storeu_ps(m_.row_sum + r, _mm512_mul_ps(_mm512_loadu_ps(m_.row_sum + r), alpha));
      float factor[kPanel];
      _mm512_storeu_ps(factor, alpha);
      for (int64_t i = 0; i < kPanel; ++i)
        if (factor[i] != 1.0f) scale_row(m_.o + (r + i) * m_.o_stride, m_.dv_padded, factor[i]);
    }
    _mm512_storeu_ps(m_.row_max + r, new_max);
    const Mask seen = _mm512_cmp_ps_mask(new_max, none, _CMP_NEQ_UQ);
    return _mm512_maskz_sub_ps(seen, _mm512_setzero_ps(), new_max);
  }

  Run& run_;
  const AttentionItem& it_;
  AttentionScratch<E>& m_;
  const KeySource& source_;
  const int64_t from_, to_;
  uint16_t* const p_;    // [weight_rows / 16][tile / 32][16][32]
  int64_t weight_rows_;  // rows that share the pairs of a chunk
  bool few_rows_, in_place_;
  int64_t column_ = 0, last_column_ = 0;  // of the tile at work
  ScoreShape shape_;
  Prefetcher ahead_;
  const char** token_ = nullptr;  // of the tile at work
  const char* rows_[2][kMaxTileKeys];
  const char* stretches_[kMaxTileKeys / kPanel];  // of the next tile, panels that lie together
  KeyGroup group_[kMaxTileKeys / kPanel];
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
