// One conformance case: a spec, a cache, a ragged batch, data, and what the oracle says.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "reference/oracle.h"
#include "sextant/backend.h"

namespace sextant::verify {

struct RequestShape {
  int32_t query_len = 0;
  int32_t seq_len = 0;
};

struct Case {
  std::string name;
  AttentionSpec spec;
  DType cache_dtype = DType::kBF16;
  KvLayout layout = KvLayout::kNHD;  // used with use_preferred_layout == false
  bool use_preferred_layout = true;  // the backend's own choice
  int32_t block_size = 16;
  std::vector<RequestShape> requests;
  PlanOptions options;
  int32_t shared_prefix_len = 0;
  std::vector<TokenSpan> spans;  // with spec.max_span_len: of every request, as far as it has such positions
  bool new_keys = true;          // the call brings the new tokens; false: the cache holds them, no keys nor slots
  int32_t num_scales = 1;        // fp8 cache, fp8 queries: 1 or num_kv_heads
  KvScales scales = KvScales::kShared;
  int64_t spare_blocks = 3;    // blocks of the cache that no request uses
  int32_t padding_tokens = 0;  // rows after the batch that nobody may touch; their slots are -1
  double magnitude = 1.0;      // of q and k: large values make peaked softmaxes
  bool integers = false;       // small integers: every product and sum is exact
};

// A tensor in host memory.
struct HostTensor {
  std::vector<uint8_t> bytes;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;

  static HostTensor zeros(DType dtype, std::vector<int64_t> shape);
  double get(int64_t index) const;
  void set(int64_t index, double value);
  int64_t elements() const;
  TensorView view(void* data) const;  // dense view of `data` with this shape
  TensorView view() const;
};

// The data of a case, and the oracle's rows for a sample of it.
struct CaseData {
  Case test;
  // Keys and values of every request, all positions, as real numbers that the dtype holds exactly.
  // MHA: [seq_len, Hkv, D]; MLA: latent [seq_len, rank + rope] in `keys`.
  std::vector<HostTensor> keys, values;
  HostTensor q, kv_b_proj;  // packed batch; fp8 queries as stored, value = stored * q_scale
  std::vector<float> sinks, alibi_slopes, k_scale, v_scale, q_scale;
  std::vector<int32_t> query_start_loc, seq_lens;
  std::vector<TokenSpan> token_spans;  // [T] where the spec has spans

  struct Expected {
    int64_t token;
    int32_t head;
    reference::OracleRow row;
    double plain_error;      // largest error of a plain computation in spec.dtype on this row
    double plain_fp8_error;  // the same with probabilities in e4m3fn, the row's largest at 2^8
    double score_mass;       // largest sum of |q| |k| of a score, scaled: what an inexact sum of products can lose from
  };
  std::vector<Expected> expected;
};

// Whether fp8 queries and keys may be multiplied as they are, with probabilities in fp8 as well.
bool allows_fp8_products(const Case& test);

// max_rows bounds the oracle's work: the first and last query of every request and random others.
CaseData prepare(const Case& test, uint64_t seed, int max_rows);

}  // namespace sextant::verify
