// Reads the processor's name, its caches and the memory from the system.
#include "machine.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>

#include "devices/cpu/cpu_isa.h"

namespace sextant::cli {
namespace {

int allowed_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set)
                                                      : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
}

// MemAvailable counts what the page cache would give back; sysconf does not.
int64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  std::string field, unit;
  int64_t kibibytes = 0;
  while (file >> field >> kibibytes >> unit)
    if (field == "MemAvailable:") return kibibytes * 1024;
  return int64_t{sysconf(_SC_AVPHYS_PAGES)} * sysconf(_SC_PAGESIZE);
}

}  // namespace

Machine this_machine() {
  Machine machine;
  machine.cpu = cpu::processor_name();
  machine.threads = allowed_threads();
  machine.threads_online = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  machine.memory_bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  machine.available_bytes = available_memory();
  const std::pair<const char*, int> levels[] = {
      {"L1d", _SC_LEVEL1_DCACHE_SIZE}, {"L2", _SC_LEVEL2_CACHE_SIZE}, {"L3", _SC_LEVEL3_CACHE_SIZE}};
  for (const auto& [name, field] : levels)
    if (const long bytes = sysconf(field); bytes > 0) machine.caches.push_back({name, bytes});
  utsname names{};
  if (uname(&names) == 0) machine.system = fmt::format("{} {} {}", names.sysname, names.release, names.machine);
  return machine;
}

Json to_json(const Machine& machine) {
  Json caches = Json::object();
  for (const CacheLevel& level : machine.caches) caches[level.name] = level.bytes;
  return {{"cpu", machine.cpu},
          {"threads", machine.threads},
          {"threads_online", machine.threads_online},
          {"caches_bytes", caches},
          {"memory_bytes", machine.memory_bytes},
          {"memory_available_bytes", machine.available_bytes},
          {"system", machine.system}};
}

std::string bytes_text(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

}  // namespace sextant::cli
