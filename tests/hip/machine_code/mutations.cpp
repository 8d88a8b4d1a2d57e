// Each wait's counters and each barrier left out by itself, one after the other, and run on what whole backends and the
// cases of the tests launch: the interpreter must report it. Waits for memory without which no path uses a register too
// early (early_use.h) are redundant, and left alone. What else is not reported is listed with what it waited for:
// nothing, in all executions, or something that a later wait also covers before it is used.
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "hip/isa/case_list.h"
#include "hip/isa/early_use.h"
#include "hip/isa/loops.h"
#include "hip/isa/runner.h"
#include "hip/machine_code/draw_kernel_case.h"
#include "hip/machine_code/verbs.h"
#include "support/cases.h"
#include "verify/random/random_suite.h"

namespace sextant::hip::isa {
namespace {

enum class Removal : uint8_t { kBarrier, kVectorMemory, kLocal };

const char* to_string(Removal removal) {
  return removal == Removal::kBarrier ? "s_barrier" : removal == Removal::kVectorMemory ? "vmcnt" : "lgkmcnt";
}

struct Mutant {
  size_t at = 0;
  Removal removal = Removal::kBarrier;
  bool executed = false, noticed = false, redundant = false;
  bool is_open() const { return !noticed && !redundant; }
};

bool any_open(const std::vector<Mutant>& list) {
  return std::any_of(list.begin(), list.end(), [](const Mutant& mutant) { return mutant.is_open(); });
}

Program without(const Program& program, const Mutant& mutant) {
  Program changed = program;
  Instruction& in = changed.code[mutant.at];
  if (mutant.removal == Removal::kBarrier) {
    leave_out(in);
  } else {
    (mutant.removal == Removal::kVectorMemory ? in.vmcnt : in.lgkmcnt) = -1;
    if (in.vmcnt < 0 && in.lgkmcnt < 0) leave_out(in);
  }
  return changed;
}

std::vector<Mutant> list_mutants(const Program& program) {
  std::vector<Mutant> mutants;
  // Of every loop with matrix instructions: a kernel may have one for plain tiles and one for masked ones.
  std::vector<bool> inside(program.code.size());
  std::vector<Loop> loops = matrix_loops(program);
  if (loops.empty()) loops.push_back(main_loop(program));
  for (const Loop& loop : loops) {
    const std::vector<bool> turns = turns_of(program, loop);
    for (size_t i = 0; i < inside.size(); ++i) inside[i] = inside[i] || turns[i];
  }
  for (size_t i = 0; i < program.code.size(); ++i) {
    const Instruction& in = program.code[i];
    if (!inside[i]) continue;
    if (in.flow == Flow::kBarrier) mutants.push_back({i, Removal::kBarrier});
    if (in.vmcnt >= 0) mutants.push_back({i, Removal::kVectorMemory});
    if (in.lgkmcnt >= 0) mutants.push_back({i, Removal::kLocal});
  }
  for (Mutant& mutant : mutants)
    if (mutant.removal != Removal::kBarrier)
      mutant.redundant = !may_use_early(without(program, mutant),
                                        mutant.removal == Removal::kLocal ? Counter::kLocal : Counter::kVectorMemory);
  return mutants;
}

// Tries what is not noticed yet on one launch. The first workgroups are enough where they notice.
void try_mutants(const Program& program, const void* params, int64_t workgroups, int threads,
                 std::vector<Mutant>& mutants) {
  Machine whole(program);
  whole.discard_stores();
  std::vector<int64_t> useful;  // workgroups that execute more than their way to the end
  for (int64_t i = 0; i < workgroups && useful.size() < 4; ++i) {
    const auto before = whole.executed();
    if (!whole.run(params, static_cast<int>(i), threads).empty()) return;
    for (Mutant& mutant : mutants)
      if (whole.executed()[mutant.at] > before[mutant.at]) {
        useful.push_back(i);
        break;
      }
  }
  for (Mutant& mutant : mutants) {
    if (whole.executed()[mutant.at] == 0) continue;
    mutant.executed = true;
    if (!mutant.is_open()) continue;
    const Program changed = without(program, mutant);
    Machine machine(changed);
    machine.discard_stores();
    for (size_t i = 0; i < useful.size() && !mutant.noticed; ++i)
      mutant.noticed = !machine.run(params, static_cast<int>(useful[i]), threads).empty();
  }
}

// Several tiles a workgroup, so that what one tile leaves behind meets the next: long keys, more work than the chip has
// compute units.
std::vector<std::pair<verify::Case, const char*>> cases(const std::string& architecture) {
  using testing::make_case;
  using testing::mha_spec;
  using testing::mla_spec;
  const DType fp8 = architecture == "gfx942" ? DType::kF8E4M3FNUZ : DType::kF8E4M3FN;
  std::vector<std::pair<verify::Case, const char*>> runs;
  for (DType dtype : {DType::kBF16, DType::kF16})
    for (DType cache : {dtype, fp8}) {
      const auto add = [&](verify::Case test, const char* backend) {
        test.cache_dtype = cache;
        runs.emplace_back(test, backend);
      };
      const verify::Case decode = make_case(mha_spec(12, 12, 128, dtype), {{1, 400}, {1, 390}});
      add(decode, "ROCM_AITER_UNIFIED_ATTN");
      add(decode, "ROCM_ATTN");
      for (int32_t dim : {64, 96, 128, 192, 256}) {
        verify::Case prefill = make_case(mha_spec(8, 8, dim, dtype), {{256, 400}});
        if (dim == 192) prefill.spec.head_dim_v = 128;
        add(prefill, "ROCM_AITER_UNIFIED_ATTN");
        prefill.spec.sliding_window = 150;
        add(prefill, "ROCM_AITER_UNIFIED_ATTN");
        prefill.spec.sliding_window = 0;
        prefill.spec.logits_soft_cap = 20;  // loops of their own
        add(prefill, "ROCM_AITER_UNIFIED_ATTN");
      }
      if (cache == dtype) add(make_case(mla_spec(8, dtype), {{256, 400}}), "ROCM_AITER_MLA");
      for (int32_t heads : {8, 16})  // tiles of 16 and of 32 rows
        for (const char* backend : {"ROCM_AITER_MLA", "TRITON_MLA"})
          add(make_case(mla_spec(heads, dtype), {{1, 400}, {1, 390}, {1, 200}, {heads == 8 ? 1 : 2, 300}}), backend);
    }
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32})
    for (int32_t dim : {64, 128, 192, 256}) {
      verify::Case tiles = make_case(mha_spec(4, 2, dim, dtype), {{17, 300}, {1, 200}, {1, 150}});
      if (dim == 192) tiles.spec.head_dim_v = 128;
      runs.emplace_back(tiles, "TRITON_ATTN");
    }
  runs.emplace_back(make_case(mla_spec(16, DType::kF32), {{1, 300}, {1, 200}}), "TRITON_MLA");
  return runs;
}

// A drawn case of the kernel with several tiles in each workgroup, and rows for all waves of the forward kernels; or
// one without any key, whose loads at the start meet the end; or one with so few that some wave loads none.
std::optional<verify::RandomCase> draw_long_case(const std::string& kernel, const std::string& architecture,
                                                 uint64_t seed) {
  auto drawn = draw_kernel_case(kernel, architecture, seed);
  if (drawn && kernel.starts_with("sextant_gemm")) drawn->op.size = 128;  // rows enough for all orders of elements
  if (!drawn || drawn->requests.empty()) return drawn;
  const bool packed = drawn->op.name == "varlen_attention" || drawn->op.name == "prefix_prefill";
  if (packed && seed >= 1 && seed <= 3) drawn->op.name = "unified_attention";  // whose keys have bounds
  if (seed == 1) {
    drawn->op.key_begin = 64, drawn->op.key_end = 100;
    drawn->requests = {{drawn->requests[0].query_len, drawn->requests[0].query_len}};
    return drawn;
  }
  if (seed == 2 || seed == 3) {
    drawn->op.key_begin = 0, drawn->op.key_end = seed == 2 ? 1 : 3;
    drawn->requests = {{drawn->requests[0].query_len, std::max(drawn->requests[0].query_len, 3)}};
    return drawn;
  }
  drawn->op.split = {SplitPolicy::Kind::kNone, 0};
  drawn->op.key_begin = drawn->op.key_end = 0;
  drawn->spec.sliding_window = drawn->spec.attention_chunk_size = 0;
  const int32_t rows = kernel.starts_with("forward") ? 256 : kernel.starts_with("tile") ? 64 : 1;
  const int32_t query_len = std::max(drawn->requests[0].query_len, rows / drawn->spec.group_size());
  drawn->requests = {{query_len, query_len + 301}};  // odd: a wave meets the last cached keys and the first packed ones
  return drawn;
}

}  // namespace

int mutations(const Arguments& arguments) {
  MachineCode code(arguments.architecture, arguments.objects, arguments.only);
  if (!code.available()) {
    fmt::print(stderr, "no code objects for {}, or no llvm-objdump\n", arguments.architecture);
    return 77;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::map<std::string, std::vector<Mutant>> mutants;
  std::map<std::string, int> launches;
  constexpr int kLaunches = 3;  // of a kernel in a case: more are alike
  code.before_launch = [&](const Program& program, const void* params, int64_t workgroups, int threads) {
    if (program.name.starts_with("sextant_") && !program.name.starts_with("sextant_gemm")) return false;
    if (mutants.count(program.name) == 0) mutants[program.name] = list_mutants(program);
    std::vector<Mutant>& list = mutants[program.name];
    if (any_open(list) && launches[program.name]++ < kLaunches) try_mutants(program, params, workgroups, threads, list);
    return false;
  };
  const auto device = code.device();
  int failed = 0;
  for (const auto& [test, backend] : cases(arguments.architecture)) {
    launches.clear();
    const verify::Verdict verdict =
        verify::run_case(*device, *find_backend(backend).value(), verify::prepare(test, 5, 1), 5);
    if (verdict.kind == verify::Verdict::Kind::kPassed) continue;
    ++failed;
    const AttentionSpec& spec = test.spec;
    fmt::print("{}, {} heads of {}, {}, {} cache, window {}, softcap {}: {}\n", backend, spec.num_heads, spec.head_dim,
               to_string(spec.dtype), to_string(test.cache_dtype), spec.sliding_window, spec.logits_soft_cap,
               verdict.message);
  }

  if (const auto listed = read_case_list(case_list_path(arguments.architecture)))
    for (const verify::RandomCase& test : *listed) {
      launches.clear();
      failed += static_cast<int>(verify::run_random_text(*device, test).failures.size());
    }

  // For kernels that have something left; a path that never happens stays.
  constexpr uint64_t kDraws = 24, kGemmDraws = 300;  // few of these have the type and the order that are left
  const std::map<std::string, std::vector<Mutant>> so_far = mutants;
  for (const auto& [name, unused] : so_far)
    for (uint64_t seed = 0; seed < (name.starts_with("sextant_gemm") ? kGemmDraws : kDraws); ++seed) {
      if (!any_open(mutants[name])) break;
      launches.clear();
      if (const auto test = draw_long_case(name, arguments.architecture, seed))
        failed += static_cast<int>(verify::run_random_text(*device, *test).failures.size());
    }

  size_t all = 0, executed = 0, noticed = 0, idle = 0, redundant = 0, missed = 0;
  nlohmann::json found;
  for (const auto& [name, list] : mutants) {
    const Executed& kernel = code.kernels().at(name);
    for (const Mutant& mutant : list) {
      ++all;
      executed += mutant.executed ? 1 : 0;
      noticed += mutant.noticed ? 1 : 0;
      redundant += mutant.redundant ? 1 : 0;
      if (mutant.noticed) continue;
      const bool waited = mutant.removal == Removal::kBarrier || kernel.machine->retired_something()[mutant.at];
      const bool is_missed = mutant.is_open() && mutant.executed && waited;
      idle += mutant.is_open() && mutant.executed && !waited ? 1 : 0;
      missed += is_missed ? 1 : 0;
      const Instruction& in = kernel.program.code[mutant.at];
      const char* why = mutant.redundant   ? "redundant"
                        : !mutant.executed ? "not executed"
                        : waited           ? "NOT NOTICED"
                                           : "had nothing to wait for";
      found[name].push_back({{"at", in.address}, {"what", to_string(mutant.removal)}, {"why", why}});
      if (arguments.list || is_missed)
        fmt::print("{} at {:x}, {} of {}: {}\n", name, in.address, to_string(mutant.removal), in.text, why);
    }
  }
  fmt::print(
      "{}: {} waits and barriers of main loops, {} executed; {} redundant on every path; the others left out one by "
      "one: {} noticed, {} had nothing to wait for, {} not noticed\n",
      arguments.architecture, all, executed, redundant, noticed, idle, missed);
  if (!arguments.json.empty()) std::ofstream(arguments.json) << found.dump(1) << "\n";
  return failed == 0 ? 0 : 1;
}

}  // namespace sextant::hip::isa
