// One case of cuda_bench on the device: its tensors, the plans that run on them, the error against the oracle.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "cuda_bench_cases.h"
#include "cuda_bench_device.h"
#include "reference/oracle.h"

namespace sextant::cuda_bench {

class Problem {
 public:
  explicit Problem(const Case& c);

  const AttentionPlanArgs& plan_args() const { return plan_args_; }
  // What the members below are about. `ops` made `plan` of plan_args().
  void use(const Ops& ops, AttentionPlanPtr plan);

  void launch(int set, cudaStream_t stream);
  int sets() const { return static_cast<int>(tables_.size()); }
  // Launches that a graph should hold.
  int launches() const;
  // Largest |out - oracle| / (rms of the oracle's row) over sampled rows; the LSE must agree too.
  double error();
  // fp8 products round probabilities to e4m3: half of 2^-3 at most, 2^-5 in the mean.
  double allowed_error() const { return is_fp8(case_.q) ? 0.08 : 0.05; }

  double bytes() const;
  double flops() const;

 private:
  void add_request(int query_len, int64_t seq_len);
  void describe();
  void make_tensors();
  void make_tables();
  reference::OracleRow oracle_row(size_t b, int64_t query, int32_t head) const;

  Case case_;
  const Ops* ops_ = nullptr;
  bool latent_ = false;
  std::vector<int32_t> starts_, lens_, key_starts_, host_table_;
  std::vector<float> sinks_;
  std::vector<reference::OracleRow> expected_;  // of the sampled rows, which all plans share
  AttentionPlanArgs plan_args_;
  AttentionPlanPtr plan_;
  AttentionArgs args_;
  Arena arena_;
  size_t workspace_bytes_ = 0;
  Pattern q_pattern_, k_pattern_, v_pattern_;
  std::vector<const int32_t*> tables_;
  int64_t blocks_a_set_ = 0;
  int num_sets_ = 1;
};

}  // namespace sextant::cuda_bench
