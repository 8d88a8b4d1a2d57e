// Reads the cases that bench/peers/grid.py draws.
#include <fstream>
#include <nlohmann/json.hpp>

#include "cuda_bench_cases.h"
#include "cuda_bench_device.h"

namespace sextant::cuda_bench {
namespace {

DType dtype_of(const std::string& name) {
  if (name == "fp8") return DType::kF8E4M3FN;
  if (name != "bf16") fail("dtype is \"" + name + "\"; allowed: bf16, fp8");
  return DType::kBF16;
}

}  // namespace

std::vector<Case> read_cases(const std::string& path) {
  std::ifstream file(path);
  const nlohmann::json all = nlohmann::json::parse(file, nullptr, false);
  if (!all.is_array()) fail(path + " is no list of cases; write one with: python bench/peers/grid.py");
  std::vector<Case> cases;
  for (const auto& from : all) {
    Case c;
    const std::string kind = from.at("kind");
    c.name = from.at("name");
    c.op = kind == "mla decode" ? AttentionOp::kMlaDecode : AttentionOp::kUnified;
    c.contiguous = kind == "mla prefill";
    c.query_lens = from.at("query_lens").get<std::vector<int32_t>>();
    c.seq_lens = from.at("kv_lens").get<std::vector<int32_t>>();
    c.heads = from.at("num_heads");
    c.kv_heads = from.at("num_kv_heads");
    c.dim = from.at("head_dim");
    c.dim_v = from.at("head_dim_v");
    if (!c.contiguous) c.page = from.at("page");
    c.kv = dtype_of(from.at("kv"));
    c.q = dtype_of(from.at("q"));
    c.window = from.at("window");
    c.soft_cap = from.at("softcap");
    c.sinks = from.at("sinks");
    cases.push_back(std::move(c));
  }
  return cases;
}

}  // namespace sextant::cuda_bench
