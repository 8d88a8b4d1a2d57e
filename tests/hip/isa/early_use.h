// Whether some path through a program uses a register while a load is on its way to it. Where none does, the waits that
// it has for that counter are enough, whatever runs: a wait that can be left out so is redundant.
//
// A path takes every branch in either direction, but for branches on exec where it is known that some lane is active;
// so a use that is found may be one that never happens, and none that happens is missed.
#pragma once

#include "hip/isa/program.h"

namespace sextant::hip::isa {

enum class Counter : uint8_t { kVectorMemory, kLocal };  // vmcnt; lgkmcnt, which scalar loads count by as well

// kVectorMemory: loads to shared memory are not followed, and a program with one is said to use early. kLocal: meeting
// the other waves with an access to shared memory on its way is a use.
bool may_use_early(const Program& program, Counter counter);

}  // namespace sextant::hip::isa
