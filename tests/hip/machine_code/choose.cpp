// Chooses the cases of the tests: draws small ones for the kernels that have most instructions left, notes what each
// executes and how long it takes, and keeps a set that reaches nearly what all of them reach in little time.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <fstream>
#include <random>

#include "hip/isa/case_list.h"
#include "hip/isa/coverage.h"
#include "hip/machine_code/draw_kernel_case.h"
#include "hip/machine_code/verbs.h"
#include "verify/random/draw_case.h"
#include "verify/random/random_suite.h"

namespace sextant::hip::isa {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }
// Of the processor, so that a busy machine chooses the same cases.
double processor_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

struct Tried {
  std::string text;
  double seconds = 0;
  std::vector<uint32_t> executed;  // numbers of instructions over all kernels
};

class Chooser {
 public:
  Chooser(const Arguments& arguments, MachineCode& code) : arguments_(arguments), code_(code), device_(code.device()) {
    code_.read_all();
    uint32_t first = 0;
    for (const auto& [name, kernel] : code_.kernels()) {
      kernels_.push_back({name, first, static_cast<uint32_t>(code_size(kernel.program))});
      first += kernels_.back().size;
    }
    covered_.resize(first);
    added_.resize(kernels_.size());
  }

  void try_all() {
    const std::string path = arguments_.cases.empty() ? case_list_path(arguments_.architecture) : arguments_.cases;
    if (auto earlier = read_case_list(path))
      for (const verify::RandomCase& test : *earlier) try_case(test);
    std::mt19937_64 random(arguments_.seed);
    const auto begin = Clock::now();
    while (seconds_since(begin) < arguments_.seconds) {
      if (const auto test = draw(random)) try_case(*test);
      if (++drawn_ % 200 == 0) report(seconds_since(begin));
    }
    report(seconds_since(begin));
  }

  // The most new instructions a second first, until a case adds too little for its time.
  void write(const std::string& path) const {
    std::vector<bool> covered(covered_.size());
    std::vector<size_t> left(tried_.size());
    for (size_t i = 0; i < left.size(); ++i) left[i] = i;
    std::ofstream file(path);
    double seconds = 0;
    size_t chosen = 0, executed = 0;
    while (!left.empty()) {
      const auto gain = [&](const Tried& one) {
        return std::count_if(one.executed.begin(), one.executed.end(), [&](uint32_t i) { return !covered[i]; });
      };
      std::vector<std::pair<double, size_t>> rates;
      for (size_t i : left) {
        const auto count = static_cast<double>(gain(tried_[i]));
        if (count >= kLeastGain) rates.emplace_back(count / (tried_[i].seconds + 0.002), i);
      }
      if (rates.empty()) break;
      const auto [rate, best] = *std::max_element(rates.begin(), rates.end());
      if (rate < kLeastRate) break;
      left.clear();
      for (const auto& [other, i] : rates)
        if (i != best) left.push_back(i);
      for (uint32_t i : tried_[best].executed)
        if (!covered[i]) covered[i] = true, ++executed;
      file << tried_[best].text << "\n";
      seconds += tried_[best].seconds;
      ++chosen;
    }
    fmt::print("{}: {} cases chosen, {:.1f} s of the processor, {} of {} instructions, {:.1f} %\n", path, chosen,
               seconds, executed, covered.size(),
               100.0 * static_cast<double>(executed) / static_cast<double>(covered.size()));
  }

 private:
  struct Kernel {
    std::string name;
    uint32_t first, size;
  };
  static constexpr double kLeastGain = 4, kLeastRate = 150;  // instructions, and that a second
  static constexpr double kMostSeconds = 0.6;                // of a case

  std::optional<verify::RandomCase> draw(std::mt19937_64& random) {
    const uint64_t seed = random() >> 20;
    if (seed % 12 == 0) {  // a whole backend
      const auto backends = all_backends();
      verify::DrawLimits limits = verify::DrawLimits::of(DeviceKind::kHipEmulated, "", true);
      limits.most_context = 200;
      limits.most_kv_elements = 1e5;
      limits.most_work = 1e6;
      return verify::draw_case(seed, *backends[seed / 12 % backends.size()], limits);
    }
    // A kernel by what is left of it. Half of the cases are blends with one that added instructions of it.
    std::vector<double> left;
    for (const Kernel& kernel : kernels_)
      left.push_back(static_cast<double>(
          std::count(covered_.begin() + kernel.first, covered_.begin() + kernel.first + kernel.size, false)));
    std::discrete_distribution<size_t> pick(left.begin(), left.end());
    const size_t kernel = pick(random);
    auto drawn = draw_kernel_case(kernels_[kernel].name, arguments_.architecture, seed);
    const std::vector<verify::RandomCase>& known = added_[kernel];
    if (drawn && !drawn->requests.empty() && !known.empty() && seed % 2 == 0)
      return blend(known[seed / 2 % known.size()], *drawn, seed);
    return drawn;
  }

  void try_case(const verify::RandomCase& test) {
    for (const auto& [name, kernel] : code_.kernels()) kernel.machine->forget_executed();
    const double begin = processor_seconds();
    const verify::RandomReport report = verify::run_random_text(*device_, test);
    Tried one{verify::to_text(test), processor_seconds() - begin, {}};
    if (!report.failures.empty()) {
      ++failed_;
      fmt::print("{}\n  {}\n", report.failures.front().message, one.text);
      return;
    }
    if (report.passed == 0 || one.seconds > kMostSeconds) return;
    bool adds = false;
    for (size_t k = 0; k < kernels_.size(); ++k) {
      const Kernel& kernel = kernels_[k];
      bool adds_here = false;
      const std::vector<int64_t>& times = code_.kernels().at(kernel.name).machine->executed();
      for (uint32_t i = 0; i < kernel.size; ++i) {
        if (times[i] == 0) continue;
        one.executed.push_back(kernel.first + i);
        adds_here = adds_here || !covered_[kernel.first + i];
      }
      if (adds_here && test.is_op() && !test.requests.empty() && kernel.name.find("sextant") != 0)
        added_[k].push_back(test);
      adds = adds || adds_here;
    }
    for (uint32_t i : one.executed) covered_[i] = true;
    // What adds nothing now may still be a quicker way to what others have.
    if (adds || tried_.size() < kMostTried) tried_.push_back(std::move(one));
  }
  static constexpr size_t kMostTried = 6000;

  void report(double seconds) const {
    const auto executed = std::count(covered_.begin(), covered_.end(), true);
    fmt::print("{:.0f} s, {} drawn, {} kept, {} failed: {:.2f} %\n", seconds, drawn_, tried_.size(), failed_,
               100.0 * static_cast<double>(executed) / static_cast<double>(covered_.size()));
  }

  const Arguments& arguments_;
  MachineCode& code_;
  std::shared_ptr<Device> device_;
  std::vector<Kernel> kernels_;
  std::vector<bool> covered_;
  std::vector<Tried> tried_;
  std::vector<std::vector<verify::RandomCase>> added_;  // by kernel: cases that executed something new of it
  int64_t drawn_ = 0, failed_ = 0;
};

}  // namespace

int choose(const Arguments& arguments) {
  MachineCode code(arguments.architecture, arguments.objects, arguments.only);
  if (!code.available()) {
    fmt::print(stderr, "no code objects for {}, or no llvm-objdump\n", arguments.architecture);
    return 77;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  Chooser chooser(arguments, code);
  chooser.try_all();
  chooser.write(arguments.cases.empty() ? case_list_path(arguments.architecture) : arguments.cases);
  return 0;
}

}  // namespace sextant::hip::isa
