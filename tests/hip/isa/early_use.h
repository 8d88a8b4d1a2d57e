// Whether some path through a program uses a vector register while a load from memory is on its way to it. Where none
// does, the waits for vector memory that it has are enough, whatever runs: a wait that can be left out so is redundant.
//
// A path takes every branch in either direction, so a use that is found may be one that never happens; none that
// happens is missed.
#pragma once

#include "hip/isa/program.h"

namespace sextant::hip::isa {

// Loads to shared memory are not followed: a program with one is said to use early.
bool may_use_early(const Program& program);

}  // namespace sextant::hip::isa
