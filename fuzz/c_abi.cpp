// The C ABI on the CPU: a plan and a run, good and bad fields mixed. Every buffer has exactly the size that the header
// asks for, so that AddressSanitizer sees a byte too many; what is refused must not have been written to.
//
// Fields are spoilt only where the library can know: a caller who lies about the size of his memory is not looked for.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "sextant/sextant.h"

namespace {

using Bytes = std::vector<uint8_t>;

class Dice {
 public:
  Dice(const uint8_t* data, size_t size) : in_(data, size) {}
  int32_t between(int32_t low, int32_t high) { return in_.ConsumeIntegralInRange<int32_t>(low, high); }
  bool rarely() { return in_.ConsumeIntegralInRange<int>(0, 31) == 31; }
  // Mostly `good`; now and then anything at all.
  int32_t spoilt(int32_t good) {
    if (!rarely()) return good;
    return in_.ConsumeBool() ? in_.ConsumeIntegral<int32_t>() : between(-2, 2);
  }
  float spoilt(float good) { return rarely() ? in_.ConsumeFloatingPoint<float>() : good; }
  template <class T>
  T* spoilt(T* good) {
    return rarely() ? nullptr : good;
  }
  bool coin() { return in_.ConsumeBool(); }

 private:
  FuzzedDataProvider in_;
};

sextant_device* device() {
  static sextant_device* opened = [] {
    sextant_device* d = nullptr;
    if (sextant_device_open(SEXTANT_CPU, 0, &d) != SEXTANT_OK) std::abort();
    return d;
  }();
  return opened;
}

int64_t size_of(int32_t dtype) { return dtype == SEXTANT_FP32 ? 4 : dtype <= SEXTANT_BF16 ? 2 : 1; }

sextant_tensor tensor(Dice& dice, Bytes& memory, int32_t dtype, std::initializer_list<int64_t> shape) {
  sextant_tensor t{};
  t.dtype = dtype;
  t.rank = static_cast<int32_t>(shape.size());
  int64_t elements = 1;
  size_t i = 0;
  for (int64_t extent : shape) t.shape[i++] = extent;
  for (i = shape.size(); i-- > 0;) {
    t.stride[i] = elements;
    elements *= t.shape[i];
  }
  memory.assign(static_cast<size_t>(elements * size_of(dtype)), 0x3c);
  t.data = dice.spoilt(memory.data());
  if (dice.rarely()) t.dtype = dice.between(-1, 9);
  if (dice.rarely()) t.rank = dice.between(-1, 7);
  if (dice.rarely()) t.shape[dice.between(0, 2)] -= 1;
  return t;
}

struct Batch {
  std::vector<int32_t> query_start_loc = {0}, seq_lens, block_table;
  std::vector<int64_t> slot_mapping;
  int32_t columns = 0, blocks = 0;
};

Batch draw_batch(Dice& dice, int32_t block_size) {
  Batch b;
  const int32_t requests = dice.between(0, 4);
  b.columns = 40 / block_size + 1;
  for (int32_t i = 0; i < requests; ++i) {
    const int32_t query_len = dice.between(0, 6), context = dice.between(0, 30);
    // Never huge: a plan of two thousand million tokens would be made, and take the memory that it needs.
    b.query_start_loc.push_back(dice.rarely() ? dice.between(-2, 99) : b.query_start_loc.back() + query_len);
    b.seq_lens.push_back(dice.spoilt(query_len + context));
    for (int32_t c = 0; c < b.columns; ++c) b.block_table.push_back(dice.spoilt(b.blocks++));
    for (int32_t t = 0; t < query_len; ++t) {
      const int32_t at = context + t;
      b.slot_mapping.push_back(dice.spoilt((b.blocks - b.columns + at / block_size) * block_size + at % block_size));
    }
  }
  b.blocks += 1;
  return b;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Dice dice(data, size);
  const bool mla = dice.between(0, 3) == 0;
  const int32_t block_size = dice.between(1, 9), kv_heads = dice.between(1, 3), group = dice.between(1, 3);
  const int32_t dim = 8 * dice.between(1, 4), dim_v = dice.coin() ? dim : 8 * dice.between(1, 4);
  const int32_t rank = 8 * dice.between(1, 4), rope = 8 * dice.between(1, 2), nope = 8 * dice.between(1, 2);
  const int32_t dtype = dice.between(SEXTANT_FP32, SEXTANT_BF16);
  const int32_t cache_dtype = dice.coin() ? dtype : dice.between(SEXTANT_FP8_E4M3FN, SEXTANT_FP8_E5M2);
  const int32_t heads = mla ? kv_heads : kv_heads * group, qk_dim = mla ? nope + rope : dim;

  sextant_attention_spec spec{};
  spec.size = sizeof(spec);
  spec.num_heads = dice.spoilt(heads);
  spec.num_kv_heads = dice.spoilt(kv_heads);
  spec.head_dim = dice.spoilt(qk_dim);
  spec.head_dim_v = dice.spoilt(dim_v);
  spec.softmax_scale = dice.spoilt(0.25F);
  spec.causal = dice.between(0, 1);
  spec.sliding_window = spec.causal != 0 && dice.coin() ? dice.spoilt(dice.between(0, 20)) : 0;
  spec.logits_soft_cap = dice.coin() ? dice.spoilt(20.0F) : 0;
  spec.has_sinks = dice.between(0, 1);
  spec.has_alibi = dice.between(0, 1);
  spec.dtype = dice.spoilt(dtype);
  if (mla) {
    spec.kv_lora_rank = dice.spoilt(rank);
    spec.qk_nope_head_dim = dice.spoilt(nope);
    spec.qk_rope_head_dim = dice.spoilt(rope);
    spec.v_head_dim = dice.spoilt(dim_v);
  }
  if (!mla && dice.between(0, 7) == 0) {
    spec.has_window = 1;
    spec.window_left = dice.spoilt(dice.between(-1, 9));
    spec.window_right = dice.spoilt(dice.between(-1, 9));
    spec.sliding_window = 0;
  }

  if (dice.between(0, 7) == 0) spec.max_span_len = dice.spoilt(dice.between(1, 20));

  Batch b = draw_batch(dice, block_size);
  const int64_t tokens = b.slot_mapping.empty() ? 0 : static_cast<int64_t>(b.slot_mapping.size());
  sextant_kv_cache_spec cache_spec{};
  cache_spec.size = sizeof(cache_spec);
  cache_spec.layout = mla ? SEXTANT_LATENT : dice.spoilt(dice.between(SEXTANT_NHD, SEXTANT_PACKED));
  cache_spec.dtype = dice.spoilt(cache_dtype);
  cache_spec.num_blocks = b.blocks;
  cache_spec.block_size = dice.spoilt(block_size);
  cache_spec.num_kv_heads = mla ? 1 : dice.spoilt(kv_heads);
  cache_spec.head_dim = dice.spoilt(mla ? rank + rope : dim);
  cache_spec.head_dim_v = dice.spoilt(mla ? rank : dim_v);

  sextant_batch batch{};
  batch.size = sizeof(batch);
  batch.num_requests = static_cast<int32_t>(b.seq_lens.size());
  batch.query_start_loc = dice.spoilt(b.query_start_loc.data());
  batch.seq_lens = dice.spoilt(b.seq_lens.data());
  batch.block_table = dice.coin() ? b.block_table.data() : nullptr;
  batch.max_blocks_per_request = b.columns;
  batch.slot_mapping = dice.coin() && b.query_start_loc.back() <= tokens ? b.slot_mapping.data() : nullptr;
  std::vector<int32_t> spans(2 * static_cast<size_t>(std::max<int64_t>(tokens, b.query_start_loc.back()) + 1), 0);
  if (spec.max_span_len > 0)
    for (int32_t& end : spans) end = dice.rarely() ? dice.between(-2, 40) : 0;
  batch.token_spans = dice.coin() ? spans.data() : nullptr;
  batch.shared_prefix_len = dice.rarely() ? dice.between(-1, 40) : 0;

  sextant_plan_options options{};
  options.size = sizeof(options);
  options.deterministic = dice.between(0, 1);
  options.lse_out = dice.between(0, 1);
  options.max_query_len = dice.rarely() ? dice.between(-1, 20) : 0;
  options.max_seq_len = dice.rarely() ? dice.between(-1, 60) : 0;
  options.decode_max_query_len = dice.spoilt(dice.between(0, 4));
  options.chunk_workspace_rows = dice.rarely() ? dice.between(-1, 20) : 0;

  const char* backend = sextant_backend_name(dice.rarely() ? dice.between(0, 5)
                                             : mla         ? dice.between(4, 5)
                                                           : dice.between(0, 3));
  sextant_plan* plan = nullptr;
  if (sextant_plan_make(device(), backend, &spec, &cache_spec, &batch, &options, &plan) != SEXTANT_OK) {
    if (sextant_last_error()[0] == '\0') std::abort();
    return 0;
  }
  // What was planned is what the header's sizes follow from; a spoilt spec that was accepted is run as drawn only if it
  // still is the drawn one.
  const bool as_drawn = spec.num_heads == heads && spec.num_kv_heads == kv_heads && spec.head_dim == qk_dim &&
                        (spec.head_dim_v == dim_v) && spec.dtype == dtype && cache_spec.dtype == cache_dtype &&
                        cache_spec.block_size == block_size && b.query_start_loc.back() == tokens;
  if (!as_drawn || tokens == 0) {
    sextant_plan_free(plan);
    return 0;
  }
  int64_t k_elements = 0, v_elements = 0;
  int32_t layout = 0;
  if (sextant_kv_cache_layout(device(), backend, &cache_spec, &layout, &k_elements, &v_elements) != SEXTANT_OK)
    std::abort();
  Bytes q, k, v, out, lse, kv_c, k_pe, weights;
  Bytes k_cache(static_cast<size_t>(k_elements * size_of(cache_dtype)), 0x3c);
  Bytes v_cache(static_cast<size_t>(v_elements * size_of(cache_dtype)), 0x3c);
  std::vector<float> sinks(static_cast<size_t>(heads), 0.5F), slopes(static_cast<size_t>(heads), 0.25F), scale(1, 0.5F);
  const size_t workspace_bytes = sextant_plan_workspace_bytes(plan);
  void* workspace = nullptr;
  if (posix_memalign(&workspace, 256, workspace_bytes + 1) != 0) std::abort();

  sextant_run_tensors t{};
  t.size = sizeof(t);
  t.q = tensor(dice, q, dtype, {tokens, heads, qk_dim});
  t.out = tensor(dice, out, dtype, {tokens, heads, dim_v});
  if (options.lse_out != 0) t.lse = tensor(dice, lse, SEXTANT_FP32, {heads, tokens});
  if (mla) {
    t.kv_c = tensor(dice, kv_c, dtype, {tokens, rank});
    t.k_pe = tensor(dice, k_pe, dtype, {tokens, rope});
    t.kv_b_proj = tensor(dice, weights, dtype, {heads * (nope + dim_v), rank});
  } else {
    t.k = tensor(dice, k, dtype, {tokens, kv_heads, dim});
    t.v = tensor(dice, v, dtype, {tokens, kv_heads, dim_v});
  }
  t.cache.spec = cache_spec;
  t.cache.spec.layout = layout;
  t.cache.k = dice.spoilt(k_cache.data());
  t.cache.v = mla ? nullptr : dice.spoilt(v_cache.data());
  t.cache.k_scale = t.cache.v_scale = cache_dtype == dtype ? nullptr : scale.data();
  t.cache.num_scales = 1;
  // The step's own arrays: other lengths and ids than were planned for, now and then.
  for (int32_t& n : b.seq_lens) n = dice.spoilt(n);
  for (int32_t& id : b.block_table) id = dice.spoilt(id);
  for (int64_t& slot : b.slot_mapping) slot = dice.spoilt(static_cast<int32_t>(slot));
  t.query_start_loc = dice.spoilt(b.query_start_loc.data());
  t.seq_lens = dice.spoilt(b.seq_lens.data());
  t.block_table = dice.spoilt(b.block_table.data());
  t.block_table_stride = b.columns;
  t.slot_mapping = dice.coin() ? b.slot_mapping.data() : nullptr;
  t.sinks = dice.spoilt(sinks.data());
  t.alibi_slopes = dice.spoilt(slopes.data());
  t.token_spans = dice.spoilt(spans.data());
  t.workspace = dice.spoilt(workspace);
  t.workspace_bytes = dice.rarely() ? workspace_bytes / 2 : workspace_bytes;

  const Bytes out_before = out, lse_before = lse, k_before = k_cache, v_before = v_cache;
  const sextant_status status = sextant_plan_run(plan, &t, nullptr);
  if (status != SEXTANT_OK) {
    if (sextant_last_error()[0] == '\0') std::abort();
    if (out != out_before || lse != lse_before || k_cache != k_before || v_cache != v_before) std::abort();
  }
  std::free(workspace);
  sextant_plan_free(plan);
  return 0;
}
