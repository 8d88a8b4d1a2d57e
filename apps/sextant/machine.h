// The machine that the tool runs on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arguments.h"

namespace sextant::cli {

struct CacheLevel {
  std::string name;  // "L1d", "L2", "L3"
  int64_t bytes = 0;
};

struct Machine {
  std::string cpu;
  int threads = 0;         // that this process may use
  int threads_online = 0;  // that the machine has
  int64_t memory_bytes = 0;
  int64_t available_bytes = 0;
  std::vector<CacheLevel> caches;
  std::string system;  // "Linux 6.1.0 x86_64"
};

Machine this_machine();
Json to_json(const Machine& machine);
std::string bytes_text(int64_t bytes);  // "1.5 GiB"

}  // namespace sextant::cli
