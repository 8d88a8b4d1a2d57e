// The instructions by kind; each gives false for what it does not know.
#pragma once

#include <algorithm>

#include "hip/isa/machine.h"

namespace sextant::hip::isa {

bool execute_scalar(Machine& machine, Wave& wave, const Instruction& instruction);
bool execute_memory(Machine& machine, Wave& wave, const Instruction& instruction);  // global_*, ds_*
bool execute_vector(Machine& machine, Wave& wave, const Instruction& instruction);

}  // namespace sextant::hip::isa
