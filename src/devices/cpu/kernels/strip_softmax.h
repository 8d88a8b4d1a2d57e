// The softmax of a strip: 32 rows x 32 columns of scores become weights, with products of tiles in between.
//
// A row's maximum is not looked for: the first strip that it sees sets it, and it is raised only when a sum of weights
// says that it has fallen far behind. Weights may be as large as 2^24 then, which costs no precision in floating point.
// It is raised by whole numbers (in base 2), which multiplies what was weighed before by a power of two: exactly. What
// a strip does to a row follows from the row's own scores and the strip's place alone.
#pragma once

#include "devices/cpu/kernels/amx_products.h"
#include "devices/cpu/kernels/softmax_amx.h"

namespace sextant::cpu::SEXTANT_ISA {
namespace {

constexpr int64_t kStripRows = 32, kStripColumns = 32;
constexpr int64_t kPanelScores = kStripRows * kPanel;          // scores of a strip lie in panels [2][32 rows][16]
constexpr int64_t kStripWeights = kStripRows * kStripColumns;  // elements, two tiles
constexpr float kMostWeight = 16777216.0f;                     // of a lane's sum: beyond it a row's maximum is raised
constexpr float kUnknownMax = -3e38f;                          // of rows that have seen nothing

// 2^x of a score, 0 of lanes outside `seen`. While the matrix unit multiplies, one of the two ports for vectors takes
// no multiplications, but additions and comparisons: so the whole number next to x comes from a sum, not from
// vreduceps. The rest, [-0.5, 0.5], goes through a polynomial (minimax, 1 at 0) with a relative error of 1e-4, where P
// is rounded to 2^-9, or of 2.8e-6.
template <bool kExact>
inline __attribute__((always_inline)) __m512 weight_of(__m512 x, __mmask16 seen) {
  const __m512 magic = _mm512_set1_ps(12582912.0f);  // 1.5 * 2^23
  const __m512 n = _mm512_sub_ps(_mm512_add_ps(x, magic), magic), f = _mm512_sub_ps(x, n);
  __m512 p;
  if constexpr (kExact) {
    p = _mm512_fmadd_ps(_mm512_set1_ps(9.582857536e-3f), f, _mm512_set1_ps(5.590643627e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40240986e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.931241921e-1f));
  } else {
    p = _mm512_fmadd_ps(_mm512_set1_ps(5.500897131e-2f), f, _mm512_set1_ps(2.422110601e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.932829338e-1f));
  }
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  // Of what is far below, the rest is no rest.
  const __mmask16 counts = _mm512_mask_cmp_ps_mask(seen, x, _mm512_set1_ps(-160.0f), _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(counts, p, n);
}

// What scores go through before the mask, for all rows of an item.
struct StripShape {
  float scale = 1.0f;  // to logits in base 2, or what tanh takes
  float cap = 0.0f;    // of logits in base 2; 0: none
  const float* slopes = nullptr;
  const int32_t* origins = nullptr;  // of tokens
  int64_t heads = 1;

  explicit StripShape(const AttentionItem& it, float k_scale)
      : cap(it.soft_cap * kLog2E), slopes(it.alibi_slopes), origins(it.context_len), heads(it.num_heads) {
    const float factor = it.scale * k_scale;
    scale = it.soft_cap > 0.0f ? factor / it.soft_cap : factor * kLog2E;
  }
  bool shaped() const { return cap > 0.0f || slopes != nullptr; }
  // Columns position .. position + 15 of a row.
  template <int kDegree>
  inline __attribute__((always_inline)) __m512 logits(__m512 s, int64_t row, int64_t position) const {
    F32 x = mul({s}, set1(scale));
    if (cap > 0.0f) x = mul(tanh<kDegree>(x), set1(cap));
    if (slopes != nullptr) {
      const int64_t token = row / heads, distance = position - origins[token];
      x = fmadd(set1(slopes[row % heads] * kLog2E), add(lane_numbers(), set1(static_cast<float>(distance))), x);
    }
    return x.v;
  }
};

// A block of rows and a tile of keys, as the softmax sees them.
struct StripRows {
  int64_t first = 0, count = 0;  // rows of the item
  const int32_t *lo, *hi;        // of the first row: visible positions
  int64_t begin = 0, end = 0;    // positions of the source in the tile
  float* max;                    // of the first row
  uint16_t* weights;             // [tile / 32][32 rows][32]
  int64_t from = 0;              // the first column of the tile that was weighed
};

// Sums of each lane's weights, before and after a strip. One of the two is scratch.
struct LaneSums {
  alignas(64) float scratch[kStripRows * kPanel];
  float *before = nullptr, *after = nullptr;

  void begin(float* sums) {
    before = sums;
    after = scratch;
  }
  void turn() {
    float* sums = before;
    before = after;
    after = sums;
  }
  void end() {
    if (before != scratch) return;
    for (int64_t i = 0; i < kStripRows * kPanel; i += kPanel) _mm512_storeu_ps(after + i, _mm512_loadu_ps(before + i));
  }
};

struct StripState {
  LaneSums sums;   // of weights as the product with V has them, in 8 bits: so their errors leave the mean in place
  LaneSums exact;  // of weights as they are, for the logarithm
  float minus_max[kStripRows];
  float alpha[kStripRows];  // what the rows' output so far must be multiplied by
  bool raised = false;      // whether any alpha is not 1
  bool unknown = false;     // whether any row's maximum is not known yet

  StripState() {
    for (float& x : alpha) x = 1.0f;
  }
};

// One strip at work. kWhole: all rows see all its columns. kExact: exact sums are wanted.
template <class E, bool kShaped, bool kWhole, bool kExact>
class Strip {
 public:
  Strip(const StripShape& shape, const StripRows& rows, StripState& state, const float* scores, int64_t position,
        int64_t column)
      : shape_(shape),
        rows_(rows),
        state_(state),
        s_(scores),
        weights_(rows.weights + column / kStripColumns * kStripWeights),
        before_(state.sums.before),
        after_(state.sums.after),
        exact_before_(state.exact.before),
        exact_after_(state.exact.after),
        position_(position),
        column_(column),
        count_(round_up(rows.count, 4)) {
    if (state.unknown) learn(shape, rows, state, scores, position);
  }

  int64_t left() const { return count_ - row_; }

  // The next row.
  inline __attribute__((always_inline)) void weigh() {
    const int64_t i = row_++;
    const __m512 minus_max = _mm512_set1_ps(state_.minus_max[i]);
    __m512 x = _mm512_loadu_ps(s_ + i * kPanel), y = _mm512_loadu_ps(s_ + kPanelScores + i * kPanel);
    if constexpr (kShaped) {
      x = _mm512_add_ps(shape_.template logits<E::kExpDegree>(x, token_row(i), position_), minus_max);
      y = _mm512_add_ps(shape_.template logits<E::kExpDegree>(y, token_row(i), position_ + kPanel), minus_max);
    } else {
      const __m512 scale = _mm512_set1_ps(shape_.scale);
      x = _mm512_fmadd_ps(x, scale, minus_max);
      y = _mm512_fmadd_ps(y, scale, minus_max);
    }
    const uint32_t seen = kWhole ? ~0u : visible(i);
    x = weight_of<kExact>(x, static_cast<__mmask16>(seen));
    y = weight_of<kExact>(y, static_cast<__mmask16>(seen >> 16));
    all_ = _mm512_add_ps(all_, keep(i, x, y));
  }

  // When all rows are weighed.
  inline __attribute__((always_inline)) void finish() {
    if (__builtin_expect(_mm512_cmp_ps_mask(all_, _mm512_set1_ps(kMostWeight), _CMP_NLE_UQ) != 0, 0)) {
      Strip copy = *this;  // so that this one stays in registers
      copy.raise_rows();
    }
    state_.sums.turn();
    if constexpr (kExact) state_.exact.turn();
  }

 private:
  // Weights of a row. Returns their sums.
  inline __attribute__((always_inline)) __m512 keep(int64_t i, __m512 x, __m512 y) {
    const __m512bh w = _mm512_cvtne2ps_pbh(y, x);
    _mm512_storeu_si512(weights_ + i * kStripColumns, as_int(w));
    const __m512 sum =
        _mm512_dpbf16_ps(_mm512_loadu_ps(before_ + i * kPanel), w, as_bf16(_mm512_set1_epi16(0x3f80)));  // ones
    _mm512_storeu_ps(after_ + i * kPanel, sum);
    if constexpr (kExact)
      _mm512_storeu_ps(exact_after_ + i * kPanel,
                       _mm512_add_ps(_mm512_loadu_ps(exact_before_ + i * kPanel), _mm512_add_ps(x, y)));
    return sum;
  }

  // Rows of padding are as good as the first one.
  int64_t token_row(int64_t i) const { return token_row(rows_, i); }
  static int64_t token_row(const StripRows& rows, int64_t i) { return rows.first + (i < rows.count ? i : 0); }

  // Bit j: column j.
  uint32_t visible(int64_t i) const { return visible(rows_, position_, i); }
  static uint32_t visible(const StripRows& rows, int64_t position, int64_t i) {
    const int64_t lo = larger(rows.lo[i], rows.begin) - position, hi = smaller(rows.hi[i], rows.end) - position;
    if (hi <= 0 || lo >= kStripColumns || lo >= hi) return 0;
    const uint32_t below = lo > 0 ? ~uint32_t{0} << lo : ~uint32_t{0};
    return hi < kStripColumns ? below & ~(~uint32_t{0} << hi) : below;
  }

  // Logits of the columns that a row sees, -infinity elsewhere.
  struct Seen {
    __m512 x[2];
    float max() const { return reduce_max({_mm512_max_ps(x[0], x[1])}); }
  };
  static Seen seen_of(const StripShape& shape, const StripRows& rows, const float* scores, int64_t position,
                      int64_t i) {
    const uint32_t mask = kWhole ? ~0u : visible(rows, position, i);
    Seen seen;
    for (int v = 0; v < 2; ++v) {
      const __m512 s = _mm512_loadu_ps(scores + v * kPanelScores + i * kPanel);
      const __m512 logits = kShaped ? shape.template logits<E::kExpDegree>(s, token_row(rows, i), position + v * kPanel)
                                    : _mm512_mul_ps(s, _mm512_set1_ps(shape.scale));
      seen.x[v] = _mm512_mask_mov_ps(_mm512_set1_ps(kNegInf), static_cast<__mmask16>(mask >> 16 * v), logits);
    }
    return seen;
  }

  // The first maximum of rows that have none. Not a member's work: the strip stays in registers.
  static __attribute__((noinline)) void learn(const StripShape& shape, const StripRows& rows, StripState& state,
                                              const float* scores, int64_t position) {
    state.unknown = false;
    for (int64_t i = 0; i < rows.count; ++i) {
      if (rows.max[i] != kNegInf) continue;
      const float max = seen_of(shape, rows, scores, position, i).max();
      if (max > kNegInf) {
        rows.max[i] = max;
        state.minus_max[i] = -max;
      } else {
        state.unknown = true;
      }
    }
  }

  __attribute__((noinline)) void raise_rows() {
    for (int64_t i = 0; i < rows_.count; ++i)
      if (_mm512_cmp_ps_mask(_mm512_loadu_ps(after_ + i * kPanel), _mm512_set1_ps(kMostWeight), _CMP_NLE_UQ) != 0)
        raise(i);
  }
  // A row's maximum has been left behind: it becomes that of the strip, and what was weighed before is brought to it.
  void raise(int64_t i) {
    const Seen seen = seen_of(shape_, rows_, s_, position_, i);
    const float strip_max = seen.max();
    if (strip_max > rows_.max[i]) {
      const bool known = rows_.max[i] != kNegInf;
      const float steps = __builtin_ceilf(strip_max - rows_.max[i]);
      if (known) bring_down(i, -steps);
      rows_.max[i] = known ? rows_.max[i] + steps : strip_max;
      state_.minus_max[i] = -rows_.max[i];
    }
    const __m512 minus_max = _mm512_set1_ps(rows_.max[i] == kNegInf ? 0.0f : -rows_.max[i]);
    keep(i, weight_of<kExact>(_mm512_add_ps(seen.x[0], minus_max), 0xffff),
         weight_of<kExact>(_mm512_add_ps(seen.x[1], minus_max), 0xffff));
  }
  void bring_down(int64_t i, float exponent) {
    const __m512 factor = weight_of<true>(_mm512_set1_ps(exponent), 0xffff);
    const auto scale_sums = [&](float* sums) { _mm512_storeu_ps(sums, _mm512_mul_ps(_mm512_loadu_ps(sums), factor)); };
    scale_sums(before_ + i * kPanel);
    if constexpr (kExact) scale_sums(exact_before_ + i * kPanel);
    state_.alpha[i] *= _mm512_cvtss_f32(factor);
    state_.raised = true;
    for (int64_t j = rows_.from; j < column_; j += kStripColumns)
      for (int v = 0; v < 2; ++v) {
        auto* at =
            reinterpret_cast<__m256i*>(rows_.weights + j / kStripColumns * kStripWeights + i * kStripColumns) + v;
        const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(at)), 16);
        _mm256_storeu_si256(at, narrow_bf16({_mm512_mul_ps(_mm512_castsi512_ps(wide), factor)}));
      }
  }

  const StripShape& shape_;
  const StripRows& rows_;
  StripState& state_;
  const float* const s_;
  uint16_t* const weights_;
  float *const before_, *const after_, *const exact_before_, *const exact_after_;
  const int64_t position_, column_, count_;
  int64_t row_ = 0;
  __m512 all_ = _mm512_setzero_ps();
};

}  // namespace
}  // namespace sextant::cpu::SEXTANT_ISA
