// Whole backends over the conformance sweep, and over random batches, with every kernel run from machine code; then the
// share of each kernel's instructions that any of it executed.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "hip/isa/case_list.h"
#include "hip/isa/coverage.h"
#include "hip/machine_code/verbs.h"
#include "verify/random/random_suite.h"
#include "verify/run_case.h"
#include "verify/sweep_cases.h"

namespace sextant::hip::isa {
namespace {

// Flags of earlier runs, as JSON keeps them.
Covered read_covered(const std::string& path) {
  Covered covered;
  if (std::ifstream file(path); file)
    for (const auto& [name, flags] : nlohmann::json::parse(file).items())
      covered[name] = flags.get<std::vector<bool>>();
  return covered;
}

// The sweep's cases in an order of chance, until the time is up; so a short run sees some of everything.
int run_sweep(Device& device, const Arguments& arguments) {
  std::vector<std::pair<verify::Case, const Backend*>> runs;
  for (auto make_cases : {verify::mha_cases, verify::mla_cases})
    for (const verify::Case& test : make_cases(false))
      for (const Backend* backend : all_backends())
        if ((backend->info().category == BackendCategory::kMla) == test.spec.mla.enabled())
          runs.emplace_back(test, backend);
  std::mt19937 random(static_cast<uint32_t>(arguments.seed));
  std::shuffle(runs.begin(), runs.end(), random);
  const auto begin = std::chrono::steady_clock::now();
  int passed = 0, failed = 0, refused = 0;
  for (const auto& [test, backend] : runs) {
    if (std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() > arguments.seconds) break;
    const verify::CaseData data = verify::prepare(test, arguments.seed, 24);
    const verify::Verdict verdict = verify::run_case(device, *backend, data, arguments.seed);
    using Kind = verify::Verdict::Kind;
    (verdict.kind == Kind::kPassed ? passed : verdict.kind == Kind::kSkipped ? refused : failed) += 1;
    if (verdict.kind == Kind::kFailed) fmt::print("{}, {}: {}\n", backend->info().name, test.name, verdict.message);
  }
  fmt::print("{} of the sweep's {} runs: {} passed, {} failed, {} refused\n", passed + failed + refused, runs.size(),
             passed, failed, refused);
  return failed;
}

// The cases of the tests.
int run_list(Device& device, const Arguments& arguments) {
  const auto cases = read_case_list(arguments.cases.empty() ? case_list_path(arguments.architecture) : arguments.cases);
  if (!cases) {
    fmt::print("{}\n", cases.status().message());
    return 1;
  }
  int failed = 0;
  for (const verify::RandomCase& test : *cases)
    for (const verify::RandomFailure& failure : verify::run_random_text(device, test).failures) {
      fmt::print("{}\n  {}\n", failure.message, failure.text);
      ++failed;
    }
  for (const verify::Case& test : scaled_write_cases()) {
    const verify::CaseData data = verify::prepare(test, arguments.seed, 24);
    const verify::Verdict verdict =
        verify::run_case(device, *find_backend("TRITON_ATTN").value(), data, arguments.seed);
    if (verdict.kind == verify::Verdict::Kind::kPassed) continue;
    fmt::print("TRITON_ATTN, a scale a token and head, {} cache: {}\n", to_string(test.cache_dtype), verdict.message);
    ++failed;
  }
  fmt::print("{} listed cases, {} failed\n", cases->size(), failed);
  return failed;
}

}  // namespace

int execute(const Arguments& arguments) {
  MachineCode code(arguments.architecture, arguments.objects, arguments.only);
  if (!code.available()) {
    fmt::print(stderr, "no code objects for {}, or no llvm-objdump\n", arguments.architecture);
    return 77;
  }
  code.read_all();
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const auto device = code.device();
  int failed = run_list(*device, arguments) + run_sweep(*device, arguments);
  if (arguments.random_seconds > 0) {
    verify::RandomOptions random;
    random.seed = 31;
    random.seconds = arguments.random_seconds;
    random.small = true;
    const verify::RandomReport drawn = verify::run_random_suite(*device, random);
    fmt::print("random: {} cases, {} passed\n", drawn.cases, drawn.passed);
    for (const verify::RandomFailure& failure : drawn.failures) fmt::print("  {}\n", failure.message);
    failed += static_cast<int>(drawn.failures.size());
  }

  Covered covered = read_covered(arguments.covered);
  add_executed(code, covered);
  nlohmann::json unexecuted;  // addresses by kernel, for scripts/amd_unexecuted.py
  for (const auto& [name, kernel] : code.kernels()) {
    if (!kernel.program.fault.empty()) {
      fmt::print("{}: {}\n", name, kernel.program.fault);
      ++failed;
    }
    const std::vector<bool>& flags = covered[name];
    const Share share = share_of(flags);
    if (share.executed < share.all || arguments.list)
      fmt::print("{:36} {:6} of {:6} instructions, {:5.1f} %\n", name, share.executed, share.all, share.percent());
    for (size_t i = 0; i < share.all; ++i) {
      if (flags[i]) continue;
      const Instruction& in = kernel.program.code[i];
      unexecuted[name].push_back(in.address);
      if (arguments.list) fmt::print("    {:x}: {}\n", in.address, in.text);
    }
  }
  const Share total = total_share(covered);
  fmt::print("{}: {} of {} instructions executed, {:.1f} %\n", arguments.architecture, total.executed, total.all,
             total.percent());
  if (!arguments.json.empty()) std::ofstream(arguments.json) << unexecuted.dump() << "\n";
  if (!arguments.covered.empty()) std::ofstream(arguments.covered) << nlohmann::json(covered).dump() << "\n";
  return failed == 0 ? 0 : 1;
}

}  // namespace sextant::hip::isa
