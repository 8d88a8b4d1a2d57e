// What happens between the two matrix products and at the end of a row, shared by all attention kernels. Scores are
// kept in log2 units so that the exponential is one instruction.
#pragma once

#include "devices/gpu/row_rules.h"
#include "devices/hip/kernels/work_list.h"

namespace sextant::hip {

using gpu::finish_row;
using gpu::kLn2;
using gpu::kLog2E;
using gpu::RowEnd;

struct ScoreRule : gpu::ScoreRule {
  bool is_plain;  // neither softcap nor ALiBi
};
SEXTANT_DEVICE ScoreRule make_score_rule(const AttentionParams& p, float k_scale) {
  const gpu::ScoreRule rule = gpu::make_score_rule(p, k_scale);
  return {rule, !rule.has_cap && p.alibi_slopes == nullptr};
}
// 1 - 2 / (e^2x + 1): absolute error near 1e-7, and the score is a sum to which only that matters.
SEXTANT_DEVICE float tanh(float x) { return 1.0f - 2.0f * reciprocal(exp2(2.0f * kLog2E * x) + 1.0f); }

// One query row as a lane sees it. The four lanes l, l + 16, l + 32, l + 48 share a row and hold different keys.
struct RowState {
  int32_t row;  // in the request
  bool valid;
  int32_t first, end;  // keys that it sees
  float slope;         // ALiBi, log2 units
  float max, sum;      // SeldomRaised, AlwaysRaised; `sum` is this lane's share
};
SEXTANT_DEVICE RowState make_row(const AttentionParams& p, const WorkItem& item, int32_t row) {
  const Request& r = item.request;
  RowState s;
  s.row = row;
  s.valid = row < r.query_len * p.group_size;
  const SeenKeys seen = seen_keys(p, r, query_of(p, row), item.key_lo, item.key_hi);
  s.first = seen.first;
  s.end = seen.end;
  s.slope = 0;
  if (p.alibi_slopes != nullptr && s.valid) s.slope = p.alibi_slopes[head_of(p, item.kv_head, row)] * kLog2E;
  s.max = kNegInf;
  s.sum = 0;
  return s;
}

// Raw products of kKeys = 16 * kSubtiles keys to scores: element r of subtile t is key key0 + 16 t + 4 (lane / 16) + r.
// Three passes over registers, each behind one branch that all lanes take alike: a branch an element would make most of
// the code.
template <int kSubtiles>
SEXTANT_DEVICE void finish_scores(const WorkItem& item, const ScoreRule& rule, const RowState& row, int32_t key0,
                                  int32_t end, bool masked, f32x4 (&s)[kSubtiles]) {
  const int32_t first_key = key0 + 4 * (lane_index() / 16);  // of this lane
  SEXTANT_UNROLL
  for (int t = 0; t < kSubtiles; ++t) s[t] *= rule.scale_log2;
  if (!rule.is_plain) {
    float distance = static_cast<float>(first_key - item.request.context_len);
    SEXTANT_UNROLL
    for (int t = 0; t < kSubtiles; ++t) {
      SEXTANT_UNROLL
      for (int e = 0; e < 4; ++e) {
        const float capped = rule.cap_log2 * tanh(s[t][e] * rule.cap_inverse);
        s[t][e] = (rule.has_cap ? capped : s[t][e]) + row.slope * (distance + static_cast<float>(16 * t + e));
      }
    }
  }
  if (!masked) return;
  // No score may be seen at or after `last`, nor before `first`; counted from this lane's first key.
  const int32_t last = min(row.end, end) - first_key, first = row.first - first_key;
  SEXTANT_UNROLL
  for (int t = 0; t < kSubtiles; ++t) {
    SEXTANT_UNROLL
    for (int e = 0; e < 4; ++e) s[t][e] = 16 * t + e < last && 16 * t + e >= first ? s[t][e] : kNegInf;
  }
}

// Where probabilities of operand type T lie. A row's `max` is `shift` below the largest score that it was raised to,
// and is raised anew when a score exceeds that by more than `slack`: most tiles then leave the accumulators alone.
//
// In fp16 a probability below 2^-14 is a subnormal, which MI200's matrix unit takes for zero, and below 2^-25 nothing
// anywhere. So the largest are 2^15, which the type just holds: 2^-14 is then 2^-25 of the row's largest or less.
template <class T>
struct SeldomRaised {
  static constexpr float kShift = 0, kMost = 8;  // kMost: shift + slack, log2 of the largest probability
};
template <>
struct SeldomRaised<f16> {
  static constexpr float kShift = 11, kMost = 15;
};
template <class T>
struct AlwaysRaised {
  static constexpr float kShift = 0, kMost = 0;
};
template <>
struct AlwaysRaised<f16> {
  static constexpr float kShift = 15, kMost = 15;
};

// Scores to probabilities 2^(score - max). Gives the factor by which what was summed before must shrink.
template <class T, int kSubtiles>
SEXTANT_DEVICE float exponentiate(RowState& row, f32x4 (&s)[kSubtiles]) {
  using Range = AlwaysRaised<T>;
  float top = s[0][0];
  SEXTANT_UNROLL
  for (int t = 0; t < kSubtiles; ++t) {
    SEXTANT_UNROLL
    for (int e = 0; e < 4; ++e) top = max(top, s[t][e]);
  }
  top = max(top, shuffle_xor(top, 16));
  top = max(top, shuffle_xor(top, 32));
  const bool grows = top > row.max + Range::kMost;
  const float next = grows ? top - Range::kShift : row.max;
  const float base = next == kNegInf ? 0.0f : next;
  const float factor = grows ? exp2(row.max - base) : 1.0f;
  float sum = 0;
  SEXTANT_UNROLL
  for (int t = 0; t < kSubtiles; ++t) {
    SEXTANT_UNROLL
    for (int e = 0; e < 4; ++e) {
      s[t][e] = exp2(s[t][e] - base);
      sum += s[t][e];
    }
  }
  row.sum = row.sum * factor + sum;
  row.max = next;
  return factor;
}
// The same, seldom raised and with O scaled on the spot, for kernels in which a row's four lanes agree on its maximum:
// where no score exceeds it by more than the slack, no word goes between lanes.
template <class T, int kSubtiles, int kColumns>
SEXTANT_DEVICE void exponentiate_seldom_raised(RowState& row, f32x4 (&s)[kSubtiles], f32x4 (&o)[kColumns][4]) {
  using Range = SeldomRaised<T>;
  float top = kNegInf;
  SEXTANT_UNROLL
  for (int t = 0; t < kSubtiles; ++t) {
    SEXTANT_UNROLL
    for (int e = 0; e < 4; ++e) top = max_of(top, s[t][e]);
  }
  if (__builtin_expect(ballot(top > row.max + Range::kMost) != 0, 0)) {
    top = max_of(top, shuffle_xor(top, 16));
    top = max_of(top, shuffle_xor(top, 32));
    top = top > row.max + Range::kMost ? top - Range::kShift : row.max;
    const float factor = exp2(row.max - (top == kNegInf ? 0.0f : top));
    row.max = top;
    row.sum *= factor;
    SEXTANT_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      SEXTANT_UNROLL
      for (int n = 0; n < 4; ++n) o[c][n] *= factor;
    }
  }
  const float base = row.max == kNegInf ? 0.0f : row.max;
  SEXTANT_UNROLL
  for (int t = 0; t < kSubtiles; ++t) {
    s[t] -= base;
    SEXTANT_UNROLL
    for (int e = 0; e < 4; ++e) {
      s[t][e] = exp2(s[t][e]);
      row.sum += s[t][e];
    }
  }
}
SEXTANT_DEVICE float sum_over_groups(float x) {
  x += shuffle_xor(x, 16);
  return x + shuffle_xor(x, 32);
}

// Where a row goes: the output, or a partial result of the item.
struct RowTarget {
  void* data;
  int64_t offset;
  bool is_f32;   // else the kernel's type
  bool aligned;  // rows of 8 elements start on 16 bytes
  float weight;
};
// `tile_row`: row in the tile. Writes the LSE when `writes_lse`.
SEXTANT_DEVICE RowTarget end_row(const AttentionParams& p, const WorkItem& item, int32_t row, int32_t tile_row,
                                 float row_max, float sum, float v_scale, bool writes_lse) {
  const int32_t token = item.request.query_start + query_of(p, row);
  const int32_t head = head_of(p, item.kv_head, row);
  const bool final = item.parts == 1;
  const RowEnd end = finish_row(row_max, sum, v_scale, final ? p.sinks : nullptr, head);
  if (final) {
    if (writes_lse && p.lse != nullptr) p.lse[head * p.lse_head_stride + token * p.lse_token_stride] = end.lse;
    return {p.out, token * p.out_token_stride + head * p.out_head_stride, p.out_f32 != 0, p.out_aligned != 0,
            end.weight};
  }
  const int64_t partial = static_cast<int64_t>(item.index) * p.work.rows + tile_row;
  if (writes_lse) p.partial_lse[partial] = end.lse;
  return {p.partial_out, partial * p.head_dim_v, true, true, end.weight};
}

}  // namespace sextant::hip
