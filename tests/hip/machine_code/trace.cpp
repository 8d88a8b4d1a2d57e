// What a wave executes for one tile in the steady state: the way through a loop with matrix instructions that it takes
// most often, weighed by the matrix instructions on it, as addresses in the code object. scripts/amd_table.py counts
// it. "forward_... softcap" is the way of the forward kernel under a softcap.
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "hip/isa/loops.h"
#include "hip/isa/runner.h"
#include "hip/machine_code/verbs.h"
#include "support/cases.h"

namespace sextant::hip::isa {
namespace {

using Way = std::vector<int>;

struct Steady {
  std::map<Way, int> ways;  // how often
};

int products_on(const Program& program, const Way& way) {
  int products = 0;
  for (int i : way) products += program.code[static_cast<size_t>(i)].is_mfma ? 1 : 0;
  return products;
}

// No instruction twice: a way that does so goes round a loop inside.
bool is_one_turn(Way way) {
  std::sort(way.begin(), way.end());
  return std::adjacent_find(way.begin(), way.end()) == way.end();
}

void add_ways(const Program& program, const std::vector<int>& trace, Steady& steady) {
  for (const Loop& loop : matrix_loops(program)) {
    size_t begin = trace.size();
    for (size_t i = 0; i < trace.size(); ++i) {
      if (static_cast<size_t>(trace[i]) != loop.begin) continue;
      if (begin < i) {
        const Way way(trace.begin() + static_cast<int64_t>(begin), trace.begin() + static_cast<int64_t>(i));
        if (is_one_turn(way)) ++steady.ways[way];
      }
      begin = i;
    }
  }
}

// Long keys before the first query, so that most tiles need no mask; more work than compute units, so that none is
// split.
struct TracedCase {
  verify::Case test;
  const char* backend;
  const char* label = "";  // of ways that are not the kernel's usual one
};
std::vector<TracedCase> cases(const std::string& architecture) {
  using testing::make_case;
  using testing::mha_spec;
  using testing::mla_spec;
  const DType fp8 = architecture == "gfx942" ? DType::kF8E4M3FNUZ : DType::kF8E4M3FN;
  std::vector<TracedCase> runs;
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    for (bool narrow : {false, true}) {
      verify::Case decode = make_case(mha_spec(48, 6, 128, dtype), {{1, 1200}});
      if (narrow) decode.cache_dtype = fp8;
      runs.push_back({decode, "ROCM_AITER_UNIFIED_ATTN"});
      runs.push_back({decode, "ROCM_ATTN"});
      for (int32_t dim : {64, 96, 128, 256}) {
        verify::Case prefill = make_case(mha_spec(12, 12, dim, dtype), {{64, 700}});
        if (narrow) prefill.cache_dtype = fp8;
        runs.push_back({prefill, "ROCM_AITER_UNIFIED_ATTN"});
        prefill.spec.logits_soft_cap = 30;
        runs.push_back({prefill, "ROCM_AITER_UNIFIED_ATTN", " softcap"});
      }
    }
    runs.push_back({make_case(mla_spec(12, dtype), {{64, 500}}), "ROCM_AITER_MLA"});
    for (const char* backend : {"TRITON_MLA", "ROCM_AITER_MLA"})
      for (int32_t heads : {16, 32})
        for (bool narrow : {false, true}) {
          verify::Case latents = make_case(mla_spec(heads, dtype, 512), {{1, 500}});
          if (narrow) latents.cache_dtype = fp8;
          runs.push_back({latents, backend});
        }
  }
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32})
    for (int32_t dim : {64, 128, 256})
      runs.push_back({make_case(mha_spec(1, 1, dim, dtype), {{16, 400}}), "TRITON_ATTN"});
  return runs;
}

}  // namespace

int trace(const Arguments& arguments) {
  MachineCode code(arguments.architecture, arguments.objects, arguments.only);
  if (!code.available()) {
    fmt::print(stderr, "no code objects for {}, or no llvm-objdump\n", arguments.architecture);
    return 77;
  }
  std::map<std::string, Steady> kernels;  // by name and label
  std::string label;
  // Of these kernels a few workgroups are enough: nobody looks at results here.
  code.before_launch = [&](const Program& program, const void* params, int64_t workgroups, int threads) {
    if (matrix_loops(program).empty()) return false;
    constexpr int64_t kWorkgroups = 2;
    for (int64_t i = 0; i < std::min(workgroups, kWorkgroups); ++i) {
      std::array<std::vector<int>, kMaxWaves> executed;
      Machine machine(program);
      machine.trace(&executed);
      if (const std::string fault = machine.run(params, static_cast<int>(i), threads); !fault.empty())
        fmt::print("{}: {}\n", program.name, fault);
      for (const auto& one : executed) add_ways(program, one, kernels[program.name + label]);
    }
    return true;
  };
  const auto device = code.device();
  for (const TracedCase& run : cases(arguments.architecture)) {
    label = run.label;
    static_cast<void>(
        verify::run_case(*device, *find_backend(run.backend).value(), verify::prepare(run.test, 5, 1), 5));
  }
  nlohmann::json found;
  for (const auto& [name, steady] : kernels) {
    const Program& program = code.kernels().at(name.substr(0, name.find(' '))).program;
    const auto weight = [&](const auto& entry) { return int64_t{entry.second} * products_on(program, entry.first); };
    const auto best = std::max_element(steady.ways.begin(), steady.ways.end(),
                                       [&](const auto& a, const auto& b) { return weight(a) < weight(b); });
    if (best == steady.ways.end() || weight(*best) == 0) continue;
    nlohmann::json addresses = nlohmann::json::array();
    for (int i : best->first) addresses.push_back(program.code[static_cast<size_t>(i)].address);
    found[arguments.architecture][name] = {{"times", best->second}, {"way", addresses}};
    fmt::print("{:44} {} instructions, {} of them matrix, {} times\n", name, best->first.size(),
               products_on(program, best->first), best->second);
  }
  if (!arguments.json.empty()) std::ofstream(arguments.json) << found.dump() << "\n";
  return found.empty() ? 1 : 0;
}

}  // namespace sextant::hip::isa
