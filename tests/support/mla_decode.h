// mla_decode of one batch with queries of any type, on any device, and what the oracle says of its rows.
#pragma once

#include <string>
#include <vector>

#include "reference/oracle.h"
#include "sextant/device.h"
#include "verify/case.h"

namespace sextant::testing {

struct MlaDecodeCase {
  std::vector<verify::RequestShape> requests;
  int32_t heads = 64, rank = 512, rope = 64, block_size = 64;
  DType queries = DType::kF8E4M3FN, cache = DType::kF8E4M3FN, dtype = DType::kBF16;
  DType out_dtype = DType::kBF16;
  float q_scale = 0.5F, kv_scale = 0.25F;  // 0: none is given
  double magnitude = 1;                    // spread of the scores
  int32_t row_padding = 0;                 // elements between the tokens of q
  void (*change)(AttentionPlanArgs&) = nullptr;
  // Numbers by rule instead of random ones, before the scales.
  double (*q)(int64_t token, int32_t head, int32_t dim) = nullptr;
  double (*key)(int64_t position, int32_t dim) = nullptr;
};

class MlaDecode {
 public:
  explicit MlaDecode(const MlaDecodeCase& test, uint64_t seed = 3);

  Status run(Device& device, KernelFamily family);

  // Of the last run.
  const std::string& plan() const { return plan_; }
  const std::vector<uint8_t>& bytes() const { return out_; }
  double out(int64_t token, int32_t head, int32_t dim) const;
  // Differences from the oracle over about `rows` rows: root mean square over the oracle's, and the largest of the LSE.
  struct Errors {
    double out = 0, lse = 0;
  };
  Errors errors(int rows) const;

  // The same numbers as queries of the case's dtype without a scale, where that holds them exactly.
  MlaDecode with_plain_queries() const;

 private:
  int64_t row() const { return static_cast<int64_t>(test_.heads) * dim_; }
  double stored_query(int64_t token, int32_t head, int32_t dim) const;
  double key(int32_t request, int64_t position, int32_t dim) const;
  reference::OracleRow expected(size_t request, int64_t query, int32_t head) const;

  MlaDecodeCase test_;
  AttentionPlanArgs args_;
  int32_t dim_;
  std::vector<int32_t> starts_ = {0}, lens_, table_;
  int64_t columns_ = 1;
  std::vector<uint8_t> q_, cache_, out_;
  std::vector<float> lse_, sinks_, slopes_;
  std::string plan_;
};

}  // namespace sextant::testing
