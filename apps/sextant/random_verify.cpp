// sextant verify --random: draws, judges, shrinks, and says how to repeat what failed.
#include "random_verify.h"

#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

#include "arguments.h"
#include "devices/cpu/cpu_isa.h"
#include "progress.h"
#include "verify/random/launch.h"
#include "verify/random/random_suite.h"

namespace sextant::cli {
namespace {

// The case that runs, for a process that dies of it: a signal handler may only write what already stands in memory.
char running_case[1 << 16];

void on_fatal_signal(int signal) {
  constexpr char kBefore[] = "\nsextant: the process died running this case; repeat it with: sextant verify --case '";
  [[maybe_unused]] ssize_t written = write(STDERR_FILENO, kBefore, sizeof(kBefore) - 1);
  written = write(STDERR_FILENO, running_case, std::strlen(running_case));
  written = write(STDERR_FILENO, "'\n", 2);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void remember(const std::string& text) {
  const size_t bytes = std::min(text.size(), sizeof(running_case) - 1);
  std::memcpy(running_case, text.data(), bytes);
  running_case[bytes] = '\0';
}

Result<std::vector<std::string>> isas_of(const Device& device, const std::vector<std::string>& asked) {
  std::vector<std::string> isas;
  const bool all = asked.size() == 1 && asked[0] == "all";
  if (device.info().kind != DeviceKind::kCpu) {
    if (!all) return invalid_argument(fmt::format("--isa is \"{}\"; only the CPU has a choice of them", asked[0]));
    return isas;
  }
  for (const cpu::IsaInfo& isa : cpu::all_isas())
    if (all && isa.available && isa.kernels != nullptr) isas.emplace_back(isa.name);
  if (all) return isas;
  for (const std::string& name : asked) {
    auto chosen = cpu::choose_isa(name, "--isa");
    if (!chosen) return chosen.status();
    isas.push_back(name);
  }
  return isas;
}

Json to_json(const verify::RandomReport& report, const Device& device, uint64_t seed) {
  Json failures = Json::array(), cases_of = Json::object(), refusals = Json::object();
  for (const verify::RandomFailure& f : report.failures)
    failures.push_back({{"message", f.message}, {"case", f.text}, {"draw", f.draw}, {"seconds", f.seconds}});
  for (const auto& [name, count] : report.cases_of) cases_of[name] = count;
  for (const auto& [reason, count] : report.refusals) refusals[reason] = count;
  return {{"device", device_name(device.info())},
          {"seed", seed},
          {"seconds", report.seconds},
          {"cases", report.cases},
          {"passed", report.passed},
          {"refused", report.refused},
          {"cases_of", cases_of},
          {"refusals", refusals},
          {"largest_error", report.worst},
          {"largest_error_case", report.worst_text},
          {"failures", failures}};
}

void print(const verify::RandomReport& report, const Device& device, uint64_t seed) {
  const std::string name = device_name(device.info());
  fmt::print("on {} ({}, {}), seed {}\n\n", name, device.info().name, device.info().architecture, seed);
  fmt::print("{} random cases in {:.0f} s: {} passed, {} failed; {} more were drawn and refused\n", report.cases,
             report.seconds, report.passed, report.cases - report.passed, report.refused);
  std::string counts;
  for (const auto& [what, count] : report.cases_of)
    counts += fmt::format("{}{} {}", counts.empty() ? "" : ", ", what, count);
  if (!counts.empty()) fmt::print("{}\n", counts);
  if (report.passed > 0) fmt::print("largest error of the passed: {:.0f} % of what is allowed\n", 100 * report.worst);
  for (const auto& [reason, count] : report.refusals) fmt::print("refused {} times: {}\n", count, reason);
  for (const verify::RandomFailure& f : report.failures)
    fmt::print("\nFAILED after {:.0f} s: {}\n  sextant verify --device {} --case '{}'\n", f.seconds, f.message, name,
               f.text);
}

}  // namespace

int run_random_verify(Device& device, const std::vector<const Backend*>& backends, uint64_t seed,
                      const RandomArguments& arguments, bool json) {
  if (!verify::can_judge(device.info().kind))
    return report(unsupported(fmt::format("--random judges on the device; allowed: cpu, cuda, hip-emulated, not {}",
                                          to_string(device.info().kind))));
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) std::signal(signal, on_fatal_signal);
  verify::RandomReport result;
  if (!arguments.text.empty()) {
    auto test = verify::parse_random_case(arguments.text);
    if (!test) return report(test.status());
    remember(arguments.text);
    result = verify::run_random_text(device, *test);
  } else {
    verify::RandomOptions options;
    options.backends = backends;
    options.seed = seed;
    options.small = arguments.small;
    options.seconds = arguments.seconds;
    options.most_cases = arguments.cases;
    options.begins = remember;
    auto isas = isas_of(device, arguments.isas);
    if (!isas) return report(isas.status());
    options.isas = *isas;
    Progress progress("random cases", static_cast<int64_t>(arguments.seconds * 10));
    options.progress = [&](double seconds, int64_t cases, int failures) {
      progress.update(static_cast<int64_t>(seconds * 10), fmt::format("{} cases, {} failed", cases, failures));
    };
    result = verify::run_random_suite(device, options);
  }
  if (json)
    print_json(to_json(result, device, seed));
  else
    print(result, device, seed);
  return result.failures.empty() && result.cases > 0 ? kSuccess : kFailure;
}

}  // namespace sextant::cli
