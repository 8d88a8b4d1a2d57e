// The loop of `verify --random`.
#include "verify/random/random_suite.h"

#include <algorithm>
#include <chrono>

#include "verify/random/draw_case.h"
#include "verify/random/launch.h"
#include "verify/random/run_random.h"
#include "verify/random/shrink.h"

namespace sextant::verify {
namespace {

using Clock = std::chrono::steady_clock;

JudgeLimits judge_limits(DeviceKind kind) {
  if (kind == DeviceKind::kCuda) return {.most_rows = 2048, .most_work = 2e10};
  if (kind == DeviceKind::kCpu) return {.most_rows = 256, .most_work = 1e7};
  return {.most_rows = 128, .most_work = 2e6};
}

// The CPU with each of its instruction sets; another device as it is.
class Devices {
 public:
  explicit Devices(Device& given) : given_(&given) {}
  // An error on a machine without `isa`, where a case of another machine would show nothing.
  Result<Device*> of(const std::string& isa) {
    if (isa.empty() || given_->info().kind != DeviceKind::kCpu) return given_;
    std::shared_ptr<Device>& device = by_isa_[isa];
    if (device == nullptr) {
      CpuOptions options;
      options.isa = isa;
      auto made = make_cpu_device(options);
      if (!made) return made.status();
      device = *made;
    }
    return device.get();
  }

 private:
  Device* given_;
  std::map<std::string, std::shared_ptr<Device>> by_isa_;
};

RandomVerdict run_one(Devices& devices, const RandomCase& test, const JudgeLimits& limits) {
  const Result<Device*> device = devices.of(test.isa);
  if (!device) return {RandomVerdict::Kind::kRefused, device.status().message(), 0};
  return run_random_case(**device, test, limits);
}

void count(RandomReport& report, const RandomCase& test, const RandomVerdict& verdict) {
  if (verdict.kind == RandomVerdict::Kind::kRefused) {
    ++report.refused;
    ++report.refusals[verdict.message];
    return;
  }
  ++report.cases;
  ++report.cases_of[test.is_op() ? test.op.name : test.backend];
  if (!test.isa.empty()) ++report.cases_of[test.isa];
  if (verdict.kind != RandomVerdict::Kind::kPassed) return;
  ++report.passed;
  if (verdict.worst <= report.worst) return;
  report.worst = verdict.worst;
  report.worst_text = to_text(test);
}

}  // namespace

RandomReport run_random_suite(Device& device, const RandomOptions& options) {
  RandomReport report;
  Devices devices(device);
  std::vector<const Backend*> backends = options.backends;
  if (backends.empty()) backends.assign(all_backends().begin(), all_backends().end());
  const std::vector<std::string> isas = options.isas.empty() ? std::vector<std::string>{""} : options.isas;
  const DeviceKind kind = device.info().kind;
  const JudgeLimits limits = judge_limits(kind);
  const auto start = Clock::now();
  Clock::duration shrinking{};  // comes on top of the time that was asked for
  const auto passed_seconds = [&] { return std::chrono::duration<double>(Clock::now() - start - shrinking).count(); };
  for (uint64_t i = 0; passed_seconds() < options.seconds; ++i) {
    if (options.most_cases > 0 && report.cases >= options.most_cases) break;
    const Backend& backend = *backends[i % backends.size()];
    const std::string& isa = isas[i / backends.size() % isas.size()];
    const uint64_t seed = options.seed * 0x100000001b3u + i;
    const DrawLimits space = DrawLimits::of(kind, isa, options.small);
    const uint64_t kind_of_case = mix(seed) % 10;
    const RandomCase test = kind_of_case == 0   ? draw_simple_op_case(seed, backend.info().family, space)
                            : kind_of_case <= 2 ? draw_op_case(seed, backend, space)
                                                : draw_case(seed, backend, space);
    if (options.begins) options.begins(to_text(test));
    const RandomVerdict verdict = run_one(devices, test, limits);
    count(report, test, verdict);
    if (verdict.kind == RandomVerdict::Kind::kFailed) {
      std::string message = verdict.message;
      const auto fails = [&](const RandomCase& candidate) {
        if (options.begins) options.begins(to_text(candidate));
        const RandomVerdict v = run_one(devices, candidate, limits);
        if (v.kind == RandomVerdict::Kind::kFailed) message = v.message;
        return v.kind == RandomVerdict::Kind::kFailed;
      };
      const auto found = Clock::now();
      const auto until = found + std::chrono::milliseconds(static_cast<int64_t>(options.shrink_seconds * 1000));
      const RandomCase small = shrink(test, fails, until);
      shrinking += Clock::now() - found;
      report.failures.push_back({message, to_text(small), i, std::chrono::duration<double>(found - start).count()});
      if (static_cast<int>(report.failures.size()) >= options.most_failures) break;
    }
    if (options.progress) options.progress(passed_seconds(), report.cases, static_cast<int>(report.failures.size()));
  }
  report.seconds = passed_seconds();
  return report;
}

RandomReport run_random_text(Device& device, const RandomCase& test) {
  RandomReport report;
  Devices devices(device);
  const RandomVerdict verdict = run_one(devices, test, judge_limits(device.info().kind));
  count(report, test, verdict);
  if (verdict.kind == RandomVerdict::Kind::kFailed) report.failures.push_back({verdict.message, to_text(test), 0, 0});
  return report;
}

}  // namespace sextant::verify
