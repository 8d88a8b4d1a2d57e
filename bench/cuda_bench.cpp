// Times the CUDA device's ops on the cases of docs/dev/gpu-log.md: each case is checked against the fp64 oracle on
// sampled rows, then captured into a graph that runs it on many different caches in turn, so that L2 is cold, and
// replayed.
//
//   cuda_bench [--family portable|tuned] [--only text] [--replays n] [--no-time] [--cases file]
//   cuda_bench --all-kernels [--cases file] [--only text] [--replays n] [--seconds n] [--json file]
//
// --cases: drawn ones instead of the named ones: python bench/peers/grid.py --random 60 --seed 1 > file
// --all-kernels: each case by all plans that the planner knows for it; how far the chosen one is from the best.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "cuda_bench_choices.h"
#include "cuda_bench_problem.h"
#include "sextant/device.h"

namespace {

using namespace sextant;
using namespace sextant::cuda_bench;

struct Options {
  std::string family = "tuned", only, cases, json;
  int replays = 5;
  bool no_time = false, all_kernels = false;
  double seconds = 1e9;
};

std::vector<Case> choose_cases(const Options& options) {
  std::vector<Case> all;
  if (!options.cases.empty()) {
    all = read_cases(options.cases);
  } else {
    for (const auto& list : {decode_cases(), mla_cases(), prefill_cases(), off_road_cases()})
      all.insert(all.end(), list.begin(), list.end());
  }
  std::erase_if(all, [&](const Case& c) { return c.name.find(options.only) == std::string::npos; });
  return all;
}

int run_attention_cases(const std::vector<Case>& cases, const Ops& ops, const Options& options) {
  int wrong = 0;
  for (const Case& c : cases) {
    Problem problem(c);
    auto plan = ops.plan_attention(problem.plan_args());
    check(plan.status(), "plan");
    const std::string kernel = (*plan)->describe();
    problem.use(ops, std::move(plan).value());
    const double error = problem.error();
    const bool is_wrong = !(error < problem.allowed_error());
    wrong += is_wrong ? 1 : 0;
    double us = INFINITY;
    if (!options.no_time)
      us = time_graph([&](int i, cudaStream_t stream) { problem.launch(i, stream); }, problem.launches(),
                      options.replays);
    std::printf("%-34s %9.1f us %6.2f TB/s %6.0f TF/s  err %.1e  %s%s\n", c.name.c_str(), us,
                problem.bytes() / us / 1e6, problem.flops() / us / 1e6, error, is_wrong ? "WRONG " : "",
                kernel.c_str());
    std::fflush(stdout);
  }
  std::printf("%zu attention cases, %d wrong\n", cases.size(), wrong);
  return wrong;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Times the CUDA device's ops.");
  app.add_option("--family", options.family, "kernels")->check(CLI::IsMember({"portable", "tuned"}));
  app.add_option("--only", options.only, "cases whose name contains this");
  app.add_option("--cases", options.cases, "file of drawn cases (python bench/peers/grid.py)")
      ->check(CLI::ExistingFile);
  app.add_option("--replays", options.replays, "of a graph; the median counts");
  app.add_option("--seconds", options.seconds, "with --all-kernels: stop starting new cases after so many");
  app.add_option("--json", options.json, "with --all-kernels: file for the times of all plans");
  app.add_flag("--no-time", options.no_time, "errors only");
  app.add_flag("--all-kernels", options.all_kernels, "each case by all plans that the planner knows for it");
  CLI11_PARSE(app, argc, argv);
  auto device = open_device(DeviceKind::kCuda, 0);
  check(device.status(), "open_device");
  const Ops& ops = (*device)->ops(options.family == "portable" ? KernelFamily::kPortable : KernelFamily::kTuned);
  std::printf("%s, %s\n", (*device)->info().name.c_str(), ops.name().c_str());
  const std::vector<Case> cases = choose_cases(options);
  if (options.all_kernels) return run_choices(cases, options.replays, options.seconds, options.json) == 0 ? 0 : 1;
  if (!options.no_time && options.cases.empty()) run_cache_cases(ops, options.only, options.replays);
  return run_attention_cases(cases, ops, options) == 0 ? 0 : 1;
}
