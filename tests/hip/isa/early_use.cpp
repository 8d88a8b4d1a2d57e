#include "hip/isa/early_use.h"

#include <algorithm>
#include <array>
#include <vector>

namespace sextant::hip::isa {
namespace {

// By register: how many accesses of the counter at least have followed the load that is to fill it; none is on its way.
constexpr int8_t kNone = 127, kMost = 63;  // vmcnt counts to 63
struct State {
  std::array<int8_t, kNumVectors> followed;
  std::array<int8_t, kNumScalars> scalar_followed;  // kNone or not: scalar loads come back in any order
  int8_t last_local = kNone;                        // how many have followed the last access to shared memory
  // That some lane is active, and which pairs of scalars are known not to be zero: what branches on exec hang on. A
  // wave begins with all lanes; a mask that was saved while some were active brings some back.
  bool some_active = true;
  std::array<bool, kNumScalars> not_zero{};  // by the pair's first
  bool reached = false;
};

bool is_vector_memory(const Instruction& in) {
  return in.name.starts_with("global_") || in.name.starts_with("buffer_");
}
bool is_local(const Instruction& in) { return in.name.starts_with("ds_"); }
bool is_scalar_load(const Instruction& in) {
  return in.name.starts_with("s_load_") || in.name.starts_with("s_buffer_load_");
}
bool is_of(const Instruction& in, Counter counter) {
  return counter == Counter::kVectorMemory ? is_vector_memory(in) : is_local(in) || is_scalar_load(in);
}
bool fills_vector(const Instruction& in) {
  return (is_vector_memory(in) && in.name.find("_load") != std::string::npos) || in.name.starts_with("ds_read") ||
         in.name == "ds_bpermute_b32";
}

// `used`: a bit for each register of the operand.
bool is_on_its_way(const State& state, const Operand& operand, unsigned used = ~0u) {
  const bool vector = operand.kind == Operand::Kind::kVector;
  if (!vector && operand.kind != Operand::Kind::kScalar) return false;
  for (int i = 0; i < operand.count; ++i) {
    if ((used >> i & 1u) == 0) continue;
    const auto index = static_cast<size_t>(operand.index + i);
    if ((vector ? state.followed[index] : state.scalar_followed[index]) != kNone) return true;
  }
  return false;
}

// Of a source's pair of registers: two results that are made of one half do not read the other.
unsigned used_of(const Instruction& in, size_t operand) {
  if (operand == 0 || !in.name.starts_with("v_pk_") || !in.name.ends_with("_f32")) return ~0u;
  return 1u << (in.op_sel >> (operand - 1) & 1) | 1u << (in.op_sel_hi >> (operand - 1) & 1);
}

void wait(State& state, Counter counter, int left) {
  if (left < 0) return;
  if (left == 0) state.scalar_followed.fill(kNone);
  const auto& scalars = state.scalar_followed;
  // With a scalar load on its way a count other than 0 says nothing.
  if (counter == Counter::kLocal && std::any_of(scalars.begin(), scalars.end(), [](int8_t f) { return f != kNone; }))
    return;
  for (int8_t& followed : state.followed)
    if (followed >= left) followed = kNone;
  if (state.last_local >= left) state.last_local = kNone;
}

bool is_exec(const Operand& operand) { return operand.kind == Operand::Kind::kScalar && operand.index == kExec; }

// What the instruction does to exec, and to pairs of scalars that hold masks.
void follow_masks(const Instruction& in, State& state) {
  const auto pair = [](const Operand& operand) { return static_cast<size_t>(operand.index); };
  const auto is_not_zero = [&](const Operand& operand) {
    if (operand.kind == Operand::Kind::kConstant) return operand.constant != 0;
    if (is_exec(operand)) return state.some_active;
    return operand.kind == Operand::Kind::kScalar && operand.count == 2 && state.not_zero[pair(operand)];
  };
  const auto& op = in.operands;
  const bool saves = in.name.ends_with("_saveexec_b64") && op.size() == 2;
  const bool moves = in.name == "s_mov_b64" && op.size() == 2, joins = in.name == "s_or_b64" && op.size() == 3;
  const bool result = saves   ? state.some_active
                      : moves ? is_not_zero(op[1])
                              : joins && (is_not_zero(op[1]) || is_not_zero(op[2]));
  const bool writes_exec = saves || (!op.empty() && is_exec(op[0]));
  const bool stays_some = in.name.starts_with("s_or_saveexec") && state.some_active;
  // A result is the first operand, of some vector instructions the second.
  for (size_t i = 0; i < std::min<size_t>(op.size(), in.is_vector ? 2 : 1); ++i) {
    if (op[i].kind != Operand::Kind::kScalar) continue;
    for (int index = std::max(op[i].index - 1, 0); index < std::min(op[i].index + op[i].count, kNumScalars); ++index)
      state.not_zero[static_cast<size_t>(index)] = false;
    if (i == 0 && op[i].count == 2) state.not_zero[pair(op[i])] = result;
  }
  if (writes_exec) state.some_active = saves ? stays_some : result;
}

// False: it uses a register too early.
bool pass(const Instruction& in, Counter counter, State& state) {
  if (in.flow == Flow::kBarrier && state.last_local != kNone) return false;
  const bool counts = is_of(in, counter);
  // Loads of a queue to one register come in order; one of half a register reads the other half.
  const bool in_order =
      counts && fills_vector(in) && in.name != "ds_bpermute_b32" && in.name.find("d16") == std::string::npos;
  for (size_t i = in_order ? 1 : 0; i < in.operands.size(); ++i)
    if (is_on_its_way(state, in.operands[i], used_of(in, i))) return false;
  wait(state, counter, counter == Counter::kVectorMemory ? in.vmcnt : in.lgkmcnt);
  if (!counts) return true;
  for (int8_t& followed : state.followed)
    if (followed < kMost) ++followed;
  if (state.last_local < kMost) ++state.last_local;
  if (is_local(in)) state.last_local = 0;
  if (in.operands.empty()) return true;
  const Operand& filled = in.operands[0];
  for (int i = 0; i < filled.count; ++i) {
    const auto index = static_cast<size_t>(filled.index + i);
    if (fills_vector(in) && filled.kind == Operand::Kind::kVector) state.followed[index] = 0;
    if (is_scalar_load(in) && filled.kind == Operand::Kind::kScalar) state.scalar_followed[index] = 0;
  }
  return true;
}

// The state of both ways; true: it has changed.
bool join(State& to, const State& from) {
  if (!to.reached) {
    to = from;
    return true;
  }
  bool changed = false;
  const auto least = [&](int8_t& mine, int8_t other) {
    if (other < mine) mine = other, changed = true;
  };
  for (size_t i = 0; i < to.followed.size(); ++i) least(to.followed[i], from.followed[i]);
  for (size_t i = 0; i < to.scalar_followed.size(); ++i) least(to.scalar_followed[i], from.scalar_followed[i]);
  least(to.last_local, from.last_local);
  const auto both = [&](bool& mine, bool other) {
    if (mine && !other) mine = false, changed = true;
  };
  both(to.some_active, from.some_active);
  for (size_t i = 0; i < to.not_zero.size(); ++i) both(to.not_zero[i], from.not_zero[i]);
  return changed;
}

}  // namespace

bool may_use_early(const Program& program, Counter counter) {
  const std::vector<Instruction>& code = program.code;
  if (counter == Counter::kVectorMemory &&
      std::any_of(code.begin(), code.end(), [](const Instruction& in) { return in.to_lds; }))
    return true;
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
  states[0].scalar_followed.fill(kNone);
  states[0].reached = true;
  while (!left.empty()) {
    size_t at = left.back();
    left.pop_back();
    State state = states[static_cast<size_t>(block_of[at])];
    while (at < code.size()) {
      const Instruction& in = code[at];
      if (in.flow == Flow::kEnd) break;
      if (!pass(in, counter, state)) return true;
      follow_masks(in, state);
      const bool branches = in.target >= 0;
      const auto reach = [&](size_t next) {
        if (join(states[static_cast<size_t>(block_of[next])], state)) left.push_back(next);
      };
      const bool on_empty = in.flow == Flow::kExecZero, on_some = in.flow == Flow::kExecSome;
      if (branches && !(on_empty && state.some_active)) {
        const bool before = state.some_active;
        state.some_active = before || on_some;
        reach(static_cast<size_t>(in.target));
        state.some_active = before;
      }
      if (in.flow == Flow::kBranch || (on_some && state.some_active)) break;
      if (on_empty) state.some_active = true;
      if (++at < code.size() && block_of[at] >= 0) {
        reach(at);
        break;
      }
    }
  }
  return false;
}

}  // namespace sextant::hip::isa
