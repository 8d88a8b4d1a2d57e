// Whole backends over the conformance sweep, and over random batches, with every kernel run from machine code; then the
// share of each kernel's instructions that any of it executed.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "hip/isa/runner.h"
#include "hip/machine_code/verbs.h"
#include "verify/random/random_suite.h"
#include "verify/run_case.h"
#include "verify/sweep_cases.h"

namespace sextant::hip::isa {
namespace {

// Padding after the last instruction is no code.
size_t code_size(const Program& program) {
  size_t size = program.code.size();
  while (size > 0 && (program.code[size - 1].name == "s_nop" || program.code[size - 1].name == "s_code_end")) --size;
  return size;
}

struct Share {
  size_t executed = 0, all = 0;
};
// A flag an instruction; flags of another build of the kernel say nothing.
Share merge(const Executed& kernel, nlohmann::json& flags) {
  Share share{0, code_size(kernel.program)};
  if (flags.size() != share.all) flags = std::vector<bool>(share.all);
  for (size_t i = 0; i < share.all; ++i) {
    if (kernel.machine->executed()[i] > 0) flags[i] = true;
    share.executed += flags[i].get<bool>() ? 1 : 0;
  }
  return share;
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
  int failed = run_sweep(*device, arguments);
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

  nlohmann::json covered;  // of each kernel, the instructions that this and earlier runs executed
  if (std::ifstream earlier(arguments.covered); earlier) covered = nlohmann::json::parse(earlier);
  Share total;
  for (const auto& [name, kernel] : code.kernels()) {
    if (!kernel.program.fault.empty()) {
      fmt::print("{}: {}\n", name, kernel.program.fault);
      ++failed;
      continue;
    }
    const Share share = merge(kernel, covered[name]);
    total.executed += share.executed;
    total.all += share.all;
    if (share.executed < share.all || arguments.list)
      fmt::print("{:36} {:6} of {:6} instructions, {:5.1f} %\n", name, share.executed, share.all,
                 100.0 * static_cast<double>(share.executed) / static_cast<double>(share.all));
    for (size_t i = 0; arguments.list && i < share.all; ++i)
      if (!covered[name][i]) fmt::print("    {:x}: {}\n", kernel.program.code[i].address, kernel.program.code[i].text);
  }
  fmt::print("{}: {} of {} instructions executed, {:.1f} %\n", arguments.architecture, total.executed, total.all,
             100.0 * static_cast<double>(total.executed) / static_cast<double>(std::max<size_t>(1, total.all)));
  if (!arguments.covered.empty()) std::ofstream(arguments.covered) << covered.dump() << "\n";
  return failed == 0 ? 0 : 1;
}

}  // namespace sextant::hip::isa
