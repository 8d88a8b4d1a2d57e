// How many threads to use: affinity, the cgroup's quota and the environment have a say.
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <thread>

#include "devices/cpu/cgroup_quota.h"
#include "sextant/executor.h"

namespace sextant {
namespace cpu {
namespace {

// Cores a folder's files allow; none where it has no such files or no limit.
std::optional<double> quota_of(const std::string& folder) {
  std::string quota;
  double period = 0;
  if (std::ifstream file(folder + "/cpu.max"); file >> quota >> period) {  // version 2: "200000 100000", "max 100000"
    if (quota == "max") return {};
  } else {  // version 1; -1: no limit
    std::ifstream quota_file(folder + "/cpu.cfs_quota_us"), period_file(folder + "/cpu.cfs_period_us");
    if (!(quota_file >> quota) || !(period_file >> period)) return {};
  }
  double microseconds = 0;
  if (!(std::istringstream(quota) >> microseconds) || microseconds <= 0 || period <= 0) return {};
  return microseconds / period;
}

// Of version 1's "cpu,cpuacct", whether it is the controller of CPU time.
bool limits_cpu(const std::string& controllers) {
  std::istringstream names(controllers);
  for (std::string name; std::getline(names, name, ',');)
    if (name == "cpu") return true;
  return false;
}

}  // namespace

std::optional<double> cpu_quota(const std::string& proc_self_cgroup, const std::string& root) {
  std::optional<double> least;
  std::istringstream lines(proc_self_cgroup);
  for (std::string line; std::getline(lines, line);) {  // number:controllers:path
    const size_t first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && !limits_cpu(controllers)) continue;
    // A container may see its own cgroup at the root, under whatever path the host gave it: so up to the root.
    for (const std::string& mount : {root, fmt::format("{}/{}", root, controllers), fmt::format("{}/cpu", root)}) {
      std::string path = line.substr(second + 1);
      for (;;) {
        if (const auto quota = quota_of(mount + path)) least = std::min(least.value_or(*quota), *quota);
        const size_t slash = path.rfind('/');
        if (path.empty() || slash == std::string::npos) break;
        path.resize(slash);
      }
    }
  }
  return least;
}

}  // namespace cpu

int usable_threads() {
  int threads = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) threads = CPU_COUNT(&set);
  std::ifstream file("/proc/self/cgroup");
  std::ostringstream cgroups;
  cgroups << file.rdbuf();
  if (const auto quota = cpu::cpu_quota(cgroups.str(), "/sys/fs/cgroup"))
    threads = std::min(threads, static_cast<int>(std::ceil(std::min(*quota, 1e6))));
#endif
  return std::max(threads, 1);
}

}  // namespace sextant
