#include "hip/isa/coverage.h"

#include <algorithm>

namespace sextant::hip::isa {

size_t code_size(const Program& program) {
  size_t size = program.code.size();
  while (size > 0 && (program.code[size - 1].name == "s_nop" || program.code[size - 1].name == "s_code_end")) --size;
  return size;
}

void add_executed(const MachineCode& code, Covered& covered) {
  for (const auto& [name, kernel] : code.kernels()) {
    std::vector<bool>& flags = covered[name];
    const size_t size = code_size(kernel.program);
    if (flags.size() != size) flags.assign(size, false);
    for (size_t i = 0; i < size; ++i)
      if (kernel.machine->executed()[i] > 0) flags[i] = true;
  }
}

Share share_of(const std::vector<bool>& flags) {
  return {static_cast<size_t>(std::count(flags.begin(), flags.end(), true)), flags.size()};
}

Share total_share(const Covered& covered) {
  Share total;
  for (const auto& [name, flags] : covered) {
    const Share share = share_of(flags);
    total.executed += share.executed;
    total.all += share.all;
  }
  return total;
}

}  // namespace sextant::hip::isa
