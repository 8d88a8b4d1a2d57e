// The CPU kernels that this machine can run, as parameters of tests.
#pragma once

#include <string>
#include <vector>

#include "devices/cpu/cpu_isa.h"

namespace sextant::testing {

inline std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const cpu::IsaInfo& isa : cpu::all_isas())
    if (isa.available) names.emplace_back(isa.name);
  return names;
}

}  // namespace sextant::testing
