// Which instructions of each kernel any run so far has executed.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "hip/isa/runner.h"

namespace sextant::hip::isa {

struct Share {
  size_t executed = 0, all = 0;
  double percent() const { return all == 0 ? 0 : 100.0 * static_cast<double>(executed) / static_cast<double>(all); }
};

// Instructions of a kernel, without the padding after the last one.
size_t code_size(const Program& program);

// By kernel, a flag an instruction.
using Covered = std::map<std::string, std::vector<bool>>;
// Adds what the machines have executed; kernels that were read and not run come in with nothing. Flags of another build
// of a kernel say nothing and go.
void add_executed(const MachineCode& code, Covered& covered);
Share share_of(const std::vector<bool>& flags);
Share total_share(const Covered& covered);

}  // namespace sextant::hip::isa
