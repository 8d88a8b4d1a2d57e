// Draws the inputs of `bench` and `replay` once, and puts them and the caches on the device.
#include "attention_data.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "reference/numbers.h"
#include "sextant/model.h"

namespace sextant::cli {
namespace {

constexpr int64_t kPeriod = 65521;  // the largest prime below 2^16

// Sum of 12 uniforms: near enough to normal, and the same everywhere.
double near_normal(std::mt19937_64& bits) {
  double sum = -6;
  for (int i = 0; i < 12; ++i) sum += static_cast<double>(bits() >> 11) * 0x1p-53;
  return sum;
}

Result<DeviceBuffer> random_buffer(Device& device, DType dtype, int64_t elements, double magnitude, uint64_t seed) {
  const std::vector<uint8_t> bytes = random_elements(dtype, elements, magnitude, seed);
  return DeviceBuffer::make(device, bytes.data(), bytes.size());
}

Status fill(Result<DeviceBuffer> made, DeviceBuffer& buffer) {
  if (!made) return made.status();
  buffer = std::move(*made);
  return Status::ok();
}

// A token's scale under which random numbers fill int8's range, and are themselves in fp8.
float token_scale(DType dtype) { return dtype == DType::kI8 ? 4.0F / 127 : 1.0F; }

KvCacheView view_of(const KvCacheSpec& spec, void* k, void* v, const void* k_scale, const void* v_scale) {
  KvCacheView view = make_kv_cache_view(spec, k, v);
  if (!spec.has_token_scales()) return view;
  view.k_scale = static_cast<const float*>(k_scale);
  view.v_scale = static_cast<const float*>(v_scale);
  return view;
}

// View of rows [first_row, first_row + tokens) of a dense tensor.
TensorView rows_of(const DeviceBuffer& buffer, DType dtype, int64_t first_row, int64_t tokens,
                   std::initializer_list<int64_t> row_shape) {
  int64_t row_elements = 1;
  for (const int64_t n : row_shape) row_elements *= n;
  void* data = buffer.as<uint8_t>() + first_row * row_elements * static_cast<int64_t>(size_of(dtype));
  const int64_t* shape = row_shape.begin();
  return row_shape.size() == 2 ? make_view(data, dtype, {tokens, shape[0], shape[1]})
                               : make_view(data, dtype, {tokens, shape[0]});
}

}  // namespace

std::vector<uint8_t> random_elements(DType dtype, int64_t elements, double magnitude, uint64_t seed) {
  const size_t element = size_of(dtype);
  const size_t drawn = static_cast<size_t>(std::min(elements, kPeriod)) * element;
  std::vector<uint8_t> bytes(static_cast<size_t>(elements) * element);
  std::mt19937_64 bits(seed);
  for (int64_t i = 0; i < std::min(elements, kPeriod); ++i)
    reference::store(dtype, bytes.data(), i, magnitude * near_normal(bits));
  for (size_t done = drawn; done < bytes.size(); done += std::min(drawn, bytes.size() - done))
    std::memcpy(bytes.data() + done, bytes.data(), std::min(drawn, bytes.size() - done));
  return bytes;
}

Status ReusedBuffer::reserve(Device& device, size_t bytes) {
  if (bytes <= buffer_.bytes() && buffer_.data() != nullptr) return Status::ok();
  buffer_ = DeviceBuffer();  // before the new one: both need not fit
  return fill(DeviceBuffer::make(device, bytes + bytes / 2), buffer_);
}

Status ReusedBuffer::upload(Device& device, const void* host, size_t bytes) {
  SEXTANT_RETURN_IF_ERROR(reserve(device, bytes));
  return bytes == 0 ? Status::ok() : device.copy_to_device(buffer_.data(), host, bytes, {});
}

Result<AttentionInputs> AttentionInputs::make(Device& device, const AttentionSpec& spec, int64_t rows, uint64_t seed) {
  AttentionInputs inputs;
  inputs.spec_ = spec;
  inputs.rows_ = rows;
  const DType t = spec.dtype;
  SEXTANT_RETURN_IF_ERROR(
      fill(random_buffer(device, spec.query_type(), rows * spec.num_heads * spec.head_dim, 1, seed), inputs.q_));
  if (spec.mla.enabled()) {
    const MlaSpec& m = spec.mla;
    const int64_t projected = int64_t{spec.num_heads} * (m.qk_nope_head_dim + m.v_head_dim);
    const double weight = 1 / std::sqrt(static_cast<double>(m.kv_lora_rank));  // projected keys stay near N(0, 1)
    SEXTANT_RETURN_IF_ERROR(fill(random_buffer(device, t, rows * m.kv_lora_rank, 1, seed + 1), inputs.kv_c_));
    SEXTANT_RETURN_IF_ERROR(fill(random_buffer(device, t, rows * m.qk_rope_head_dim, 1, seed + 2), inputs.k_pe_));
    SEXTANT_RETURN_IF_ERROR(
        fill(random_buffer(device, t, projected * m.kv_lora_rank, weight, seed + 3), inputs.kv_b_proj_));
  } else {
    SEXTANT_RETURN_IF_ERROR(
        fill(random_buffer(device, t, rows * spec.num_kv_heads * spec.head_dim, 1, seed + 1), inputs.k_));
    SEXTANT_RETURN_IF_ERROR(
        fill(random_buffer(device, t, rows * spec.num_kv_heads * spec.value_head_dim(), 1, seed + 2), inputs.v_));
  }
  if (spec.has_sinks)
    for (int32_t head = 0; head < spec.num_heads; ++head)
      inputs.host_sinks_.push_back(static_cast<float>(head % 7) * 0.5F - 1.0F);
  if (spec.has_alibi) inputs.host_slopes_ = sextant::alibi_slopes(spec.num_heads);
  const auto upload = [&device](const std::vector<float>& values) {
    return DeviceBuffer::make(device, values.data(), values.size() * sizeof(float));
  };
  SEXTANT_RETURN_IF_ERROR(fill(upload(inputs.host_sinks_), inputs.sinks_));
  SEXTANT_RETURN_IF_ERROR(fill(upload(inputs.host_slopes_), inputs.slopes_));
  return inputs;
}

void AttentionInputs::bind(int64_t first_row, int64_t tokens, RunTensors& t) const {
  const DType dtype = spec_.dtype;
  t.q = rows_of(q_, spec_.query_type(), first_row, tokens, {spec_.num_heads, spec_.head_dim});
  if (spec_.mla.enabled()) {
    const MlaSpec& m = spec_.mla;
    t.kv_c = rows_of(kv_c_, dtype, first_row, tokens, {m.kv_lora_rank});
    t.k_pe = rows_of(k_pe_, dtype, first_row, tokens, {m.qk_rope_head_dim});
    t.kv_b_proj = make_view(kv_b_proj_.data(), dtype,
                            {int64_t{spec_.num_heads} * (m.qk_nope_head_dim + m.v_head_dim), m.kv_lora_rank});
  } else {
    t.k = rows_of(k_, dtype, first_row, tokens, {spec_.num_kv_heads, spec_.head_dim});
    t.v = rows_of(v_, dtype, first_row, tokens, {spec_.num_kv_heads, spec_.value_head_dim()});
  }
  t.sinks = spec_.has_sinks ? sinks_.as<float>() : nullptr;
  t.alibi_slopes = spec_.has_alibi ? slopes_.as<float>() : nullptr;
}

Result<PagedCache> PagedCache::make(Device& device, const KvCacheSpec& spec, bool random, uint64_t seed) {
  PagedCache cache;
  cache.spec_ = spec;
  const auto buffer = [&](int64_t elements, uint64_t stream) {
    return random ? random_buffer(device, spec.dtype, elements, 1 / token_scale(spec.dtype), seed + stream)
                  : DeviceBuffer::make(device, static_cast<size_t>(elements) * size_of(spec.dtype));
  };
  SEXTANT_RETURN_IF_ERROR(fill(buffer(k_elements(spec), 0), cache.k_));
  SEXTANT_RETURN_IF_ERROR(fill(buffer(v_elements(spec), 1), cache.v_));
  if (!spec.has_token_scales()) return cache;
  const std::vector<float> scales(static_cast<size_t>(scale_elements(spec)), random ? token_scale(spec.dtype) : NAN);
  for (DeviceBuffer* to : {&cache.k_scale_, &cache.v_scale_})
    SEXTANT_RETURN_IF_ERROR(fill(DeviceBuffer::make(device, scales.data(), scales.size() * sizeof(float)), *to));
  return cache;
}

KvCacheView PagedCache::view() const { return view_of(spec_, k_.data(), v_.data(), k_scale_.data(), v_scale_.data()); }

Result<KvCacheView> PagedCache::read(const Device& device, HostCopy& host) const {
  if (device.info().kind == DeviceKind::kCpu) return view();  // host memory already, and there may be gigabytes of it
  for (const auto& [from, to] : {std::pair{&k_, &host.k}, std::pair{&v_, &host.v}, std::pair{&k_scale_, &host.k_scale},
                                 std::pair{&v_scale_, &host.v_scale}}) {
    to->resize(from->bytes());
    if (!to->empty()) SEXTANT_RETURN_IF_ERROR(from->read(to->data(), to->size()));
  }
  return view_of(spec_, host.k.data(), host.v.data(), host.k_scale.data(), host.v_scale.data());
}

Status BatchOnDevice::upload(Device& device, const BatchArrays& batch) {
  const auto put = [&device](ReusedBuffer& buffer, const auto& values) {
    return buffer.upload(device, values.data(), values.size() * sizeof(values[0]));
  };
  SEXTANT_RETURN_IF_ERROR(put(query_start_loc_, batch.query_start_loc));
  SEXTANT_RETURN_IF_ERROR(put(seq_lens_, batch.seq_lens));
  SEXTANT_RETURN_IF_ERROR(put(block_table_, batch.block_table));
  SEXTANT_RETURN_IF_ERROR(put(slot_mapping_, batch.slot_mapping));
  stride_ = batch.max_blocks_per_request;
  return device.synchronize({});  // the host arrays may change next
}

void BatchOnDevice::bind(RunTensors& t) const {
  t.query_start_loc = static_cast<const int32_t*>(query_start_loc_.data());
  t.seq_lens = static_cast<const int32_t*>(seq_lens_.data());
  t.block_table = static_cast<const int32_t*>(block_table_.data());
  t.block_table_stride = stride_;
  t.slot_mapping = static_cast<const int64_t*>(slot_mapping_.data());
}

}  // namespace sextant::cli
