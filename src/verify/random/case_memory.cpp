// How the memory of a random case is laid out and filled.
#include "verify/random/case_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "reference/numbers.h"
#include "verify/random/launch.h"

namespace sextant::verify {
namespace {

constexpr size_t kGuardBytes = 4096;
constexpr uint8_t kGuard = 0xa5;
constexpr int64_t kSpareBlocks = 3;
constexpr float kInt8Unit = 1.0F / 32;  // int8 numbers of a normal distribution of this spread use the format well
constexpr uint64_t kQuerySalt = 0x51, kKeySalt = 0x4b, kValueSalt = 0x56, kSharedSalt = 0x53, kSpanSalt = 0x5350;

uint32_t bits_of(DType dtype, double value) {
  uint8_t cell[4] = {};
  reference::store(dtype, cell, 0, value);
  uint32_t bits = 0;
  for (size_t i = 0; i < size_of(dtype); ++i) bits |= static_cast<uint32_t>(cell[i]) << (8 * i);
  return bits;
}

double rounded(DType dtype, double value) {
  uint8_t cell[4] = {};
  reference::store(dtype, cell, 0, value);
  return reference::load(dtype, cell, 0);
}

// Normal numbers, a few extreme ones and zeros among them.
std::vector<double> random_numbers(uint64_t seed, double spread) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> gauss(0, spread);
  std::vector<double> numbers(kTableSize);
  for (double& x : numbers) x = gauss(engine);
  numbers[1] = 0;
  numbers[2] = -0.0;
  numbers[3] = 4.5 * spread;
  numbers[4] = -4.5 * spread;
  return numbers;
}

// Powers of two, so that a number of a wider format that is on the narrow format's grid survives being stored.
std::vector<float> random_scales(uint64_t seed, int32_t count, DType dtype) {
  if (!is_fp8(dtype)) return std::vector<float>(static_cast<size_t>(count), 1.0F);
  std::mt19937_64 engine(seed);
  std::vector<float> scales(static_cast<size_t>(count));
  for (float& s : scales) s = std::ldexp(1.0F, -static_cast<int>(engine() % 4));
  return scales;
}

struct Tables {
  std::vector<uint32_t> stored;   // [kTableSize]
  std::vector<float> values;      // [scales][kTableSize]
  std::vector<uint32_t> widened;  // [scales][kTableSize]: the values in another format
};
Tables number_tables(const std::vector<double>& numbers, DType stored, const std::vector<float>& scales, DType wide) {
  Tables t;
  for (double x : numbers) t.stored.push_back(bits_of(stored, x));
  for (float scale : scales)
    for (double x : numbers) {
      const double value = rounded(stored, x) * static_cast<double>(scale);
      t.values.push_back(static_cast<float>(value));
      t.widened.push_back(bits_of(wide, value));
    }
  return t;
}

template <class T>
Status put(Device& device, DeviceBuffer& buffer, const std::vector<T>& values) {
  auto made = DeviceBuffer::make(device, values.data(), values.size() * sizeof(T));
  if (!made) return made.status();
  buffer = std::move(*made);
  return Status::ok();
}
Status take(Device& device, DeviceBuffer& buffer, size_t bytes) {
  auto made = DeviceBuffer::make(device, bytes);
  if (!made) return made.status();
  buffer = std::move(*made);
  return Status::ok();
}

TensorView rows_view(void* data, DType dtype, int64_t rows, int64_t heads, int64_t dim, int64_t row_padding) {
  TensorView view = make_view(data, dtype, {rows, heads, dim});
  view.stride[0] += row_padding;
  return view;
}

// Spans of a request, whatever batch it stands in: they follow from its positions alone.
std::vector<TokenSpan> spans_of(const AttentionSpec& spec, int32_t seq_len, uint64_t seed) {
  std::vector<TokenSpan> of_position(static_cast<size_t>(spec.has_spans() ? seq_len : 0));
  std::mt19937_64 engine(seed);
  const auto upto = [&](int64_t most) { return static_cast<int64_t>(engine() % static_cast<uint64_t>(most + 1)); };
  const int64_t most = spec.max_span_len;
  for (int64_t at = upto(most); at < static_cast<int64_t>(of_position.size());) {
    const int64_t end = at + 1 + upto(most - 1);
    for (int64_t i = at; i < std::min<int64_t>(end, seq_len); ++i)
      of_position[static_cast<size_t>(i)] = {static_cast<int32_t>(at), static_cast<int32_t>(end)};
    at = end + upto(1) * upto(most);  // half of them side by side
  }
  return of_position;
}

int64_t blocks_of(int32_t seq_len, int32_t block_size) { return (int64_t{seq_len} + block_size - 1) / block_size; }

}  // namespace

std::vector<Member> members_of(const std::vector<RequestShape>& requests, uint64_t seed) {
  std::vector<Member> members;
  members.reserve(requests.size());
  for (size_t b = 0; b < requests.size(); ++b) members.push_back({requests[b], mix(seed * 65536 + b)});
  return members;
}

Result<std::unique_ptr<CaseMemory>> CaseMemory::make(Device& device, const RandomCase& test,
                                                     const std::vector<std::vector<Member>>& batches) {
  std::unique_ptr<CaseMemory> memory(new CaseMemory(device, test));
  SEXTANT_RETURN_IF_ERROR(memory->allocate(batches));
  SEXTANT_RETURN_IF_ERROR(memory->make_tables());
  return memory;
}

Status CaseMemory::allocate(const std::vector<std::vector<Member>>& batches) {
  const AttentionSpec& s = test_.spec;
  const MlaSpec& m = s.mla;
  const bool mla = m.enabled();
  int64_t most_blocks = 0, most_keys = 0, tokens = 0, most_requests = 1;
  for (const auto& batch : batches) {
    int64_t blocks = 0, keys = 0;
    tokens = 0;
    for (const Member& member : batch) {
      blocks += blocks_of(member.shape.seq_len, test_.block_size);
      keys += member.shape.seq_len;
      tokens += member.shape.query_len;
      columns_ = std::max(columns_, blocks_of(member.shape.seq_len, test_.block_size));
    }
    most_blocks = std::max(most_blocks, blocks);
    most_keys = std::max(most_keys, keys);
    most_requests = std::max<int64_t>(most_requests, static_cast<int64_t>(batch.size()));
  }
  columns_ += 1;
  rows_ = tokens + test_.padding_tokens;
  cache_.layout = test_.layout;
  cache_.dtype = test_.cache_dtype;
  cache_.scales = test_.token_scales ? KvScales::kTokenHead : KvScales::kShared;
  cache_.block_size = test_.block_size;
  cache_.num_blocks = most_blocks + kSpareBlocks;
  cache_.num_kv_heads = mla ? 1 : s.num_kv_heads;
  cache_.head_dim = mla ? m.kv_lora_rank + m.qk_rope_head_dim : s.head_dim;
  cache_.head_dim_v = mla ? m.kv_lora_rank : s.value_head_dim();
  most_key_rows_ = most_keys;

  const int64_t padding = test_.row_padding, element = static_cast<int64_t>(size_of(s.dtype));
  const int64_t out_element = static_cast<int64_t>(size_of(test_.out_dtype()));
  const auto row_bytes = [&](int64_t elements, DType dtype) {
    return static_cast<size_t>(rows_ * (elements + padding)) * size_of(dtype);
  };
  SEXTANT_RETURN_IF_ERROR(take(*device_, q_, row_bytes(int64_t{s.num_heads} * s.head_dim, s.query_type())));
  tensors_.q = rows_view(q_.data(), s.query_type(), rows_, s.num_heads, s.head_dim, padding);
  row_elements_ = int64_t{s.num_heads} * s.value_head_dim() + padding;
  SEXTANT_RETURN_IF_ERROR(take(*device_, out_, static_cast<size_t>(rows_ * row_elements_ * out_element)));
  tensors_.out = rows_view(out_.data(), test_.out_dtype(), rows_, s.num_heads, s.value_head_dim(), padding);
  SEXTANT_RETURN_IF_ERROR(take(*device_, lse_, static_cast<size_t>(rows_ * s.num_heads) * sizeof(float)));
  tensors_.lse = make_view(lse_.data(), DType::kF32, {s.num_heads, rows_});
  if (mla) {
    SEXTANT_RETURN_IF_ERROR(take(*device_, kv_c_, row_bytes(m.kv_lora_rank, s.dtype)));
    SEXTANT_RETURN_IF_ERROR(take(*device_, k_pe_, row_bytes(m.qk_rope_head_dim, s.dtype)));
    tensors_.kv_c = make_view(kv_c_.data(), s.dtype, {rows_, m.kv_lora_rank});
    tensors_.k_pe = make_view(k_pe_.data(), s.dtype, {rows_, m.qk_rope_head_dim});
    tensors_.kv_c.stride[0] += padding;
    tensors_.k_pe.stride[0] += padding;
    const int64_t weight_rows = int64_t{s.num_heads} * (m.qk_nope_head_dim + m.v_head_dim);
    SEXTANT_RETURN_IF_ERROR(take(*device_, weight_, static_cast<size_t>(weight_rows * m.kv_lora_rank * element)));
    SEXTANT_RETURN_IF_ERROR(
        take(*device_, weight_values_, static_cast<size_t>(weight_rows * m.kv_lora_rank) * sizeof(float)));
    tensors_.kv_b_proj = make_view(weight_.data(), s.dtype, {weight_rows, m.kv_lora_rank});
  } else {
    SEXTANT_RETURN_IF_ERROR(take(*device_, k_, row_bytes(int64_t{s.num_kv_heads} * s.head_dim, s.dtype)));
    SEXTANT_RETURN_IF_ERROR(take(*device_, v_, row_bytes(int64_t{s.num_kv_heads} * s.value_head_dim(), s.dtype)));
    tensors_.k = rows_view(k_.data(), s.dtype, rows_, s.num_kv_heads, s.head_dim, padding);
    tensors_.v = rows_view(v_.data(), s.dtype, rows_, s.num_kv_heads, s.value_head_dim(), padding);
  }
  const size_t cache_element = size_of(cache_.dtype);
  for (DeviceBuffer* buffer : {&k_cache_, &k_expected_})
    SEXTANT_RETURN_IF_ERROR(take(*device_, *buffer, static_cast<size_t>(k_elements(cache_)) * cache_element));
  for (DeviceBuffer* buffer : {&v_cache_, &v_expected_})
    SEXTANT_RETURN_IF_ERROR(take(*device_, *buffer, static_cast<size_t>(v_elements(cache_)) * cache_element));
  for (DeviceBuffer* buffer : {&k_token_scales_, &v_token_scales_})
    if (test_.token_scales)
      SEXTANT_RETURN_IF_ERROR(
          take(*device_, *buffer,
               static_cast<size_t>(cache_.num_blocks * cache_.block_size * cache_.num_kv_heads) * sizeof(float)));
  tensors_.cache = make_kv_cache_view(cache_, k_cache_.data(), mla ? nullptr : v_cache_.data());

  SEXTANT_RETURN_IF_ERROR(
      take(*device_, q_values_, static_cast<size_t>(rows_ * s.num_heads * s.head_dim) * sizeof(float)));
  const int64_t kv_heads = cache_.num_kv_heads;
  SEXTANT_RETURN_IF_ERROR(
      take(*device_, key_values_, static_cast<size_t>(most_keys * kv_heads * cache_.head_dim) * sizeof(float)));
  if (!mla)
    SEXTANT_RETURN_IF_ERROR(
        take(*device_, value_values_, static_cast<size_t>(most_keys * kv_heads * cache_.head_dim_v) * sizeof(float)));

  SEXTANT_RETURN_IF_ERROR(take(*device_, query_start_loc_, static_cast<size_t>(most_requests + 1) * sizeof(int32_t)));
  SEXTANT_RETURN_IF_ERROR(take(*device_, seq_lens_, static_cast<size_t>(most_requests) * sizeof(int32_t)));
  SEXTANT_RETURN_IF_ERROR(
      take(*device_, block_table_, static_cast<size_t>(most_requests * columns_) * sizeof(int32_t)));
  SEXTANT_RETURN_IF_ERROR(take(*device_, slot_mapping_, static_cast<size_t>(rows_) * sizeof(int64_t)));
  if (s.has_spans()) {
    SEXTANT_RETURN_IF_ERROR(take(*device_, token_spans_, static_cast<size_t>(rows_) * sizeof(TokenSpan)));
    tensors_.token_spans = token_spans_.as<int32_t>();
  }
  tensors_.query_start_loc = query_start_loc_.as<int32_t>();
  tensors_.seq_lens = seq_lens_.as<int32_t>();
  tensors_.block_table = block_table_.as<int32_t>();
  tensors_.block_table_stride = columns_;
  tensors_.slot_mapping = test_.writes ? slot_mapping_.as<int64_t>() : nullptr;
  if (!test_.writes && !test_.is_op()) tensors_.k = tensors_.v = tensors_.kv_c = tensors_.k_pe = {};
  return Status::ok();
}

Status CaseMemory::make_tables() {
  const AttentionSpec& s = test_.spec;
  const uint64_t seed = mix(test_.seed);
  const int32_t scales = test_.num_scales;
  const std::vector<float> q_scale = random_scales(seed + 1, scales, s.query_type());
  const DType scaled = test_.token_scales ? DType::kF32 : test_.cache_dtype;  // a token's scale is its own
  const std::vector<float> k_scale = random_scales(seed + 2, scales, scaled);
  const std::vector<float> v_scale = random_scales(seed + 3, scales, scaled);
  const double spread = test_.magnitude;
  const Tables q = number_tables(random_numbers(seed + 4, spread), s.query_type(), q_scale, s.dtype);
  const double stored_spread = test_.cache_dtype == DType::kI8 ? 1 / static_cast<double>(kInt8Unit) : 1;
  const Tables k = number_tables(random_numbers(seed + 5, stored_spread), test_.cache_dtype, k_scale, s.dtype);
  const Tables v = number_tables(random_numbers(seed + 6, stored_spread), test_.cache_dtype, v_scale, s.dtype);
  SEXTANT_RETURN_IF_ERROR(put(*device_, q_bits_, q.stored));
  SEXTANT_RETURN_IF_ERROR(put(*device_, q_worth_, q.values));
  SEXTANT_RETURN_IF_ERROR(put(*device_, k_bits_, k.stored));
  SEXTANT_RETURN_IF_ERROR(put(*device_, k_worth_, k.values));
  SEXTANT_RETURN_IF_ERROR(put(*device_, k_new_bits_, k.widened));
  SEXTANT_RETURN_IF_ERROR(put(*device_, v_bits_, v.stored));
  SEXTANT_RETURN_IF_ERROR(put(*device_, v_worth_, v.values));
  SEXTANT_RETURN_IF_ERROR(put(*device_, v_new_bits_, v.widened));
  SEXTANT_RETURN_IF_ERROR(put(*device_, q_scale_, q_scale));
  SEXTANT_RETURN_IF_ERROR(put(*device_, k_scale_, k_scale));
  SEXTANT_RETURN_IF_ERROR(put(*device_, v_scale_, v_scale));
  tensors_.cache.k_scale = (test_.token_scales ? k_token_scales_ : k_scale_).as<float>();
  tensors_.cache.v_scale = (test_.token_scales ? v_token_scales_ : v_scale_).as<float>();
  tensors_.cache.num_scales = scales;
  if (s.has_fp8_queries()) {
    tensors_.q_scale = q_scale_.as<float>();
    tensors_.num_q_scales = scales;
  }
  std::mt19937_64 engine(seed + 7);
  std::vector<float> per_head(static_cast<size_t>(s.num_heads));
  for (float& x : per_head) x = static_cast<float>(std::uniform_real_distribution<double>(-1, 3)(engine));
  SEXTANT_RETURN_IF_ERROR(put(*device_, sinks_, per_head));
  for (int32_t h = 0; h < s.num_heads; ++h)
    per_head[static_cast<size_t>(h)] = static_cast<float>(std::exp2(-8.0 * (h + 1) / s.num_heads));
  SEXTANT_RETURN_IF_ERROR(put(*device_, slopes_, per_head));
  tensors_.sinks = s.has_sinks ? sinks_.as<float>() : nullptr;
  tensors_.alibi_slopes = s.has_alibi ? slopes_.as<float>() : nullptr;
  if (!s.mla.enabled()) return Status::ok();

  const Tables w = number_tables(random_numbers(seed + 8, 1 / std::sqrt(static_cast<double>(s.mla.kv_lora_rank))),
                                 s.dtype, {1.0F}, s.dtype);
  SEXTANT_RETURN_IF_ERROR(put(*device_, w_bits_, w.stored));
  SEXTANT_RETURN_IF_ERROR(put(*device_, w_worth_, w.values));
  const int64_t rows = tensors_.kv_b_proj.shape[0];
  std::vector<uint64_t> row_seeds(static_cast<size_t>(rows));
  for (size_t i = 0; i < row_seeds.size(); ++i) row_seeds[i] = mix(seed + 9 + i);
  DeviceBuffer seeds;
  SEXTANT_RETURN_IF_ERROR(put(*device_, seeds, row_seeds));
  FillRows fill;
  fill.table = table(w_bits_, w_worth_, s.dtype, 1);
  fill.row_seeds = seeds.as<uint64_t>();
  fill.to = weight_.data();
  fill.row_stride = s.mla.kv_lora_rank;
  fill.values = weight_values_.as<float>();
  fill.dim = s.mla.kv_lora_rank;
  return launch(*device_, rows, fill);
}

TokenScales CaseMemory::token_scales(uint64_t salt) const {
  if (!test_.token_scales) return {};
  return {test_.cache_dtype == DType::kI8 ? kInt8Unit : 1.0F, salt};
}

ValueTable CaseMemory::table(const DeviceBuffer& bits, const DeviceBuffer& values, DType dtype, int32_t scales) const {
  ValueTable t;
  t.bits = bits.as<uint32_t>();
  t.values = values.as<float>();
  t.num_bits = static_cast<int32_t>(bits.bytes() / (kTableSize * sizeof(uint32_t)));
  t.num_values = scales;
  t.element_bytes = static_cast<int32_t>(size_of(dtype));
  return t;
}

Status CaseMemory::load(const std::vector<Member>& batch, uint64_t block_seed) {
  // Tables: blocks in random order, so that neighbours in a sequence are strangers in memory.
  std::vector<int32_t> order(static_cast<size_t>(cache_.num_blocks));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(block_seed));
  StepArrays& a = arrays_;
  a = {};
  a.query_start_loc = {0};
  a.key_rows = {0};
  a.block_table.assign(batch.size() * static_cast<size_t>(columns_), -7);
  a.slot_mapping.assign(static_cast<size_t>(rows_), -1);
  std::vector<uint64_t> query_seeds(static_cast<size_t>(rows_)), key_seeds, new_seeds(static_cast<size_t>(rows_));
  std::vector<int64_t> slots_before, slots_after;
  const int64_t shared_blocks = test_.shared_prefix_len / test_.block_size;
  size_t next = 0;
  for (size_t b = 0; b < batch.size(); ++b) {
    const auto [query_len, seq_len] = batch[b].shape;
    int32_t* table_row = a.block_table.data() + b * static_cast<size_t>(columns_);
    for (int64_t i = 0; i < blocks_of(seq_len, test_.block_size); ++i)
      table_row[i] = b > 0 && i < shared_blocks ? a.block_table[static_cast<size_t>(i)] : order[next++];
    const int32_t context = seq_len - query_len;
    for (int32_t at = 0; at < seq_len; ++at) {
      const int64_t slot = int64_t{table_row[at / test_.block_size]} * test_.block_size + at % test_.block_size;
      const uint64_t owner = at < test_.shared_prefix_len ? mix(test_.seed + kSharedSalt) : batch[b].seed;
      key_seeds.push_back(mix(owner + kKeySalt) + mix(static_cast<uint64_t>(at)));
      const bool shared = b > 0 && at < test_.shared_prefix_len;  // the first request's rows fill it
      slots_before.push_back(!shared && (at < context || !test_.writes) ? slot : -1);
      slots_after.push_back(shared ? -1 : slot);
      if (at < context) continue;
      const auto token = static_cast<size_t>(a.query_start_loc.back() + at - context);
      a.slot_mapping[token] = slot;
      new_seeds[token] = key_seeds.back();
    }
    const std::vector<TokenSpan> spans = spans_of(test_.spec, seq_len, mix(batch[b].seed + kSpanSalt));
    for (int64_t position = context; position < seq_len && test_.spec.has_spans(); ++position)
      a.token_spans.push_back(position < 0 ? TokenSpan{} : spans[static_cast<size_t>(position)]);
    for (int32_t i = 0; i < query_len; ++i)
      query_seeds[static_cast<size_t>(a.query_start_loc.back()) + static_cast<size_t>(i)] =
          mix(batch[b].seed + kQuerySalt) + mix(static_cast<uint64_t>(int64_t{context} + i));
    a.query_start_loc.push_back(a.query_start_loc.back() + query_len);
    a.seq_lens.push_back(seq_len);
    a.key_rows.push_back(a.key_rows.back() + seq_len);
  }
  const auto upload = [&](const DeviceBuffer& buffer, const auto& values) {
    return values.empty()
               ? Status::ok()
               : device_->copy_to_device(buffer.data(), values.data(), values.size() * sizeof(values[0]), {});
  };
  SEXTANT_RETURN_IF_ERROR(upload(query_start_loc_, a.query_start_loc));
  SEXTANT_RETURN_IF_ERROR(upload(seq_lens_, a.seq_lens));
  SEXTANT_RETURN_IF_ERROR(upload(block_table_, a.block_table));
  SEXTANT_RETURN_IF_ERROR(upload(slot_mapping_, a.slot_mapping));
  SEXTANT_RETURN_IF_ERROR(upload(token_spans_, a.token_spans));
  SEXTANT_RETURN_IF_ERROR(fill_queries(query_seeds));
  SEXTANT_RETURN_IF_ERROR(fill_new_tokens(new_seeds));
  SEXTANT_RETURN_IF_ERROR(fill_caches(key_seeds, slots_before, slots_after));
  SEXTANT_RETURN_IF_ERROR(device_->fill(out_.data(), 0xFF, out_.bytes(), {}));
  SEXTANT_RETURN_IF_ERROR(device_->fill(lse_.data(), 0xFF, lse_.bytes(), {}));
  return device_->synchronize({});
}

Status CaseMemory::fill_queries(const std::vector<uint64_t>& seeds) {
  const AttentionSpec& s = test_.spec;
  DeviceBuffer row_seeds;
  SEXTANT_RETURN_IF_ERROR(put(*device_, row_seeds, seeds));
  FillRows fill;
  fill.table = table(q_bits_, q_worth_, s.query_type(), test_.num_scales);
  fill.row_seeds = row_seeds.as<uint64_t>();
  fill.to = q_.data();
  fill.row_stride = tensors_.q.stride[0];
  fill.head_stride = s.head_dim;
  fill.values = q_values_.as<float>();
  fill.num_heads = s.num_heads;
  fill.dim = s.head_dim;
  return launch(*device_, int64_t{arrays_.query_start_loc.back()} * s.num_heads, fill);
}

Status CaseMemory::fill_new_tokens(const std::vector<uint64_t>& seeds) {
  const AttentionSpec& s = test_.spec;
  DeviceBuffer row_seeds;
  SEXTANT_RETURN_IF_ERROR(put(*device_, row_seeds, seeds));
  const auto fill_one = [&](const TensorView& view, const DeviceBuffer& bits, const DeviceBuffer& worth, int32_t heads,
                            int32_t dim, int32_t first_dim) {
    FillRows fill;
    fill.table = table(bits, worth, s.dtype, test_.num_scales);
    fill.row_seeds = row_seeds.as<uint64_t>();
    fill.to = view.data;
    fill.row_stride = view.stride[0];
    fill.head_stride = dim;
    fill.num_heads = heads;
    fill.dim = dim;
    fill.first_dim = first_dim;
    return launch(*device_, int64_t{arrays_.query_start_loc.back()} * heads, fill);
  };
  if (const MlaSpec& m = s.mla; m.enabled()) {
    SEXTANT_RETURN_IF_ERROR(fill_one(tensors_.kv_c, k_new_bits_, k_worth_, 1, m.kv_lora_rank, 0));
    return fill_one(tensors_.k_pe, k_new_bits_, k_worth_, 1, m.qk_rope_head_dim, m.kv_lora_rank);
  }
  SEXTANT_RETURN_IF_ERROR(fill_one(tensors_.k, k_new_bits_, k_worth_, s.num_kv_heads, s.head_dim, 0));
  return fill_one(tensors_.v, v_new_bits_, v_worth_, s.num_kv_heads, s.value_head_dim(), 0);
}

Status CaseMemory::fill_caches(const std::vector<uint64_t>& seeds, const std::vector<int64_t>& before,
                               const std::vector<int64_t>& after) {
  DeviceBuffer row_seeds, slots_before, slots_after;
  SEXTANT_RETURN_IF_ERROR(put(*device_, row_seeds, seeds));
  SEXTANT_RETURN_IF_ERROR(put(*device_, slots_before, before));
  SEXTANT_RETURN_IF_ERROR(put(*device_, slots_after, after));
  const auto key_rows = static_cast<int64_t>(seeds.size());
  const auto fill_one = [&](const DeviceBuffer& bits, const DeviceBuffer& worth, int32_t dim, const KvAddressing& rule,
                            const DeviceBuffer& cache, const DeviceBuffer& expected, const DeviceBuffer& values,
                            const DeviceBuffer& scales, uint64_t salt) {
    const int64_t count = key_rows * cache_.num_kv_heads;
    FillCache fill;
    fill.scales = token_scales(salt);
    if (test_.token_scales) {
      fill.token_scales = scales.as<float>();
      fill.scale_strides = tensors_.cache.scale_strides;
      SEXTANT_RETURN_IF_ERROR(device_->fill(scales.data(), 0xFF, scales.bytes(), {}));
    }
    fill.table = table(bits, worth, cache_.dtype, test_.num_scales);
    fill.row_seeds = row_seeds.as<uint64_t>();
    fill.address = rule;
    fill.block_size = cache_.block_size;
    fill.num_heads = cache_.num_kv_heads;
    fill.dim = dim;
    for (const auto& [memory, slots] : {std::pair{&cache, &slots_before}, std::pair{&expected, &slots_after}}) {
      SEXTANT_RETURN_IF_ERROR(device_->fill(memory->data(), nan_byte(cache_.dtype), memory->bytes(), {}));
      SEXTANT_RETURN_IF_ERROR(device_->synchronize({}));
      fill.to = memory->data();
      fill.slots = slots->as<int64_t>();
      SEXTANT_RETURN_IF_ERROR(launch(*device_, count, fill));
    }
    FillRows plain;
    plain.table = fill.table;
    plain.scales = fill.scales;
    plain.row_seeds = row_seeds.as<uint64_t>();
    plain.values = values.as<float>();
    plain.num_heads = cache_.num_kv_heads;
    plain.dim = dim;
    return launch(*device_, count, plain);
  };
  SEXTANT_RETURN_IF_ERROR(fill_one(k_bits_, k_worth_, cache_.head_dim, tensors_.cache.k_addr, k_cache_, k_expected_,
                                   key_values_, k_token_scales_, kKeySalt));
  if (cache_.is_latent()) return Status::ok();
  return fill_one(v_bits_, v_worth_, cache_.head_dim_v, tensors_.cache.v_addr, v_cache_, v_expected_, value_values_,
                  v_token_scales_, kValueSalt);
}

Status CaseMemory::take_workspace(size_t bytes, uint8_t poison) {
  if (workspace_.data() == nullptr || workspace_bytes_ != bytes)
    SEXTANT_RETURN_IF_ERROR(take(*device_, workspace_, bytes + kGuardBytes));
  workspace_bytes_ = bytes;
  SEXTANT_RETURN_IF_ERROR(device_->fill(workspace_.data(), poison, bytes, {}));
  SEXTANT_RETURN_IF_ERROR(device_->fill(workspace_.as<uint8_t>() + bytes, kGuard, kGuardBytes, {}));
  tensors_.workspace = workspace_.data();
  tensors_.workspace_bytes = bytes;
  return device_->synchronize({});
}

PlanRequest CaseMemory::plan_request() const {
  PlanRequest request;
  request.spec = test_.spec;
  request.cache = cache_;
  request.batch.query_start_loc = arrays_.query_start_loc;
  request.batch.seq_lens = arrays_.seq_lens;
  request.batch.max_blocks_per_request = columns_;
  request.batch.shared_prefix_len = test_.shared_prefix_len;
  if (test_.host_tables) {
    request.batch.block_table = arrays_.block_table;
    if (test_.writes) request.batch.slot_mapping = arrays_.slot_mapping;
  }
  request.options = test_.options;
  return request;
}

bool CaseMemory::attends(size_t b) const {
  const int32_t query_len = arrays_.query_start_loc[b + 1] - arrays_.query_start_loc[b];
  return query_len > 0 && (!test_.is_op() || test_.op.filter.matches(query_len, arrays_.seq_lens[b]));
}

std::vector<bool> CaseMemory::written_rows() const {
  std::vector<bool> rows(static_cast<size_t>(rows_));
  for (size_t b = 0; b < arrays_.seq_lens.size(); ++b)
    for (int32_t t = arrays_.query_start_loc[b]; attends(b) && t < arrays_.query_start_loc[b + 1]; ++t)
      rows[static_cast<size_t>(t)] = true;
  return rows;
}

Result<std::vector<uint8_t>> CaseMemory::out() const {
  std::vector<uint8_t> bytes(out_.bytes());
  SEXTANT_RETURN_IF_ERROR(out_.read(bytes.data(), bytes.size()));
  return bytes;
}

Result<std::vector<float>> CaseMemory::lse() const {
  std::vector<float> values(lse_.bytes() / sizeof(float));
  SEXTANT_RETURN_IF_ERROR(lse_.read(values.data(), lse_.bytes()));
  return values;
}

Result<std::string> CaseMemory::faults() const {
  for (const auto& [name, expected, got] :
       {std::tuple{"K", &k_expected_, &k_cache_}, std::tuple{"V", &v_expected_, &v_cache_}}) {
    CompareBytes compare;
    compare.expected = expected->as<uint8_t>();
    compare.got = got->as<uint8_t>();
    compare.bytes = static_cast<int64_t>(got->bytes());
    const int64_t runs = (compare.bytes + kCompareBytes - 1) / kCompareBytes;
    if (runs == 0) continue;
    DeviceBuffer differs;
    SEXTANT_RETURN_IF_ERROR(take(*device_, differs, static_cast<size_t>(runs)));
    compare.differs = differs.as<uint8_t>();
    SEXTANT_RETURN_IF_ERROR(launch(*device_, runs, compare));
    std::vector<uint8_t> host(static_cast<size_t>(runs));
    SEXTANT_RETURN_IF_ERROR(differs.read(host.data(), host.size()));
    const auto at = std::find(host.begin(), host.end(), uint8_t{1});
    if (at != host.end())
      return fmt::format("the {} cache is not what writing the new tokens makes of it (within {} bytes from byte {})",
                         name, kCompareBytes, (at - host.begin()) * kCompareBytes);
  }
  if (workspace_.data() == nullptr) return std::string();
  std::vector<uint8_t> guard(kGuardBytes);
  SEXTANT_RETURN_IF_ERROR(
      device_->copy_to_host(guard.data(), workspace_.as<uint8_t>() + workspace_bytes_, kGuardBytes, {}));
  SEXTANT_RETURN_IF_ERROR(device_->synchronize({}));
  for (size_t i = 0; i < guard.size(); ++i)
    if (guard[i] != kGuard) return fmt::format("byte {} behind the workspace of {} was written", i, workspace_bytes_);
  return std::string();
}

AttendShared CaseMemory::attend_shared() const {
  const AttentionSpec& s = test_.spec;
  AttendShared a;
  a.q = q_values_.as<float>();
  a.keys = key_values_.as<float>();
  a.values = cache_.is_latent() ? key_values_.as<float>() : value_values_.as<float>();
  a.sinks = tensors_.sinks;
  a.alibi_slopes = tensors_.alibi_slopes;
  a.num_heads = s.num_heads;
  a.num_kv_heads = cache_.num_kv_heads;
  a.dim = cache_.head_dim;
  a.dim_v = cache_.head_dim_v;
  a.value_stride = cache_.is_latent() ? cache_.head_dim : cache_.head_dim_v;
  a.softmax_scale = static_cast<double>(s.softmax_scale);
  a.soft_cap = static_cast<double>(s.logits_soft_cap);
  return a;
}

}  // namespace sextant::verify
