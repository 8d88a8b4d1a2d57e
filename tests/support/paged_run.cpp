#include "support/paged_run.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "reference/numbers.h"

namespace sextant::testing {
namespace {

constexpr size_t kGuardBytes = 64 << 10;
constexpr uint8_t kGuard = 0xa5;

// A number in (-1, 1) for a place in a tensor.
double value_at(uint64_t tensor, uint64_t place) {
  uint64_t x = (tensor + 1) * 0x9e3779b97f4a7c15u + place * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 31)) * 0x94d049bb133111ebu;
  return static_cast<double>((x >> 40) & 0xffff) / 32768.0 - 1.0;
}

std::vector<uint8_t> random_tensor(DType dtype, int64_t elements, uint64_t tensor, double magnitude) {
  std::vector<uint8_t> bytes(static_cast<size_t>(elements) * size_of(dtype));
  for (int64_t i = 0; i < elements; ++i)
    reference::store(dtype, bytes.data(), i, magnitude * value_at(tensor, static_cast<uint64_t>(i)));
  return bytes;
}

std::vector<uint8_t> guarded_cache(const KvCacheSpec& spec, const KvAddressing& address, int64_t elements, int32_t dims,
                                   uint64_t tensor) {
  std::vector<uint8_t> bytes(static_cast<size_t>(elements) * size_of(spec.dtype) + 2 * kGuardBytes, kGuard);
  for (int64_t block = 0; block < spec.num_blocks; ++block)
    for (int32_t head = 0; head < spec.num_kv_heads; ++head)
      for (int32_t token = 0; token < spec.block_size; ++token)
        for (int32_t dim = 0; dim < dims; ++dim) {
          const int64_t place = ((block * spec.num_kv_heads + head) * spec.block_size + token) * dims + dim;
          reference::store(spec.dtype, bytes.data() + kGuardBytes, address.offset(block, head, token, dim),
                           value_at(tensor, static_cast<uint64_t>(place)));
        }
  return bytes;
}

KvCacheSpec cache_for(const Device& device, const Backend& backend, const AttentionSpec& spec) {
  KvCacheSpec cache;
  const bool mla = spec.mla.enabled();
  cache.layout = backend.preferred_layout(device.info(), spec.dtype);
  cache.dtype = spec.dtype;
  cache.num_blocks = kNumBlocks;
  cache.block_size = kBlockSize;
  cache.num_kv_heads = mla ? 1 : spec.num_kv_heads;
  cache.head_dim = mla ? spec.mla.kv_lora_rank + spec.mla.qk_rope_head_dim : spec.head_dim;
  cache.head_dim_v = mla ? spec.mla.kv_lora_rank : spec.value_head_dim();
  return cache;
}

Status make_buffer(Device& device, size_t bytes, DeviceBuffer& buffer) {
  auto made = DeviceBuffer::make(device, bytes);
  if (!made) return made.status();
  buffer = std::move(*made);
  return Status::ok();
}

template <class T>
Status upload(Device& device, const DeviceBuffer& buffer, const std::vector<T>& values) {
  return device.copy_to_device(buffer.data(), values.data(), values.size() * sizeof(T), {});
}

}  // namespace

Step make_step(const std::vector<StepRequest>& requests, uint32_t seed) {
  Step step;
  step.query_start_loc = {0};
  step.block_table.resize(requests.size() * kColumns);
  std::iota(step.block_table.begin(), step.block_table.end(), 0);
  std::shuffle(step.block_table.begin(), step.block_table.end(), std::mt19937(seed));
  for (size_t b = 0; b < requests.size(); ++b) {
    const auto [query_len, seq_len] = requests[b];
    step.query_start_loc.push_back(step.query_start_loc.back() + query_len);
    step.seq_lens.push_back(seq_len);
    for (int32_t at = seq_len - query_len; at < seq_len; ++at)
      step.slot_mapping.push_back(int64_t{step.block_table[b * kColumns + static_cast<size_t>(at / kBlockSize)]} *
                                      kBlockSize +
                                  at % kBlockSize);
  }
  return step;
}

Result<std::unique_ptr<PagedRun>> PagedRun::make(Device& device, const Backend& backend, const AttentionSpec& spec,
                                                 const Step& planned, const PlanOptions& options, bool host_tables) {
  std::unique_ptr<PagedRun> run(new PagedRun(device));
  run->cache_ = cache_for(device, backend, spec);
  PlanRequest request{spec, run->cache_, {}, options};
  request.batch.query_start_loc = planned.query_start_loc;
  request.batch.seq_lens = planned.seq_lens;
  request.batch.max_blocks_per_request = kColumns;
  if (host_tables) {
    request.batch.block_table = planned.block_table;
    request.batch.slot_mapping = planned.slot_mapping;
  }
  auto plan = backend.plan(device, request);
  if (!plan) return plan.status();
  run->plan_ = *plan;
  SEXTANT_RETURN_IF_ERROR(run->bind(spec, planned.query_start_loc.back()));
  SEXTANT_RETURN_IF_ERROR(run->load(planned));
  return run;
}

Status PagedRun::bind(const AttentionSpec& spec, int64_t tokens) {
  tokens_ = tokens;
  row_elements_ = int64_t{spec.num_heads} * spec.value_head_dim();
  const auto input = [&](std::initializer_list<int64_t> shape, double magnitude, TensorView& view) {
    const int64_t elements = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    const auto bytes = random_tensor(spec.dtype, elements, inputs_.size(), magnitude);
    auto buffer = DeviceBuffer::make(*device_, bytes.data(), bytes.size());
    if (!buffer) return buffer.status();
    view = make_view(buffer->data(), spec.dtype, shape);
    inputs_.push_back(std::move(*buffer));
    return Status::ok();
  };
  SEXTANT_RETURN_IF_ERROR(input({tokens, spec.num_heads, spec.head_dim}, 1, tensors_.q));
  if (const MlaSpec& m = spec.mla; m.enabled()) {
    SEXTANT_RETURN_IF_ERROR(input({tokens, m.kv_lora_rank}, 1, tensors_.kv_c));
    SEXTANT_RETURN_IF_ERROR(input({tokens, m.qk_rope_head_dim}, 1, tensors_.k_pe));
    const int64_t rows = int64_t{spec.num_heads} * (m.qk_nope_head_dim + m.v_head_dim);
    SEXTANT_RETURN_IF_ERROR(input({rows, m.kv_lora_rank}, 0.1, tensors_.kv_b_proj));
  } else {
    SEXTANT_RETURN_IF_ERROR(input({tokens, spec.num_kv_heads, spec.head_dim}, 1, tensors_.k));
    SEXTANT_RETURN_IF_ERROR(input({tokens, spec.num_kv_heads, spec.value_head_dim()}, 1, tensors_.v));
  }
  SEXTANT_RETURN_IF_ERROR(fill_cache());
  SEXTANT_RETURN_IF_ERROR(make_buffer(*device_, sizeof(int32_t) * (kRequests + 1), query_start_loc_));
  SEXTANT_RETURN_IF_ERROR(make_buffer(*device_, sizeof(int32_t) * kRequests, seq_lens_));
  SEXTANT_RETURN_IF_ERROR(make_buffer(*device_, sizeof(int32_t) * kNumBlocks, block_table_));
  SEXTANT_RETURN_IF_ERROR(make_buffer(*device_, sizeof(int64_t) * static_cast<size_t>(tokens), slot_mapping_));
  SEXTANT_RETURN_IF_ERROR(
      make_buffer(*device_, static_cast<size_t>(tokens * row_elements_) * size_of(spec.dtype), out_));
  SEXTANT_RETURN_IF_ERROR(make_buffer(*device_, plan_->workspace_bytes(), workspace_));
  tensors_.out = make_view(out_.data(), spec.dtype, {tokens, spec.num_heads, spec.value_head_dim()});
  tensors_.query_start_loc = query_start_loc_.as<int32_t>();
  tensors_.seq_lens = seq_lens_.as<int32_t>();
  tensors_.block_table = block_table_.as<int32_t>();
  tensors_.block_table_stride = kColumns;
  tensors_.slot_mapping = slot_mapping_.as<int64_t>();
  tensors_.workspace = workspace_.data();
  tensors_.workspace_bytes = workspace_.bytes();
  return Status::ok();
}

Status PagedRun::fill_cache() {
  k_start_ = guarded_cache(cache_, k_addressing(cache_), k_elements(cache_), cache_.head_dim, 100);
  SEXTANT_RETURN_IF_ERROR(make_buffer(*device_, k_start_.size(), k_cache_));
  void* v = nullptr;
  if (!cache_.is_latent()) {
    v_start_ = guarded_cache(cache_, v_addressing(cache_), v_elements(cache_), cache_.head_dim_v, 101);
    SEXTANT_RETURN_IF_ERROR(make_buffer(*device_, v_start_.size(), v_cache_));
    v = v_cache_.as<char>() + kGuardBytes;
  }
  tensors_.cache = make_kv_cache_view(cache_, k_cache_.as<char>() + kGuardBytes, v);
  return Status::ok();
}

Status PagedRun::load(const Step& step) {
  SEXTANT_RETURN_IF_ERROR(upload(*device_, k_cache_, k_start_));
  if (!v_start_.empty()) SEXTANT_RETURN_IF_ERROR(upload(*device_, v_cache_, v_start_));
  SEXTANT_RETURN_IF_ERROR(upload(*device_, query_start_loc_, step.query_start_loc));
  SEXTANT_RETURN_IF_ERROR(upload(*device_, seq_lens_, step.seq_lens));
  SEXTANT_RETURN_IF_ERROR(upload(*device_, block_table_, step.block_table));
  SEXTANT_RETURN_IF_ERROR(upload(*device_, slot_mapping_, step.slot_mapping));
  SEXTANT_RETURN_IF_ERROR(device_->fill(out_.data(), 0xff, out_.bytes(), {}));
  return device_->synchronize({});
}

Result<std::vector<float>> PagedRun::out() const {
  std::vector<uint8_t> bytes(out_.bytes());
  SEXTANT_RETURN_IF_ERROR(out_.read(bytes.data(), bytes.size()));
  std::vector<float> values(static_cast<size_t>(tokens_ * row_elements_));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(reference::load(tensors_.out.dtype, bytes.data(), static_cast<int64_t>(i)));
  return values;
}

Result<std::vector<uint8_t>> PagedRun::cache_bytes() const {
  std::vector<uint8_t> bytes(k_start_.size() + v_start_.size());
  SEXTANT_RETURN_IF_ERROR(k_cache_.read(bytes.data(), k_start_.size()));
  if (!v_start_.empty()) SEXTANT_RETURN_IF_ERROR(v_cache_.read(bytes.data() + k_start_.size(), v_start_.size()));
  return bytes;
}

Result<bool> PagedRun::out_untouched() const {
  std::vector<uint8_t> bytes(out_.bytes());
  SEXTANT_RETURN_IF_ERROR(out_.read(bytes.data(), bytes.size()));
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t x) { return x == 0xff; });
}

Result<bool> PagedRun::guards_intact() const {
  auto bytes = cache_bytes();
  if (!bytes) return bytes.status();
  const auto intact = [&](size_t at) {
    return std::all_of(bytes->begin() + static_cast<int64_t>(at),
                       bytes->begin() + static_cast<int64_t>(at + kGuardBytes), [](uint8_t x) { return x == kGuard; });
  };
  bool all = intact(0) && intact(k_start_.size() - kGuardBytes);
  if (!v_start_.empty()) all = all && intact(k_start_.size()) && intact(bytes->size() - kGuardBytes);
  return all;
}

}  // namespace sextant::testing
