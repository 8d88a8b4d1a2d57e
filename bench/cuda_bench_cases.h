// The attention cases of cuda_bench.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sextant/ops.h"

namespace sextant::cuda_bench {

struct Case {
  std::string name;
  AttentionOp op = AttentionOp::kPagedDecode;
  int batch = 1, query_len = 1;
  int64_t seq_len = 1024;
  int heads = 32, kv_heads = 8, dim = 128, dim_v = 128, page = 16;
  DType kv = DType::kBF16;
  DType q = DType::kBF16;  // fp8: products in fp8 where the device has them
  KvLayout layout = KvLayout::kNHD;
  bool contiguous = false;  // kVarlen over packed keys
  bool mixed = false;       // one prefill of 2048 tokens joins the batch
  bool ragged = false;      // request b of the batch has (b + 1) / batch of seq_len
  int window = 0;
  float soft_cap = 0;
  bool sinks = false;
  std::vector<int32_t> query_lens, seq_lens;  // of a drawn case: instead of batch, query_len, seq_len, mixed and ragged
};

std::vector<Case> decode_cases();
std::vector<Case> mla_cases();
std::vector<Case> prefill_cases();
std::vector<Case> off_road_cases();  // sizes, types and features beside those that benchmarks usually name

// Cases of a file that `python bench/peers/grid.py` wrote.
std::vector<Case> read_cases(const std::string& path);

// Times of cache ops, merges and products of matrices whose names contain `only`.
void run_cache_cases(const Ops& ops, const std::string& only, int replays);

}  // namespace sextant::cuda_bench
