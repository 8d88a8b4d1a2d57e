// Plain attention of sampled rows, tolerances, and the comparison.
#include "verify/random/judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "reference/numbers.h"
#include "verify/random/launch.h"

namespace sextant::verify {
namespace {

// Tolerances. A kernel of a 16-bit type rounds probabilities to it, independently of each other: an error of
// u sqrt(sum (p v)^2) times a random number of about 0.4, u the type's unit roundoff. MLA rounds the absorbed queries
// (or the projected keys) as well, which moves each score by u sqrt(sum (q k)^2) times such a number. kSigma of these,
// and one rounding of the result, is what is allowed; a key too many or too few shows up to a few thousand keys.
constexpr double kSigma = 3.5;
constexpr double kFp32Loss = 4e-6;       // of sums and exponentials in fp32, relative to what is summed
constexpr double kFp8Roundoff = 0x1p-4;  // e4m3fn probabilities, where fp8 queries are multiplied as they are
constexpr double kFp8SumLoss = 0x1p-12;  // Hopper's fp8 products keep 13 bits below the largest
// .. and where 16-bit queries over e4m3 latents are multiplied in two parts, nine steps at a time: relative to
// sqrt(sum (q k)^2), by measurement (docs/dev/gpu-log.md, run 22).
constexpr double kSplitSumLoss = 0x1p-12;
constexpr double kTanhLoss = 0x1p-10;  // the hardware's tanh on GPUs, relative
// GPUs' matrix units cut off what they add to a sum: relative, for each 16 keys that are added one after the other.
constexpr double kTruncation = 0x1p-25;

double unit_roundoff(DType dtype) { return reference::epsilon(dtype) / 2; }

template <class T>
Status read(Device& device, const DeviceBuffer& buffer, std::vector<T>& values) {
  values.resize(buffer.bytes() / sizeof(T));
  return values.empty() ? Status::ok() : buffer.read(values.data(), buffer.bytes());
}

// Scratch for one group of rows.
struct Scratch {
  DeviceBuffer rows, queries, scores, segment_max, segment_sum, segment_noise, row_max, row_sum, row_noise, lse, out,
      spread, projected, projected_spread, projected_size;
};

Status take(Device& device, DeviceBuffer& buffer, int64_t doubles) {
  auto made = DeviceBuffer::make(device, static_cast<size_t>(doubles) * sizeof(double));
  if (!made) return made.status();
  buffer = std::move(*made);
  return Status::ok();
}

Status take_scratch(Device& device, AttendShared& a, Scratch& s) {
  const int64_t n = a.num_rows;
  for (const auto& [buffer, pointer, doubles] :
       {std::tuple{&s.queries, &a.queries, n * a.dim}, std::tuple{&s.scores, &a.scores, n * a.segments * kSegmentKeys},
        std::tuple{&s.segment_max, &a.segment_max, n * a.segments},
        std::tuple{&s.segment_sum, &a.segment_sum, n * a.segments},
        std::tuple{&s.segment_noise, &a.segment_noise, n * a.segments}, std::tuple{&s.row_max, &a.row_max, n},
        std::tuple{&s.row_sum, &a.row_sum, n}, std::tuple{&s.row_noise, &a.row_noise, n}, std::tuple{&s.lse, &a.lse, n},
        std::tuple{&s.out, &a.out, n * a.dim_v}, std::tuple{&s.spread, &a.spread, n * a.dim_v}}) {
    SEXTANT_RETURN_IF_ERROR(take(device, *buffer, doubles));
    *pointer = buffer->as<double>();
  }
  return Status::ok();
}

struct RowResults {
  std::vector<double> out, spread, size, lse, noise, most;  // size: MLA only
};

Status attend_group(const CaseMemory& memory, const std::vector<SampledRow>& rows, RowResults& results) {
  Device& device = memory.device();
  const AttentionSpec& s = memory.test().spec;
  AttendShared a = memory.attend_shared();
  a.num_rows = static_cast<int64_t>(rows.size());
  int32_t most_keys = 1;
  for (const SampledRow& row : rows) most_keys = std::max(most_keys, row.end - row.begin);
  a.segments = (most_keys + kSegmentKeys - 1) / kSegmentKeys;
  Scratch scratch;
  auto uploaded = DeviceBuffer::make(device, rows.data(), rows.size() * sizeof(SampledRow));
  if (!uploaded) return uploaded.status();
  scratch.rows = std::move(*uploaded);
  a.rows = scratch.rows.as<SampledRow>();
  SEXTANT_RETURN_IF_ERROR(take_scratch(device, a, scratch));

  const int64_t n = a.num_rows;
  if (s.mla.enabled()) {
    AbsorbQueries absorb{a, memory.kv_b_proj_values()};
    absorb.nope = s.mla.qk_nope_head_dim;
    absorb.rope = s.mla.qk_rope_head_dim;
    absorb.v = s.mla.v_head_dim;
    absorb.rank = s.mla.kv_lora_rank;
    SEXTANT_RETURN_IF_ERROR(launch(device, n * a.dim, absorb));
  } else {
    SEXTANT_RETURN_IF_ERROR(launch(device, n * a.dim, LoadQueries{a}));
  }
  SEXTANT_RETURN_IF_ERROR(launch(device, n * a.segments, Scores{a}));
  SEXTANT_RETURN_IF_ERROR(launch(device, n, RowMax{a}));
  SEXTANT_RETURN_IF_ERROR(launch(device, n * a.segments, Weights{a}));
  SEXTANT_RETURN_IF_ERROR(launch(device, n, RowSum{a}));
  SEXTANT_RETURN_IF_ERROR(device.info().kind == DeviceKind::kCuda ? launch(device, n * a.dim_v, Outputs<1>{a})
                                                                  : launch(device, n * a.dim_v / 8, Outputs<8>{a}));
  SEXTANT_RETURN_IF_ERROR(read(device, scratch.lse, results.lse));
  SEXTANT_RETURN_IF_ERROR(read(device, scratch.row_noise, results.noise));
  SEXTANT_RETURN_IF_ERROR(read(device, scratch.row_max, results.most));
  if (!s.mla.enabled()) {
    SEXTANT_RETURN_IF_ERROR(read(device, scratch.out, results.out));
    return read(device, scratch.spread, results.spread);
  }
  const int64_t projected = n * s.mla.v_head_dim;
  for (DeviceBuffer* buffer : {&scratch.projected, &scratch.projected_spread, &scratch.projected_size})
    SEXTANT_RETURN_IF_ERROR(take(device, *buffer, projected));
  ProjectOutputs project{a, memory.kv_b_proj_values()};
  project.nope = s.mla.qk_nope_head_dim;
  project.v = s.mla.v_head_dim;
  project.out = scratch.projected.as<double>();
  project.spread = scratch.projected_spread.as<double>();
  project.size = scratch.projected_size.as<double>();
  SEXTANT_RETURN_IF_ERROR(launch(device, projected, project));
  SEXTANT_RETURN_IF_ERROR(read(device, scratch.projected, results.out));
  SEXTANT_RETURN_IF_ERROR(read(device, scratch.projected_size, results.size));
  return read(device, scratch.projected_spread, results.spread);
}

// Hopper's MLA decode over e4m3 latents multiplies in 8 bits (src/devices/cuda/hopper/mla_fp8.cuh).
bool splits_numbers(const CaseMemory& memory) {
  const RandomCase& test = memory.test();
  const DeviceInfo& device = memory.device().info();
  return device.fp8_products && test.layout == KvLayout::kLatent && test.cache_dtype == DType::kF8E4M3FN &&
         test.spec.dtype == DType::kBF16 && !(test.is_op() && test.op.family == KernelFamily::kPortable);
}

// Appends a group's rows with what is allowed there.
void allow(const CaseMemory& memory, const std::vector<SampledRow>& rows, const RowResults& results, bool fp8_products,
           PlainRows& plain) {
  const AttentionSpec& s = memory.test().spec;
  const bool mla = s.mla.enabled(), splits = splits_numbers(memory);
  const double u = unit_roundoff(s.dtype);
  const double rounding = s.dtype == DType::kF32 ? kFp32Loss : fp8_products ? kFp8Roundoff : u;
  const auto dim_v = static_cast<size_t>(plain.dim_v);
  const bool cuts_sums = memory.device().info().cuts_sums;
  for (size_t r = 0; r < results.lse.size(); ++r) {
    const double summed = kFp32Loss + (cuts_sums ? kTruncation * (rows[r].end - rows[r].begin) / 16 : 0);
    const double most = std::isfinite(results.most[r]) ? std::fabs(results.most[r]) : 0;
    double score_error = kFp32Loss * std::max(1.0, most) + 1e-6 * results.noise[r];
    if (mla) score_error += u * results.noise[r];
    if (splits) score_error += kSplitSumLoss * results.noise[r];
    if (fp8_products) score_error += kFp8SumLoss * results.noise[r] * std::sqrt(static_cast<double>(s.head_dim));
    if (s.logits_soft_cap > 0 && s.dtype != DType::kF32) score_error += kTanhLoss * std::max(1.0, most);
    for (size_t d = 0; d < dim_v; ++d) {
      const size_t i = r * dim_v + d;
      double error = kSigma * (rounding + score_error) * results.spread[i] + (u + summed) * std::fabs(results.out[i]);
      if (mla) error += kSigma * (u * results.size[i] + u * results.spread[i]);
      plain.allowed.push_back(error + 1e-6);
    }
    const double lse = std::isfinite(results.lse[r]) ? std::fabs(results.lse[r]) : 0;
    plain.allowed_lse.push_back(2e-5 * std::max(1.0, lse) + kSigma * score_error);
  }
  plain.out.insert(plain.out.end(), results.out.begin(), results.out.end());
  plain.lse.insert(plain.lse.end(), results.lse.begin(), results.lse.end());
}

}  // namespace

VisibleKeys visible_keys(const RandomCase& test, const RequestShape& request, int32_t query, TokenSpan span) {
  const AttentionSpec& spec = test.spec;
  const int32_t position = request.seq_len - request.query_len + query;
  VisibleKeys keys{0, request.seq_len};
  if (spec.causal) keys.end = std::min(keys.end, position + 1);
  const auto cut = [](int64_t key) { return static_cast<int32_t>(std::clamp<int64_t>(key, 0, INT32_MAX)); };
  if (spec.sliding_window > 0) keys.begin = cut(int64_t{position} + 1 - spec.sliding_window);
  if (spec.window_left >= 0) keys.begin = cut(int64_t{position} - spec.window_left);
  if (spec.window_right >= 0) keys.end = std::min(keys.end, cut(int64_t{position} + 1 + spec.window_right));
  if (const int32_t chunk = spec.attention_chunk_size; chunk > 0) {
    keys.begin = std::max(keys.begin, std::max(position, 0) / chunk * chunk);
    // A query before the sequence's start sees nobody: its chunk has no keys.
    keys.end =
        position < 0 ? 0 : static_cast<int32_t>(std::min<int64_t>(keys.end, int64_t{position / chunk + 1} * chunk));
  }
  if (position >= span.begin && position < span.end) {
    keys.begin = std::min(keys.begin, span.begin);
    keys.end = std::max(keys.end, std::min(span.end, request.seq_len));
  }
  if (!test.is_op()) return keys;
  const int64_t first = test.op.name == "varlen_attention" ? request.seq_len - request.query_len : test.op.key_begin;
  keys.begin = static_cast<int32_t>(std::max<int64_t>(keys.begin, first));
  if (test.op.key_end > 0) keys.end = static_cast<int32_t>(std::min<int64_t>(keys.end, test.op.key_end));
  return keys;
}

std::vector<SampledRow> sample_rows(const CaseMemory& memory, const JudgeLimits& limits, uint64_t seed) {
  const AttentionSpec& s = memory.test().spec;
  const StepArrays& a = memory.arrays();
  std::mt19937_64 engine(seed);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(engine() % static_cast<uint64_t>(n)); };
  std::vector<SampledRow> rows;
  double work = 0;
  const auto add = [&](size_t b, int64_t token) {
    const RequestShape request{a.query_start_loc[b + 1] - a.query_start_loc[b], a.seq_lens[b]};
    const VisibleKeys keys =
        visible_keys(memory.test(), request, static_cast<int32_t>(token - a.query_start_loc[b]), a.span_of(token));
    SampledRow row;
    row.token = token;
    row.first_key_row = a.key_rows[b];
    row.head = static_cast<int32_t>(below(s.num_heads));
    row.kv_head = s.mla.enabled() ? 0 : row.head / s.group_size();
    row.begin = keys.begin;
    row.end = std::max(keys.begin, keys.end);
    row.context_len = request.seq_len - request.query_len;
    rows.push_back(row);
    const AttendShared shared = memory.attend_shared();
    work += static_cast<double>(row.end - row.begin) * (shared.dim + shared.dim_v);
  };
  const auto room = [&] { return static_cast<int64_t>(rows.size()) < limits.most_rows && work < limits.most_work; };
  // Requests in random order, so that a small allowance does not always look at the first ones.
  std::vector<size_t> requests(a.seq_lens.size());
  for (size_t b = 0; b < requests.size(); ++b) requests[b] = b;
  std::shuffle(requests.begin(), requests.end(), engine);
  for (size_t b : requests) {
    if (!memory.attends(b) || !room()) continue;
    add(b, a.query_start_loc[b + 1] - 1);
    if (a.query_start_loc[b + 1] - a.query_start_loc[b] > 1) add(b, a.query_start_loc[b]);
  }
  const int64_t all = memory.num_tokens() * s.num_heads;
  for (int64_t tries = 0; tries < all && memory.num_tokens() > 0 && room(); ++tries) {
    const int64_t token = below(memory.num_tokens());
    const auto after = std::upper_bound(a.query_start_loc.begin(), a.query_start_loc.end(), token);
    const auto b = static_cast<size_t>(after - a.query_start_loc.begin()) - 1;
    if (memory.attends(b)) add(b, token);
  }
  return rows;
}

Result<PlainRows> attend_plainly(const CaseMemory& memory, std::vector<SampledRow> rows, bool fp8_products) {
  const bool on_gpu = memory.device().info().kind == DeviceKind::kCuda;
  const int64_t most_scores = on_gpu ? int64_t{1} << 26 : int64_t{1} << 21;
  PlainRows plain;
  plain.dim_v = memory.test().spec.value_head_dim();
  // Rows of similar length together, so that the rectangle of scores has little waste.
  std::sort(rows.begin(), rows.end(),
            [](const SampledRow& x, const SampledRow& y) { return x.end - x.begin < y.end - y.begin; });
  for (size_t begin = 0; begin < rows.size();) {
    size_t end = begin;
    while (end < rows.size()) {
      const int64_t keys = rows[end].end - rows[end].begin + kSegmentKeys;
      if (end > begin && keys * static_cast<int64_t>(end + 1 - begin) > most_scores) break;
      ++end;
    }
    RowResults results;
    const std::vector<SampledRow> group(rows.begin() + static_cast<int64_t>(begin),
                                        rows.begin() + static_cast<int64_t>(end));
    SEXTANT_RETURN_IF_ERROR(attend_group(memory, group, results));
    allow(memory, group, results, fp8_products, plain);
    begin = end;
  }
  plain.rows = std::move(rows);
  return plain;
}

std::string compare(const CaseMemory& memory, const PlainRows& plain, const std::vector<uint8_t>& out,
                    const std::vector<float>& lse, double* worst) {
  const auto dim_v = static_cast<size_t>(plain.dim_v);
  for (size_t r = 0; r < plain.rows.size(); ++r) {
    const SampledRow& row = plain.rows[r];
    const int64_t first = row.token * memory.out_row_elements() + int64_t{row.head} * plain.dim_v;
    for (size_t d = 0; d < dim_v; ++d) {
      const double got = reference::load(memory.test().out_dtype(), out.data(), first + static_cast<int64_t>(d));
      const double expected = plain.out[r * dim_v + d], allowed = plain.allowed[r * dim_v + d];
      const double error = std::fabs(got - expected);
      if (worst != nullptr && error / allowed > *worst) *worst = error / allowed;
      if (!(error <= allowed))
        return fmt::format("out[{}, {}, {}] is {:.6g}; plain attention over keys {}..{} says {:.6g} +- {:.3g}",
                           row.token, row.head, d, got, row.begin, row.end - 1, expected, allowed);
    }
    if (!memory.test().options.lse_out) continue;
    const double got = lse[static_cast<size_t>(row.head * memory.rows() + row.token)];
    const bool both_empty = std::isinf(plain.lse[r]) && std::isinf(got) && got < 0;
    if (!both_empty && !(std::fabs(got - plain.lse[r]) <= plain.allowed_lse[r]))
      return fmt::format("lse[{}, {}] is {:.8g}; plain attention over keys {}..{} says {:.8g} +- {:.3g}", row.head,
                         row.token, got, row.begin, row.end - 1, plain.lse[r], plain.allowed_lse[r]);
  }
  return {};
}

std::string unwritten(const CaseMemory& memory, const std::vector<uint8_t>& out, const std::vector<float>& lse) {
  const AttentionSpec& s = memory.test().spec;
  const int64_t row_elements = memory.out_row_elements(), width = int64_t{s.num_heads} * s.value_head_dim();
  const DType dtype = memory.test().out_dtype();
  const auto element = static_cast<int64_t>(size_of(dtype));
  const std::vector<bool> written = memory.written_rows();
  for (int64_t row = 0; row < memory.rows(); ++row) {
    const uint8_t* at = out.data() + row * row_elements * element;
    const bool padding_row = !written[static_cast<size_t>(row)];
    for (int64_t i = 0; i < row_elements; ++i) {
      const bool outside = padding_row || i >= width;
      bool poisoned = true, finite = false;
      for (int64_t byte = 0; byte < element; ++byte) poisoned = poisoned && at[i * element + byte] == 0xFF;
      if (outside && !poisoned)
        return fmt::format("element {} of row {} of out was written, which is not the call's ({} tokens, {} wide)", i,
                           row, memory.num_tokens(), width);
      if (outside) continue;
      if (dtype == DType::kF32)
        finite = (at[i * 4 + 3] & 0x7F) != 0x7F || (at[i * 4 + 2] & 0x80) == 0;
      else if (dtype == DType::kBF16)
        finite = (at[i * 2 + 1] & 0x7F) != 0x7F || (at[i * 2] & 0x80) == 0;
      else
        finite = (at[i * 2 + 1] & 0x7C) != 0x7C;
      if (!finite)
        return fmt::format("out[{}, {}, {}] is {}", row, i / s.value_head_dim(), i % s.value_head_dim(),
                           poisoned ? "not written" : "not finite");
    }
  }
  if (!memory.test().options.lse_out) return {};
  for (int64_t head = 0; head < s.num_heads; ++head)
    for (int64_t row = 0; row < memory.rows(); ++row) {
      const float value = lse[static_cast<size_t>(head * memory.rows() + row)];
      const bool ours = written[static_cast<size_t>(row)];
      if (ours && std::isnan(value)) return fmt::format("lse[{}, {}] is NaN", head, row);
      if (!ours && !std::isnan(value))
        return fmt::format("lse[{}, {}] was written, which is not the call's", head, row);
    }
  return {};
}

}  // namespace sextant::verify
