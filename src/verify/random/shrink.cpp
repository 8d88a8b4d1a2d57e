// Delta debugging by hand: simplifications are tried in turn, and kept where the case still fails, until none helps.
#include "verify/random/shrink.h"

#include <algorithm>

namespace sextant::verify {
namespace {

using Simplify = std::function<bool(RandomCase&)>;  // false: nothing to do

// Sets a field to its plain value.
template <class T>
bool reset(T& field, const T& plain) {
  if (field == plain) return false;
  field = plain;
  return true;
}

// False where what is planned would then have other tokens than what runs: that is refused, which is no failure.
bool drop(RandomCase& c, size_t first, size_t count) {
  const auto erase = [&](std::vector<RequestShape>& requests) {
    if (requests.empty()) return;
    requests.erase(requests.begin() + static_cast<int64_t>(first),
                   requests.begin() + static_cast<int64_t>(first + count));
  };
  erase(c.requests);
  erase(c.planned);
  return c.planned.empty() || count_tokens(c.requests) == count_tokens(c.planned);
}

std::vector<Simplify> simplifications(const RandomCase& c) {
  std::vector<Simplify> all;
  for (size_t part = std::max<size_t>(1, c.requests.size() / 2); c.requests.size() > 1; part /= 2) {
    for (size_t first = 0; first + part <= c.requests.size() && first / part < 16; first += part)
      all.emplace_back([first, part](RandomCase& d) {
        if (first + part > d.requests.size() || part >= d.requests.size()) return false;
        return drop(d, first, part);
      });
    if (part == 1) break;
  }
  all.emplace_back([](RandomCase& d) {
    if (d.op.size < 2) return false;
    d.op.size /= 2;
    return true;
  });
  all.emplace_back([](RandomCase& d) { return reset(d.relation, Relation::kNone); });
  all.emplace_back([](RandomCase& d) {
    if (!d.replays()) return false;
    d.planned.clear();
    d.options.bounds = {};
    d.graph = false;
    return true;
  });
  all.emplace_back([](RandomCase& d) { return reset(d.graph, false); });
  all.emplace_back([](RandomCase& d) { return reset(d.shared_prefix_len, 0); });
  all.emplace_back([](RandomCase& d) { return reset(d.spec.sliding_window, 0); });
  all.emplace_back([](RandomCase& d) { return reset(d.spec.window_left, -1); });
  all.emplace_back([](RandomCase& d) { return reset(d.spec.window_right, -1); });
  all.emplace_back([](RandomCase& d) { return reset(d.spec.attention_chunk_size, 0); });
  all.emplace_back([](RandomCase& d) { return reset(d.spec.logits_soft_cap, 0.0F); });
  all.emplace_back([](RandomCase& d) { return reset(d.spec.max_span_len, 0); });
  all.emplace_back([](RandomCase& d) { return reset(d.spec.has_sinks, false); });
  all.emplace_back([](RandomCase& d) { return reset(d.spec.has_alibi, false); });
  all.emplace_back([](RandomCase& d) { return reset(d.spec.causal, true); });
  all.emplace_back([](RandomCase& d) { return reset(d.options.lse_out, false); });
  all.emplace_back([](RandomCase& d) { return reset(d.options.deterministic, false); });
  all.emplace_back([](RandomCase& d) { return reset(d.options.chunk_workspace_rows, int64_t{0}); });
  all.emplace_back([](RandomCase& d) { return !d.replays() && reset(d.options.decode_max_query_len, 1); });
  all.emplace_back([](RandomCase& d) { return reset(d.padding_tokens, 0); });
  all.emplace_back([](RandomCase& d) { return reset(d.row_padding, 0); });
  all.emplace_back([](RandomCase& d) { return !d.is_op() && !d.token_scales && reset(d.writes, true); });
  all.emplace_back([](RandomCase& d) {
    if (!d.token_scales) return false;
    d.token_scales = false;
    d.cache_dtype = d.spec.dtype;
    return true;
  });
  all.emplace_back([](RandomCase& d) { return reset(d.num_scales, 1); });
  all.emplace_back([](RandomCase& d) { return reset(d.spec.query_dtype, std::optional<DType>()); });
  all.emplace_back([](RandomCase& d) { return !d.token_scales && reset(d.cache_dtype, d.spec.dtype); });
  all.emplace_back([](RandomCase& d) { return reset(d.magnitude, 1.0); });
  all.emplace_back([](RandomCase& d) { return reset(d.op.key_begin, int64_t{0}); });
  all.emplace_back([](RandomCase& d) { return reset(d.op.key_end, int64_t{0}); });
  all.emplace_back([](RandomCase& d) { return reset(d.op.out_f32, false); });
  all.emplace_back([](RandomCase& d) { return reset(d.op.filter.min_query_len, 1); });
  all.emplace_back([](RandomCase& d) { return reset(d.op.filter.max_query_len, RequestFilter{}.max_query_len); });
  all.emplace_back([](RandomCase& d) { return reset(d.op.split.kind, SplitPolicy::Kind::kAuto); });
  all.emplace_back([](RandomCase& d) { return d.layout != KvLayout::kLatent && reset(d.layout, KvLayout::kNHD); });
  all.emplace_back([](RandomCase& d) { return d.shared_prefix_len == 0 && reset(d.block_size, 16); });
  all.emplace_back([](RandomCase& d) {  // one KV head, the same group
    AttentionSpec& s = d.spec;
    if (s.mla.enabled() || s.num_kv_heads == 1) return false;
    s.num_heads = s.group_size();
    s.num_kv_heads = 1;
    d.num_scales = 1;
    return true;
  });
  all.emplace_back([](RandomCase& d) {
    AttentionSpec& s = d.spec;
    if (s.num_heads / 2 < s.num_kv_heads || s.num_heads / 2 % s.num_kv_heads != 0) return false;
    s.num_heads /= 2;
    return true;
  });
  all.emplace_back([](RandomCase& d) {
    AttentionSpec& s = d.spec;
    if (!s.mla.enabled() || s.num_heads < 2) return false;
    s.num_heads = s.num_kv_heads = s.num_heads / 2;
    return true;
  });
  const size_t looked_at = std::min<size_t>(c.requests.size(), 8);
  for (size_t b = 0; b < looked_at; ++b) {
    for (const int32_t divisor : {8, 2})
      all.emplace_back([b, divisor](RandomCase& d) {  // shorter context
        if (b >= d.requests.size() || d.replays() || d.shared_prefix_len > 0) return false;
        RequestShape& r = d.requests[b];
        const int32_t context = r.seq_len - r.query_len;
        if (context < 1) return false;
        r.seq_len = r.query_len + context / divisor;
        return true;
      });
    all.emplace_back([b](RandomCase& d) {  // fewer new tokens
      if (b >= d.requests.size() || d.replays()) return false;
      RequestShape& r = d.requests[b];
      if (r.query_len < 2) return false;
      r.seq_len -= r.query_len - r.query_len / 2;
      r.query_len /= 2;
      return true;
    });
  }
  // Length by one token less, all requests: keeps equal ones equal.
  for (const int32_t divisor : {4, 2})
    all.emplace_back([divisor](RandomCase& d) {
      bool any = false;
      if (d.replays() || d.shared_prefix_len > 0) return false;
      for (RequestShape& r : d.requests) {
        const int32_t context = r.seq_len - r.query_len;
        any = any || context > 0;
        r.seq_len = r.query_len + context / divisor;
      }
      return any;
    });
  return all;
}

}  // namespace

RandomCase shrink(const RandomCase& failing, const std::function<bool(const RandomCase&)>& fails,
                  std::chrono::steady_clock::time_point until) {
  RandomCase best = failing;
  for (bool better = true; better;) {
    better = false;
    for (const Simplify& simplify : simplifications(best)) {
      if (std::chrono::steady_clock::now() >= until) return best;
      RandomCase candidate = best;
      if (!simplify(candidate) || !fails(candidate)) continue;
      best = candidate;
      better = true;
    }
  }
  return best;
}

}  // namespace sextant::verify
