// Counts operations and bytes of a batch.
#include "work.h"

#include <algorithm>

#include "sextant/model.h"

namespace sextant::cli {

int64_t visible_pairs(const AttentionSpec& spec, const RequestLengths& request) {
  const AttentionMask mask = spec.mask();
  int64_t pairs = 0;
  for (int64_t position = request.seq_len - request.query_len; position < request.seq_len; ++position)
    pairs += std::max<int64_t>(
        0, std::min<int64_t>(request.seq_len, mask.end_key(position)) - std::max<int64_t>(0, mask.first_key(position)));
  return pairs;
}

int64_t visible_keys(const AttentionSpec& spec, const RequestLengths& request) {
  if (request.query_len == 0) return 0;
  const AttentionMask mask = spec.mask();
  return std::min<int64_t>(request.seq_len, mask.end_key(request.seq_len - 1)) -
         std::max<int64_t>(0, mask.first_key(request.seq_len - request.query_len));
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

double kv_bytes(const AttentionSpec& spec, KvFormat kv_format, const std::vector<RequestLengths>& requests) {
  const auto token = static_cast<double>(token_bytes(kv_cache_for(spec, kv_format, 1, 1)));
  double bytes = 0;
  for (const RequestLengths& request : requests) bytes += static_cast<double>(visible_keys(spec, request)) * token;
  return bytes;
}

}  // namespace sextant::cli
