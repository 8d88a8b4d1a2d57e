#include "hip/isa/early_use.h"

#include <algorithm>
#include <array>
#include <vector>

namespace sextant::hip::isa {
namespace {

// By register: how many accesses to memory at least have followed the load that is to fill it; none is on its way.
constexpr int8_t kNone = 127, kMost = 63;  // vmcnt counts to 63
struct State {
  std::array<int8_t, kNumVectors> followed;
  bool reached = false;
};

bool is_vector_memory(const Instruction& in) {
  return in.name.starts_with("global_") || in.name.starts_with("buffer_");
}
bool is_load(const Instruction& in) { return is_vector_memory(in) && in.name.find("_load") != std::string::npos; }

bool is_on_its_way(const State& state, const Operand& operand) {
  if (operand.kind != Operand::Kind::kVector) return false;
  for (int i = 0; i < operand.count; ++i)
    if (state.followed[static_cast<size_t>(operand.index + i)] != kNone) return true;
  return false;
}

// False: it uses a register too early.
bool pass(const Instruction& in, State& state) {
  const bool load = is_load(in), keeps_half = in.name.find("d16") != std::string::npos;
  // Loads to one register come in order; one of half a register reads the other half.
  for (size_t i = load && !keeps_half ? 1 : 0; i < in.operands.size(); ++i)
    if (is_on_its_way(state, in.operands[i])) return false;
  if (in.vmcnt >= 0)
    for (int8_t& followed : state.followed)
      if (followed >= in.vmcnt) followed = kNone;
  if (!is_vector_memory(in)) return true;
  for (int8_t& followed : state.followed)
    if (followed < kMost) ++followed;
  if (load && !in.operands.empty() && in.operands[0].kind == Operand::Kind::kVector)
    for (int i = 0; i < in.operands[0].count; ++i) state.followed[static_cast<size_t>(in.operands[0].index + i)] = 0;
  return true;
}

// The state of both ways; true: it has changed.
bool join(State& to, const State& from) {
  if (!to.reached) {
    to = from;
    return true;
  }
  bool changed = false;
  for (size_t i = 0; i < to.followed.size(); ++i)
    if (from.followed[i] < to.followed[i]) to.followed[i] = from.followed[i], changed = true;
  return changed;
}

}  // namespace

bool may_use_early(const Program& program) {
  const std::vector<Instruction>& code = program.code;
  if (std::any_of(code.begin(), code.end(), [](const Instruction& in) { return in.to_lds; })) return true;
  std::vector<int> block_of(code.size(), -1);  // instructions that several paths lead to have states
  std::vector<State> states;
  const auto begins = [&](int at) {
    if (at < 0 || static_cast<size_t>(at) >= code.size() || block_of[static_cast<size_t>(at)] >= 0) return;
    block_of[static_cast<size_t>(at)] = static_cast<int>(states.size());
    states.emplace_back();
  };
  begins(0);
  for (size_t i = 0; i < code.size(); ++i)
    if (code[i].target >= 0) begins(code[i].target), begins(static_cast<int>(i) + 1);
  std::vector<size_t> left = {0};
  states[0].followed.fill(kNone);
  states[0].reached = true;
  while (!left.empty()) {
    size_t at = left.back();
    left.pop_back();
    State state = states[static_cast<size_t>(block_of[at])];
    while (at < code.size()) {
      const Instruction& in = code[at];
      if (in.flow == Flow::kEnd) break;
      if (!pass(in, state)) return true;
      const bool branches = in.target >= 0;
      const auto reach = [&](size_t next) {
        if (join(states[static_cast<size_t>(block_of[next])], state)) left.push_back(next);
      };
      if (branches) reach(static_cast<size_t>(in.target));
      if (in.flow == Flow::kBranch) break;
      if (++at < code.size() && block_of[at] >= 0) {
        reach(at);
        break;
      }
    }
  }
  return false;
}

}  // namespace sextant::hip::isa
