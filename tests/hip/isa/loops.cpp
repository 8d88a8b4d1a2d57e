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

std::vector<bool> turns_of(const Program& program, const Loop& loop) {
  const size_t count = program.code.size();
  std::vector<std::vector<size_t>> next(count), before(count);
  for (size_t i = 0; i < count; ++i) {
    const Instruction& in = program.code[i];
    if (in.target >= 0) next[i].push_back(static_cast<size_t>(in.target));
    if (in.flow != Flow::kBranch && in.flow != Flow::kEnd && i + 1 < count) next[i].push_back(i + 1);
    for (size_t to : next[i]) before[to].push_back(i);
  }
  const auto reached = [&](const std::vector<std::vector<size_t>>& edges) {
    std::vector<bool> seen(count);
    std::vector<size_t> left = {loop.begin};
    while (!left.empty()) {
      const size_t at = left.back();
      left.pop_back();
      for (size_t to : edges[at])
        if (!seen[to]) seen[to] = true, left.push_back(to);
    }
    return seen;
  };
  std::vector<bool> turns = reached(next);
  const std::vector<bool> back = reached(before);
  for (size_t i = 0; i < count; ++i) turns[i] = turns[i] && back[i];
  return turns;
}

}  // namespace sextant::hip::isa
