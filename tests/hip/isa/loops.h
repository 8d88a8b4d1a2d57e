// The loops of a kernel's machine code.
#pragma once

#include <vector>

#include "hip/isa/program.h"

namespace sextant::hip::isa {

struct Loop {
  size_t begin = 0, end = 0;  // [begin, end) of the code
  size_t products = 0;        // matrix instructions in it
};

// Every backward branch with matrix instructions between it and its target.
std::vector<Loop> matrix_loops(const Program& program);
// The one with the most matrix instructions, and the shortest of those; the whole kernel where there is none.
Loop main_loop(const Program& program);

// What can run between two turns of the loop: what its first instruction leads to and that leads back to it. Code that
// lies between its ends need not, as a kernel's last part that the compiler has put there.
std::vector<bool> turns_of(const Program& program, const Loop& loop);

}  // namespace sextant::hip::isa
