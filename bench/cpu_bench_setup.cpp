#include "cpu_bench_setup.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>

namespace sextant::bench {

Buffer::Buffer(const std::shared_ptr<Device>& device, size_t bytes)
    : memory(*device->allocate(bytes), [device](void* p) { device->deallocate(p); }) {}

AttentionSpec mha_spec(int32_t heads, int32_t kv_heads, int32_t head_dim, DType dtype) {
  AttentionSpec spec;
  spec.num_heads = heads;
  spec.num_kv_heads = kv_heads;
  spec.head_dim = head_dim;
  spec.softmax_scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  spec.dtype = dtype;
  return spec;
}

AttentionSpec mla_spec(int32_t heads) {
  AttentionSpec spec = mha_spec(heads, heads, 192);
  spec.head_dim_v = 128;
  spec.mla = {512, 128, 64, 128};
  return spec;
}

Workload::Workload(const std::shared_ptr<Device>& device, const Backend& backend, const AttentionSpec& spec,
                   DType cache_dtype, BatchShape shape, int32_t block_size)
    : device_(device), backend_(backend), spec_(spec), shape_(shape) {
  const bool mla = spec.mla.enabled();
  cache_.layout = mla ? KvLayout::kLatent : backend.preferred_layout(device->info(), cache_dtype);
  cache_.dtype = cache_dtype;
  cache_.block_size = block_size;
  cache_.num_kv_heads = mla ? 1 : spec.num_kv_heads;
  cache_.head_dim = mla ? spec.mla.kv_lora_rank + spec.mla.qk_rope_head_dim : spec.head_dim;
  cache_.head_dim_v = mla ? spec.mla.kv_lora_rank : spec.value_head_dim();
  lay_out(shape);
  PlanRequest request;
  request.spec = spec;
  request.cache = cache_;
  request.batch = {query_start_loc_, seq_lens_, block_table_,
                   static_cast<int32_t>(block_table_.size() / seq_lens_.size()), slot_mapping_};
  auto plan = backend.plan(*device, request);
  if (!plan) {
    error_ = plan.status().message();
    return;
  }
  plan_ = *plan;
  make_tensors(cache_);
}

// Blocks in random order, as after long service.
void Workload::lay_out(BatchShape shape) {
  const int32_t blocks = (shape.seq_len + cache_.block_size - 1) / cache_.block_size;
  cache_.num_blocks = int64_t{blocks} * shape.requests;
  block_table_.resize(static_cast<size_t>(cache_.num_blocks));
  std::iota(block_table_.begin(), block_table_.end(), 0);
  std::shuffle(block_table_.begin(), block_table_.end(), std::mt19937(7));
  query_start_loc_ = {0};
  for (int32_t b = 0; b < shape.requests; ++b) {
    query_start_loc_.push_back(query_start_loc_.back() + shape.query_len);
    seq_lens_.push_back(shape.seq_len);
    for (int32_t position = shape.seq_len - shape.query_len; position < shape.seq_len; ++position)
      slot_mapping_.push_back(int64_t{block_table_[static_cast<size_t>(b * blocks + position / cache_.block_size)]} *
                                  cache_.block_size +
                              position % cache_.block_size);
  }
}

// Numbers of magnitude 1/4 to 2 in any of the formats: random low bits, a bounded exponent.
Buffer Workload::filled(int64_t elements, DType dtype) {
  Buffer buffer(device_, static_cast<size_t>(elements) * size_of(dtype));
  uint64_t state = 88172645463325252ULL;
  auto next = [&state] {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
  };
  if (size_of(dtype) == 4) {
    auto* p = static_cast<float*>(buffer.data());
    for (int64_t i = 0; i < elements; ++i) p[i] = static_cast<float>(static_cast<int32_t>(next() >> 32)) * 0x1p-31F;
  } else if (size_of(dtype) == 2) {
    auto* p = static_cast<uint16_t*>(buffer.data());
    const uint16_t base = dtype == DType::kBF16 ? 0x3e80 : 0x3400;
    const uint16_t low = dtype == DType::kBF16 ? 0x80ff : 0x83ff;
    for (int64_t i = 0; i < elements; ++i) p[i] = static_cast<uint16_t>(base + (next() & low));
  } else {
    auto* p = static_cast<uint8_t*>(buffer.data());
    for (int64_t i = 0; i < elements; ++i) p[i] = static_cast<uint8_t>(0x28 + (next() & 0x8f));
  }
  return buffer;
}

void Workload::make_tensors(const KvCacheSpec& cache) {
  const auto take = [this](int64_t elements, DType dtype) {
    buffers_.push_back(filled(elements, dtype));
    return buffers_.back().data();
  };
  const int64_t tokens = query_start_loc_.back();
  RunTensors& t = tensors_;
  const auto tensor = [&](int64_t heads, int64_t dim) {
    return make_view(take(tokens * heads * dim, spec_.dtype), spec_.dtype, {tokens, heads, dim});
  };
  t.q = tensor(spec_.num_heads, spec_.head_dim);
  t.out = tensor(spec_.num_heads, spec_.value_head_dim());
  if (spec_.mla.enabled()) {
    const MlaSpec& m = spec_.mla;
    t.kv_c = make_view(take(tokens * m.kv_lora_rank, spec_.dtype), spec_.dtype, {tokens, m.kv_lora_rank});
    t.k_pe = make_view(take(tokens * m.qk_rope_head_dim, spec_.dtype), spec_.dtype, {tokens, m.qk_rope_head_dim});
    const int64_t rows = int64_t{spec_.num_heads} * (m.qk_nope_head_dim + m.v_head_dim);
    t.kv_b_proj = make_view(take(rows * m.kv_lora_rank, spec_.dtype), spec_.dtype, {rows, m.kv_lora_rank});
  } else {
    t.k = tensor(spec_.num_kv_heads, spec_.head_dim);
    t.v = tensor(spec_.num_kv_heads, spec_.value_head_dim());
  }
  void* k = take(k_elements(cache), cache.dtype);
  t.cache = make_kv_cache_view(cache, k, cache.is_latent() ? nullptr : take(v_elements(cache), cache.dtype));
  t.query_start_loc = query_start_loc_.data();
  t.seq_lens = seq_lens_.data();
  t.block_table = block_table_.data();
  t.block_table_stride = static_cast<int64_t>(block_table_.size() / seq_lens_.size());
  t.slot_mapping = slot_mapping_.data();
  t.workspace_bytes = plan_->workspace_bytes();
  buffers_.emplace_back(device_, t.workspace_bytes);
  t.workspace = buffers_.back().data();
}

Status Workload::write_cache(const Device& device) const {
  ReshapeAndCacheArgs args;
  args.k = tensors_.k;
  args.v = tensors_.v;
  args.slot_mapping = slot_mapping_.data();
  args.num_tokens = static_cast<int64_t>(slot_mapping_.size());
  args.cache = tensors_.cache;
  return device.ops(backend_.info().family).reshape_and_cache(args, {});
}

void Workload::read_cache(Executor& executor) const {
  const KvCacheView& c = tensors_.cache;
  for (const auto& [data, elements] : {std::pair{c.k, k_elements(cache_)}, {c.v, v_elements(cache_)}}) {
    const int64_t words = elements * static_cast<int64_t>(size_of(cache_.dtype)) / 8, workers = executor.concurrency();
    const auto* begin = static_cast<const uint64_t*>(data);
    executor.parallel_for(workers, [&](int64_t i, int) {
      uint64_t sums[8] = {};
      for (int64_t j = words * i / workers / 8 * 8; j + 8 <= words * (i + 1) / workers; j += 8)
        for (int l = 0; l < 8; ++l) sums[l] += begin[j + l];
      volatile uint64_t sink = sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
      (void)sink;
    });
  }
}

double Workload::operations() const {
  const double n = shape_.query_len, context = shape_.seq_len - shape_.query_len;
  const double pairs = shape_.requests * (n * context + n * (n + 1) / 2);
  if (spec_.mla.enabled() && shape_.query_len == 1)
    return 2 * pairs * spec_.num_heads * (cache_.head_dim + cache_.head_dim_v);
  return 2 * pairs * spec_.num_heads * (spec_.head_dim + spec_.value_head_dim());
}
double Workload::kv_bytes() const {
  const int64_t dims = cache_.is_latent() ? cache_.head_dim : cache_.head_dim + cache_.head_dim_v;
  return static_cast<double>(shape_.requests) * shape_.seq_len * cache_.num_kv_heads * static_cast<double>(dims) *
         static_cast<double>(size_of(cache_.dtype));
}
double Workload::written_bytes() const {
  return static_cast<double>(slot_mapping_.size()) * spec_.num_kv_heads * (spec_.head_dim + spec_.value_head_dim()) *
         static_cast<double>(size_of(cache_.dtype));
}

}  // namespace sextant::bench
