// Puts a case on a device, runs it and compares everything that was written.
#include "verify/run_case.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "reference/numbers.h"
#include "verify/device_buffer.h"

namespace sextant::verify {
namespace {

// Everything a run needs, on the host and on the device.
struct Setup {
  KvCacheSpec cache;
  int64_t columns = 0;                      // of the block table
  std::vector<int32_t> block_table;         // unused entries are not valid block ids
  std::vector<int64_t> slot_mapping;        // one a row of q; padding rows -1
  std::vector<uint8_t> k_memory, v_memory;  // NaN but for the context
  std::vector<float> k_scales, v_scales;    // the same, of a cache with a scale a token and head
  HostTensor k, v, kv_c, k_pe;              // new tokens, packed; padding rows NaN
  DeviceBuffer device_k, device_v;
};

KvCacheSpec cache_spec(const Device& device, const Backend& backend, const Case& test) {
  KvCacheSpec cache;
  const AttentionSpec& s = test.spec;
  cache.dtype = test.cache_dtype;
  cache.scales = test.scales;
  cache.block_size = test.block_size;
  cache.num_kv_heads = s.mla.enabled() ? 1 : s.num_kv_heads;
  cache.head_dim = s.mla.enabled() ? s.mla.kv_lora_rank + s.mla.qk_rope_head_dim : s.head_dim;
  cache.head_dim_v = s.mla.enabled() ? s.mla.kv_lora_rank : s.value_head_dim();
  cache.layout = test.use_preferred_layout || s.mla.enabled()
                     ? backend.preferred_layout(device.info(), test.cache_dtype)
                     : test.layout;
  return cache;
}

// Blocks that no query sees are freed: their ids are not valid.
int64_t first_visible_block(const CaseData& data, size_t b, int32_t block_size) {
  const int64_t first_query = data.seq_lens[b] - (data.query_start_loc[b + 1] - data.query_start_loc[b]);
  const auto first_token = static_cast<size_t>(data.query_start_loc[b]);
  const TokenSpan span = first_token < data.token_spans.size() ? data.token_spans[first_token] : TokenSpan{};
  return std::max<int64_t>(0, data.test.spec.mask().first_key(first_query, span)) / block_size;
}

// Blocks in random order, a few left over, so that neighbours in a sequence are strangers in memory.
void lay_out_blocks(const CaseData& data, uint64_t seed, Setup& setup) {
  const int32_t block_size = setup.cache.block_size;
  int64_t used = 0;
  for (int32_t seq_len : data.seq_lens) {
    const int64_t blocks = (seq_len + block_size - 1) / block_size;
    used += blocks;
    setup.columns = std::max(setup.columns, blocks);
  }
  setup.columns += 1;
  setup.cache.num_blocks = used + data.test.spare_blocks;
  std::vector<int32_t> order(static_cast<size_t>(setup.cache.num_blocks));
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 engine(seed);
  std::shuffle(order.begin(), order.end(), engine);
  setup.block_table.assign(data.seq_lens.size() * static_cast<size_t>(setup.columns), -7);
  const int64_t shared_blocks = data.test.shared_prefix_len / block_size;
  std::vector<int64_t> first(data.seq_lens.size());
  for (size_t b = 0; b < first.size(); ++b) first[b] = first_visible_block(data, b, block_size);
  const int64_t first_shared = first.empty() ? 0 : *std::min_element(first.begin(), first.end());
  size_t next = 0;
  for (size_t b = 0; b < data.seq_lens.size(); ++b) {
    int32_t* row = setup.block_table.data() + b * static_cast<size_t>(setup.columns);
    for (int64_t i = 0; i * block_size < data.seq_lens[b]; ++i)
      if (i >= (i < shared_blocks ? first_shared : first[b]))
        row[i] = b > 0 && i < shared_blocks ? setup.block_table[static_cast<size_t>(i)] : order[next++];
  }
}

// Stores one token the way the cache defines it, independently of any kernel.
void store_token(const CaseData& data, size_t b, int64_t position, Setup& setup) {
  const KvCacheView view = make_kv_cache_view(setup.cache, setup.k_memory.data(), setup.v_memory.data());
  const KvCacheSpec& c = setup.cache;
  const int64_t block =
      setup.block_table[b * static_cast<size_t>(setup.columns) + static_cast<size_t>(position / c.block_size)];
  if (position < 0 || block < 0) return;
  const int64_t token = position % c.block_size;
  const auto put = [&](const HostTensor& from, void* memory, const KvAddressing& address, int32_t dim,
                       const std::vector<float>& shared, std::vector<float>& token_scales) {
    for (int32_t h = 0; h < c.num_kv_heads; ++h) {
      const int64_t row = (position * c.num_kv_heads + h) * dim;
      double scale = is_fp8(c.dtype) ? shared[shared.size() == 1 ? 0 : static_cast<size_t>(h)] : 1.0;
      if (c.has_token_scales()) {
        double largest = 0;
        for (int32_t d = 0; d < dim; ++d) largest = std::max(largest, std::fabs(from.get(row + d)));
        const float found = std::max(static_cast<float>(largest) / largest_stored(c.dtype), kSmallestTokenScale);
        token_scales[static_cast<size_t>(view.scale_strides.offset(block, h, token))] = found;
        scale = static_cast<double>(found);
      }
      for (int32_t d = 0; d < dim; ++d)
        reference::store(c.dtype, memory, address.offset(block, h, token, d), from.get(row + d) / scale);
    }
  };
  put(data.keys[b], view.k, view.k_addr, c.head_dim, data.k_scale, setup.k_scales);
  if (!c.is_latent()) put(data.values[b], view.v, view.v_addr, c.head_dim_v, data.v_scale, setup.v_scales);
}

void pack_new_tokens(const CaseData& data, Setup& setup) {
  const AttentionSpec& s = data.test.spec;
  const int64_t rows = data.q.shape[0];
  const bool mla = s.mla.enabled();
  const int64_t width = mla ? s.mla.kv_lora_rank + s.mla.qk_rope_head_dim : int64_t{s.num_kv_heads} * s.head_dim;
  const int64_t width_v = int64_t{s.num_kv_heads} * s.value_head_dim();
  if (mla) {
    setup.kv_c = HostTensor::zeros(s.dtype, {rows, s.mla.kv_lora_rank});
    setup.k_pe = HostTensor::zeros(s.dtype, {rows, s.mla.qk_rope_head_dim});
  } else {
    setup.k = HostTensor::zeros(s.dtype, {rows, s.num_kv_heads, s.head_dim});
    setup.v = HostTensor::zeros(s.dtype, {rows, s.num_kv_heads, s.value_head_dim()});
  }
  for (HostTensor* tensor : {&setup.k, &setup.v, &setup.kv_c, &setup.k_pe})
    std::fill(tensor->bytes.begin(), tensor->bytes.end(), 0xFF);
  const auto element = static_cast<int64_t>(size_of(s.dtype));
  const auto copy = [&](HostTensor& to, int64_t to_row, const HostTensor& from, int64_t from_offset, int64_t count) {
    std::memcpy(to.bytes.data() + to_row * count * element, from.bytes.data() + from_offset * element,
                static_cast<size_t>(count * element));
  };
  for (size_t b = 0; b < data.seq_lens.size(); ++b)
    for (int64_t t = data.query_start_loc[b]; t < data.query_start_loc[b + 1]; ++t) {
      const int64_t position = data.seq_lens[b] - (data.query_start_loc[b + 1] - t);
      if (position < 0) continue;
      if (mla) {
        copy(setup.kv_c, t, data.keys[b], position * width, s.mla.kv_lora_rank);
        copy(setup.k_pe, t, data.keys[b], position * width + s.mla.kv_lora_rank, s.mla.qk_rope_head_dim);
      } else {
        copy(setup.k, t, data.keys[b], position * width, width);
        copy(setup.v, t, data.values[b], position * width_v, width_v);
      }
      const int32_t block = setup.block_table[b * static_cast<size_t>(setup.columns) +
                                              static_cast<size_t>(position / setup.cache.block_size)];
      setup.slot_mapping[static_cast<size_t>(t)] =
          int64_t{block} * setup.cache.block_size + position % setup.cache.block_size;
    }
}

Setup make_setup(const Device& device, const Backend& backend, const CaseData& data, uint64_t seed) {
  Setup setup;
  setup.cache = cache_spec(device, backend, data.test);
  lay_out_blocks(data, seed, setup);
  setup.slot_mapping.assign(static_cast<size_t>(data.q.shape[0]), -1);
  setup.k_memory.assign(static_cast<size_t>(k_elements(setup.cache)) * size_of(setup.cache.dtype),
                        nan_byte(setup.cache.dtype));
  setup.v_memory.assign(static_cast<size_t>(v_elements(setup.cache)) * size_of(setup.cache.dtype),
                        nan_byte(setup.cache.dtype));
  if (setup.cache.has_token_scales())
    setup.k_scales = setup.v_scales = std::vector<float>(
        static_cast<size_t>(setup.cache.num_blocks * setup.cache.block_size * setup.cache.num_kv_heads), NAN);
  for (size_t b = 0; b < data.seq_lens.size(); ++b) {
    const int64_t context = data.seq_lens[b] - (data.query_start_loc[b + 1] - data.query_start_loc[b]);
    const int64_t stored = data.test.new_keys ? context : data.seq_lens[b];
    for (int64_t position = 0; position < stored; ++position) store_token(data, b, position, setup);
  }
  pack_new_tokens(data, setup);
  return setup;
}

// What a run left behind.
struct Outcome {
  std::vector<uint8_t> out;
  std::vector<float> lse;
  std::vector<uint8_t> k_memory, v_memory;
  std::vector<float> k_scales, v_scales;  // of tokens and heads
};

#define ASSIGN_OR_RETURN(declaration, expression)                  \
  auto declaration##_result = (expression);                        \
  if (!declaration##_result) return declaration##_result.status(); \
  auto declaration = std::move(declaration##_result).value()

Result<Outcome> execute(Device& device, const Backend& backend, const CaseData& data, Setup& setup) {
  const AttentionSpec& s = data.test.spec;
  const int64_t rows = data.q.shape[0];
  PlanRequest request;
  request.spec = s;
  request.cache = setup.cache;
  static_assert(sizeof(TokenSpan) == 2 * sizeof(int32_t));
  const auto* span_words = reinterpret_cast<const int32_t*>(data.token_spans.data());
  request.batch = {data.query_start_loc,
                   data.seq_lens,
                   setup.block_table,
                   setup.columns,
                   setup.slot_mapping,
                   data.test.shared_prefix_len,
                   {span_words, 2 * data.token_spans.size()}};
  if (!data.test.new_keys) request.batch.slot_mapping = {};
  request.options = data.test.options;
  auto plan = backend.plan(device, request);
  if (!plan) return plan.status();

  const auto upload = [&](const auto& values) {
    return DeviceBuffer::make(device, values.data(), values.size() * sizeof(values[0]));
  };
  ASSIGN_OR_RETURN(q, upload(data.q.bytes));
  ASSIGN_OR_RETURN(k, upload(setup.k.bytes));
  ASSIGN_OR_RETURN(v, upload(setup.v.bytes));
  ASSIGN_OR_RETURN(kv_c, upload(setup.kv_c.bytes));
  ASSIGN_OR_RETURN(k_pe, upload(setup.k_pe.bytes));
  ASSIGN_OR_RETURN(weight, upload(data.kv_b_proj.bytes));
  ASSIGN_OR_RETURN(k_cache, upload(setup.k_memory));
  ASSIGN_OR_RETURN(v_cache, upload(setup.v_memory));
  const bool token_scales = setup.cache.has_token_scales();
  ASSIGN_OR_RETURN(k_scale, upload(token_scales ? setup.k_scales : data.k_scale));
  ASSIGN_OR_RETURN(v_scale, upload(token_scales ? setup.v_scales : data.v_scale));
  ASSIGN_OR_RETURN(q_scale, upload(data.q_scale));
  ASSIGN_OR_RETURN(query_start_loc, upload(data.query_start_loc));
  ASSIGN_OR_RETURN(seq_lens, upload(data.seq_lens));
  ASSIGN_OR_RETURN(block_table, upload(setup.block_table));
  ASSIGN_OR_RETURN(slot_mapping, upload(setup.slot_mapping));
  ASSIGN_OR_RETURN(sinks, upload(data.sinks));
  ASSIGN_OR_RETURN(slopes, upload(data.alibi_slopes));
  ASSIGN_OR_RETURN(spans, upload(data.token_spans));
  const int64_t out_elements = rows * s.num_heads * s.value_head_dim();
  ASSIGN_OR_RETURN(out, DeviceBuffer::make(device, static_cast<size_t>(out_elements) * size_of(s.dtype)));
  ASSIGN_OR_RETURN(lse, DeviceBuffer::make(device, static_cast<size_t>(rows * s.num_heads) * sizeof(float)));
  ASSIGN_OR_RETURN(workspace, DeviceBuffer::make(device, (*plan)->workspace_bytes()));

  RunTensors t;
  t.q = data.q.view(q.data());
  t.out = make_view(out.data(), s.dtype, {rows, s.num_heads, s.value_head_dim()});
  t.lse = make_view(lse.data(), DType::kF32, {s.num_heads, rows});
  if (s.mla.enabled()) t.kv_b_proj = data.kv_b_proj.view(weight.data());
  if (data.test.new_keys && s.mla.enabled()) {
    t.kv_c = setup.kv_c.view(kv_c.data());
    t.k_pe = setup.k_pe.view(k_pe.data());
  } else if (data.test.new_keys) {
    t.k = setup.k.view(k.data());
    t.v = setup.v.view(v.data());
  }
  t.cache = make_kv_cache_view(setup.cache, k_cache.data(), v_cache.data());
  t.cache.k_scale = k_scale.as<float>();
  t.cache.v_scale = v_scale.as<float>();
  t.cache.num_scales = data.test.num_scales;
  if (s.has_fp8_queries()) {
    t.q_scale = q_scale.as<float>();
    t.num_q_scales = data.test.num_scales;
  }
  t.query_start_loc = query_start_loc.as<int32_t>();
  t.seq_lens = seq_lens.as<int32_t>();
  t.block_table = block_table.as<int32_t>();
  t.block_table_stride = setup.columns;
  if (data.test.new_keys) t.slot_mapping = slot_mapping.as<int64_t>();
  t.sinks = s.has_sinks ? sinks.as<float>() : nullptr;
  t.alibi_slopes = s.has_alibi ? slopes.as<float>() : nullptr;
  t.token_spans = s.has_spans() ? spans.as<int32_t>() : nullptr;
  t.workspace = workspace.data();
  t.workspace_bytes = workspace.bytes();
  SEXTANT_RETURN_IF_ERROR((*plan)->run(t, {}));

  Outcome outcome;
  outcome.out.resize(out.bytes());
  outcome.lse.resize(lse.bytes() / sizeof(float));
  outcome.k_memory.resize(k_cache.bytes());
  outcome.v_memory.resize(v_cache.bytes());
  SEXTANT_RETURN_IF_ERROR(out.read(outcome.out.data(), out.bytes()));
  SEXTANT_RETURN_IF_ERROR(lse.read(outcome.lse.data(), lse.bytes()));
  SEXTANT_RETURN_IF_ERROR(k_cache.read(outcome.k_memory.data(), k_cache.bytes()));
  SEXTANT_RETURN_IF_ERROR(v_cache.read(outcome.v_memory.data(), v_cache.bytes()));
  if (!token_scales) return outcome;
  outcome.k_scales.resize(setup.k_scales.size());
  outcome.v_scales.resize(setup.v_scales.size());
  SEXTANT_RETURN_IF_ERROR(k_scale.read(outcome.k_scales.data(), k_scale.bytes()));
  SEXTANT_RETURN_IF_ERROR(v_scale.read(outcome.v_scales.data(), v_scale.bytes()));
  return outcome;
}

std::string check_cache(const CaseData& data, Setup& setup, const Outcome& outcome) {
  for (size_t b = 0; b < data.seq_lens.size(); ++b)
    for (int64_t t = data.query_start_loc[b]; t < data.query_start_loc[b + 1]; ++t)
      store_token(data, b, data.seq_lens[b] - (data.query_start_loc[b + 1] - t), setup);
  for (const auto& [name, expected, got] :
       {std::tuple{"K", &setup.k_memory, &outcome.k_memory}, std::tuple{"V", &setup.v_memory, &outcome.v_memory}})
    if (*expected != *got) {
      const auto at = std::mismatch(expected->begin(), expected->end(), got->begin()).first - expected->begin();
      return fmt::format("the {} cache differs from the oracle's at byte {}", name, at);
    }
  for (const auto& [name, expected, got] :
       {std::tuple{"K", &setup.k_scales, &outcome.k_scales}, std::tuple{"V", &setup.v_scales, &outcome.v_scales}})
    for (size_t i = 0; i < expected->size(); ++i)
      if (!((*expected)[i] == (*got)[i] || (std::isnan((*expected)[i]) && std::isnan((*got)[i]))))
        return fmt::format("scale {} of the {} cache is {}; the oracle says {}", i, name, (*got)[i], (*expected)[i]);
  return {};
}

std::string check_padding(const CaseData& data, const Outcome& outcome) {
  const AttentionSpec& s = data.test.spec;
  const auto row_bytes = static_cast<size_t>(s.num_heads * s.value_head_dim()) * size_of(s.dtype);
  for (size_t i = static_cast<size_t>(data.query_start_loc.back()) * row_bytes; i < outcome.out.size(); ++i)
    if (outcome.out[i] != 0xFF) return fmt::format("a padding row of out was written (byte {})", i);
  return {};
}

// Tolerances: out at most twice the error of a plain computation in the same type, plus what fp32 sums may lose; MLA's
// decode rounds twice more on its way through the latent space. lse is always a sum in fp32.
// Where a device multiplies fp8 queries, keys and values as they are, the plain computation has its probabilities in
// e4m3fn, and scores are sums that keep 13 bits below the largest product (Hopper's fp8 matrix products).
constexpr double kFp8SumLoss = 0x1p-11;  // of the sum of |q| |k|

double allowed_error(const CaseData& data, double plain_error, double largest) {
  const DType dtype = data.test.spec.dtype;
  const double fp32_loss = 1e-5 * std::max(1.0, largest);
  if (dtype == DType::kF32) return fp32_loss;
  const double mla = data.test.spec.mla.enabled() ? 2 * reference::epsilon(dtype) * std::max(1.0, largest) : 0;
  return 2 * plain_error + fp32_loss + mla;
}

double allowed_lse_error(const CaseData& data, double lse, double score_mass) {
  const DType dtype = data.test.spec.dtype;
  if (!data.test.spec.mla.enabled() || dtype == DType::kF32)
    return 2e-5 * std::max(1.0, std::fabs(lse)) + kFp8SumLoss * score_mass;
  return reference::epsilon(dtype) * std::max(4.0, std::fabs(lse)) * std::max(1.0, data.test.magnitude);
}

Verdict judge(const CaseData& data, const Outcome& outcome, bool fp8_products) {
  const AttentionSpec& s = data.test.spec;
  const int64_t dim = s.value_head_dim(), rows = data.q.shape[0];
  Verdict verdict;
  double plain = 0, largest = 0;
  for (const CaseData::Expected& e : data.expected) {
    plain = std::max(plain, fp8_products ? e.plain_fp8_error : e.plain_error);
    for (double x : e.row.out) largest = std::max(largest, std::fabs(x));
  }
  verdict.allowed = allowed_error(data, plain, largest);
  const auto fail = [&](std::string message) {
    verdict.kind = Verdict::Kind::kFailed;
    verdict.message = std::move(message);
    return verdict;
  };
  for (const CaseData::Expected& e : data.expected) {
    for (int64_t d = 0; d < dim; ++d) {
      const double got = reference::load(s.dtype, outcome.out.data(), (e.token * s.num_heads + e.head) * dim + d);
      const double error = std::fabs(got - e.row.out[static_cast<size_t>(d)]);
      verdict.max_error = std::max(verdict.max_error, error);
      if (!(error <= verdict.allowed))
        return fail(fmt::format("out[{}, {}, {}] is {}; the oracle says {} +- {:.3g}", e.token, e.head, d, got,
                                e.row.out[static_cast<size_t>(d)], verdict.allowed));
    }
    if (!data.test.options.lse_out) continue;
    const double lse = outcome.lse[static_cast<size_t>(e.head * rows + e.token)];
    const bool both_empty = std::isinf(e.row.lse) && std::isinf(lse) && lse < 0;
    if (!both_empty &&
        !(std::fabs(lse - e.row.lse) <= allowed_lse_error(data, e.row.lse, fp8_products ? e.score_mass : 0)))
      return fail(fmt::format("lse[{}, {}] is {}; the oracle says {}", e.head, e.token, lse, e.row.lse));
  }
  return verdict;
}

}  // namespace

Verdict run_case(Device& device, const Backend& backend, const CaseData& data, uint64_t seed) {
  Setup setup = make_setup(device, backend, data, seed);
  auto outcome = execute(device, backend, data, setup);
  if (!outcome) {
    const bool unsupported = outcome.status().code() == StatusCode::kUnsupported;
    return {unsupported ? Verdict::Kind::kSkipped : Verdict::Kind::kFailed, outcome.status().message(), 0, 0};
  }
  for (const std::string& fault : {check_cache(data, setup, *outcome), check_padding(data, *outcome)})
    if (!fault.empty()) return {Verdict::Kind::kFailed, fault, 0, 0};
  const bool fp8_products = device.info().fp8_products && allows_fp8_products(data.test);
  return judge(data, *outcome, fp8_products);
}

Result<std::vector<uint8_t>> run_for_bytes(Device& device, const Backend& backend, const CaseData& data,
                                           uint64_t seed) {
  Setup setup = make_setup(device, backend, data, seed);
  auto outcome = execute(device, backend, data, setup);
  if (!outcome) return outcome.status();
  return std::move(outcome->out);
}

}  // namespace sextant::verify
