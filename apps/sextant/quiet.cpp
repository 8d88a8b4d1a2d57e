// Reads /proc/stat to tell how busy others are, and waits.
#include "quiet.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

namespace sextant::cli {
namespace {

constexpr auto kLook = std::chrono::milliseconds(100);

double seconds_of(const timeval& t) { return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6; }

// Of a line "cpu12 user nice system idle iowait irq softirq steal ..."; -1: of no single core.
int core_of(const std::string& name) {
  int core = -1;
  if (name.rfind("cpu", 0) == 0) std::from_chars(name.data() + 3, name.data() + name.size(), core);
  return core;
}

}  // namespace

std::optional<OthersMeter::Seconds> OthersMeter::now() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  rusage own{};
  std::ifstream file("/proc/stat");
  if (!file || sched_getaffinity(0, sizeof(allowed), &allowed) != 0 || getrusage(RUSAGE_SELF, &own) != 0) return {};
  const auto ticks_a_second = static_cast<double>(sysconf(_SC_CLK_TCK));
  Seconds s;
  s.own = seconds_of(own.ru_utime) + seconds_of(own.ru_stime);
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string name;
    fields >> name;
    const int core = core_of(name);
    if (core < 0 || core >= CPU_SETSIZE || !CPU_ISSET(core, &allowed)) continue;
    constexpr int kIdle = 3, kWaiting = 4, kFields = 8;
    double ticks = 0;
    for (int i = 0; i < kFields && fields >> ticks; ++i) {
      s.all += ticks / ticks_a_second;
      if (i != kIdle && i != kWaiting) s.busy += ticks / ticks_a_second;
    }
  }
  if (s.all <= 0) return {};
  return s;
}

OthersMeter::OthersMeter() : start_(now()) {}

std::optional<double> OthersMeter::share() const {
  const auto end = now();
  if (!start_ || !end || end->all <= start_->all) return {};
  const double others = (end->busy - start_->busy) - (end->own - start_->own);
  return std::clamp(others / (end->all - start_->all), 0.0, 1.0);
}

double wait_for_quiet(double at_most_seconds) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto waited = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  while (waited() < at_most_seconds) {
    const OthersMeter meter;
    std::this_thread::sleep_for(kLook);
    if (meter.share().value_or(0) <= kQuietShare) break;
  }
  return waited();
}

}  // namespace sextant::cli
