#include "hip/isa/loops.h"

namespace sextant::hip::isa {

std::vector<Loop> matrix_loops(const Program& program) {
  std::vector<Loop> loops;
  for (size_t end = 0; end < program.code.size(); ++end) {
    const int target = program.code[end].target;
    if (target < 0 || static_cast<size_t>(target) > end) continue;
    Loop loop{static_cast<size_t>(target), end + 1, 0};
    for (size_t i = loop.begin; i < loop.end; ++i) loop.products += program.code[i].is_mfma ? 1 : 0;
    if (loop.products > 0) loops.push_back(loop);
  }
  return loops;
}

Loop main_loop(const Program& program) {
  Loop best{0, program.code.size(), 0};
  for (const Loop& loop : matrix_loops(program))
    if (loop.products > best.products ||
        (loop.products == best.products && loop.end - loop.begin < best.end - best.begin))
      best = loop;
  return best;
}

}  // namespace sextant::hip::isa
