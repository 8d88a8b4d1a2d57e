// The oracle: attention in double precision, written for clarity. It shares no code with the kernels, the planner or
// the ops; tests, `verify` and `bench` compare with it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "sextant/kv_cache.h"
#include "sextant/spec.h"

namespace sextant::reference {

// Reads element (position, kv_head, dim) of one request's keys or values.
using KvReader = std::function<double(int64_t position, int32_t kv_head, int32_t dim)>;

// One request. Query i sits at position seq_len - query_len + i.
struct OracleRequest {
  AttentionSpec spec;
  int64_t query_len = 0;
  int64_t seq_len = 0;
  std::function<double(int64_t query, int32_t head, int32_t dim)> q;
  KvReader k;
  KvReader v;
  std::span<const float> sinks;         // [num_heads] or empty
  std::span<const float> alibi_slopes;  // [num_heads] or empty
  std::span<const TokenSpan> spans;     // [query_len] or empty
  // Additive bias of ONNX's Attention operator, or empty.
  std::function<double(int32_t head, int64_t query, int64_t key)> bias;
};

struct OracleRow {
  std::vector<double> out;  // [head_dim_v]; zero when no key is visible
  double lse;               // natural logarithm, sinks included; -infinity when there is nothing to sum
};

// Whether the mask, or the query's span, lets it see a key.
bool is_visible(const AttentionSpec& spec, int64_t query_position, int64_t key_position, TokenSpan span = {});

// One (query, head) row.
OracleRow attend_row(const OracleRequest& request, int64_t query, int32_t head);

// Readers of real tensors. Views must outlive the readers.
std::function<double(int64_t, int32_t, int32_t)> read_rows(const TensorView& view, int64_t first_row);  // [T, H, D]
// Keys (or values) of one request through its row of the block table, scales applied.
KvReader read_cached_keys(const KvCacheView& cache, const int32_t* block_table_row);
KvReader read_cached_values(const KvCacheView& cache, const int32_t* block_table_row);

}  // namespace sextant::reference
