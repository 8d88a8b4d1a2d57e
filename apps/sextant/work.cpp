#include "work.h"

#include <algorithm>

#include "sextant/model.h"

namespace sextant::cli {

int64_t visible_pairs(const AttentionSpec& spec, const RequestLengths& request) {
  const int64_t q = request.query_len, seq = request.seq_len, context = seq - q, window = spec.sliding_window;
  if (!spec.causal && window == 0) return q * seq;
  if (spec.causal && window == 0) return q * context + q * (q + 1) / 2;
  int64_t pairs = 0;
  for (int64_t position = context; position < seq; ++position) {
    const int64_t last = spec.causal ? position : seq - 1;
    pairs += last - std::max<int64_t>(position - window + 1, 0) + 1;
  }
  return pairs;
}

int64_t visible_keys(const AttentionSpec& spec, const RequestLengths& request) {
  if (spec.sliding_window == 0) return request.seq_len;
  return std::min<int64_t>(request.seq_len, int64_t{spec.sliding_window} + request.query_len - 1);
}

double attention_flops(const AttentionSpec& spec, const std::vector<RequestLengths>& requests) {
  double flops = 0;
  for (const RequestLengths& request : requests) {
    const bool absorbed = spec.mla.enabled() && request.query_len == 1;
    const int32_t width =
        absorbed ? 2 * spec.mla.kv_lora_rank + spec.mla.qk_rope_head_dim : spec.head_dim + spec.value_head_dim();
    flops += 2.0 * width * spec.num_heads * static_cast<double>(visible_pairs(spec, request));
  }
  return flops;
}

double kv_bytes(const AttentionSpec& spec, DType cache_dtype, const std::vector<RequestLengths>& requests) {
  const KvCacheSpec cache = kv_cache_for(spec, cache_dtype, 1, 1);
  const int64_t elements =
      int64_t{cache.num_kv_heads} * (cache.is_latent() ? cache.head_dim : cache.head_dim + cache.head_dim_v);
  double bytes = 0;
  for (const RequestLengths& request : requests)
    bytes += static_cast<double>(visible_keys(spec, request)) * static_cast<double>(elements) *
             static_cast<double>(size_of(cache_dtype));
  return bytes;
}

}  // namespace sextant::cli
