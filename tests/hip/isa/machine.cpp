#include "hip/isa/machine.h"

#include <algorithm>
#include <cstdio>

namespace sextant::hip::isa {

void Machine::fail(const Wave& wave, const std::string& what) {
  if (!fault_.empty()) return;
  const Instruction& at = program_.code[static_cast<size_t>(wave.pc)];
  char place[64];
  std::snprintf(place, sizeof(place), "wave %d at 0x%llx: ", wave.index, static_cast<unsigned long long>(at.address));
  fault_ = place + at.text + ": " + what;
}

// ---- registers -----------------------------------------------------------------------------------------------------

uint32_t Machine::read_scalar(Wave& wave, const Operand& operand, int part) {
  if (operand.kind == Operand::Kind::kConstant) return static_cast<uint32_t>(operand.constant);
  if (operand.kind != Operand::Kind::kScalar) {
    fail(wave, "a vector where a scalar is expected");
    return 0;
  }
  const auto index = static_cast<size_t>(operand.index) + static_cast<size_t>(part);
  if (wave.s_pending[index] > 0) fail(wave, "reads s" + std::to_string(index) + " while a load is on its way to it");
  return wave.s[index];
}
uint64_t Machine::read_scalar64(Wave& wave, const Operand& operand) {
  if (operand.kind == Operand::Kind::kConstant) return operand.constant;
  return read_scalar(wave, operand, 0) | static_cast<uint64_t>(read_scalar(wave, operand, 1)) << 32;
}
void Machine::write_scalar(Wave& wave, const Operand& operand, uint32_t value, int part) {
  const auto index = static_cast<size_t>(operand.index) + static_cast<size_t>(part);
  if (operand.kind != Operand::Kind::kScalar) {
    fail(wave, "a vector where a scalar is expected");
    return;
  }
  if (wave.s_pending[index] > 0)
    fail(wave, "overwrites s" + std::to_string(index) + " while a load is on its way to it");
  wave.s[index] = value;
}
void Machine::write_scalar64(Wave& wave, const Operand& operand, uint64_t value) {
  write_scalar(wave, operand, static_cast<uint32_t>(value), 0);
  write_scalar(wave, operand, static_cast<uint32_t>(value >> 32), 1);
}

void Machine::check_vector(Wave& wave, int index, const char* what) {
  const auto& pending = wave.v_pending[static_cast<size_t>(index)];
  if (pending[0] + pending[1] > 0)
    fail(wave, std::string(what) + (index >= kFirstAccumulator ? " a" : " v") +
                   std::to_string(index % kFirstAccumulator) + " while a load is on its way to it");
}

const Lanes& Machine::read_lanes(Wave& wave, const Operand& operand, int part, Lanes& buffer) {
  if (operand.kind == Operand::Kind::kVector) {
    const int index = operand.index + part;
    check_vector(wave, index, "reads");
    return wave.v[static_cast<size_t>(index)];
  }
  buffer.fill(operand.kind == Operand::Kind::kConstant && part == 1 ? static_cast<uint32_t>(operand.constant >> 32)
                                                                    : read_scalar(wave, operand, part));
  return buffer;
}
void Machine::write_lanes(Wave& wave, const Operand& operand, int part, const Lanes& values) {
  if (operand.kind != Operand::Kind::kVector) {
    fail(wave, "a scalar where a vector is expected");
    return;
  }
  check_vector(wave, operand.index + part, "overwrites");
  blend(wave, operand.index + part, values);
}
void Machine::write_loaded(Wave& wave, const Operand& operand, int part, const Lanes& values, bool vector_memory) {
  const int index = operand.index + part;
  if (wave.v_pending[static_cast<size_t>(index)][vector_memory ? 0 : 1] > 0) check_vector(wave, index, "overwrites");
  blend(wave, index, values);
}
void Machine::blend(Wave& wave, int index, const Lanes& values) {
  Lanes& to = wave.v[static_cast<size_t>(index)];
  const uint64_t exec = wave.exec();
  if (exec == ~uint64_t{0}) {
    to = values;
    return;
  }
  for (size_t lane = 0; lane < kLanes; ++lane)
    if ((exec >> lane & 1) != 0) to[lane] = values[lane];
}
void Machine::write_all_lanes(Wave& wave, const Operand& operand, int part, const Lanes& values) {
  const int index = operand.index + part;
  check_vector(wave, index, "overwrites");
  wave.v[static_cast<size_t>(index)] = values;
}

// ---- waits ---------------------------------------------------------------------------------------------------------

void Machine::mark(Wave& wave, const Operand& operand, bool vector_memory, int change) {
  for (int i = 0; i < operand.count; ++i) {
    const auto index = static_cast<size_t>(operand.index) + static_cast<size_t>(i);
    int16_t* const pending = operand.kind == Operand::Kind::kScalar   ? &wave.s_pending[index]
                             : operand.kind == Operand::Kind::kVector ? &wave.v_pending[index][vector_memory ? 1 : 0]
                                                                      : nullptr;
    if (pending != nullptr) *pending = static_cast<int16_t>(*pending + change);
  }
}

void Machine::issue(Wave& wave, bool vector_memory, const Pending& load) {
  (vector_memory ? wave.vector_memory : wave.lds_and_scalar).push_back(load);
  mark(wave, load.destination, vector_memory, 1);
}

void Machine::retire(Wave& wave, std::deque<Pending>& queue, size_t left, bool vector_memory) {
  while (queue.size() > left) {
    const Pending& oldest = queue.front();
    mark(wave, oldest.destination, vector_memory, -1);
    if (oldest.lds_number >= 0)
      lds_.retire(wave.index, vector_memory ? LdsQueue::kVectorMemory : LdsQueue::kLocal, oldest.lds_number);
    queue.pop_front();
    retired_something_[static_cast<size_t>(wave.pc)] = true;
  }
}

// Vector memory and LDS come back in order, scalar loads in any: with one on its way only a count of 0 says anything.
void Machine::wait(Wave& wave, const Instruction& in) {
  if (in.vmcnt >= 0) retire(wave, wave.vector_memory, static_cast<size_t>(in.vmcnt), true);
  const bool any_scalar = std::any_of(wave.lds_and_scalar.begin(), wave.lds_and_scalar.end(),
                                      [](const Pending& load) { return load.is_scalar; });
  if (in.lgkmcnt >= 0 && (in.lgkmcnt == 0 || !any_scalar))
    retire(wave, wave.lds_and_scalar, static_cast<size_t>(in.lgkmcnt), false);
}

// ---- control -------------------------------------------------------------------------------------------------------

void Machine::step(Wave& wave) {
  const Instruction& in = program_.code[static_cast<size_t>(wave.pc)];
  ++executed_[static_cast<size_t>(wave.pc)];
  if (trace_ != nullptr) (*trace_)[static_cast<size_t>(wave.index)].push_back(wave.pc);
  if (std::string fault = wave.hazards.check(program_, in); !fault.empty()) fail(wave, fault);
  wave.hazards.advance(in);
  bool taken = false;
  const uint64_t vcc = wave.s[kVcc] | static_cast<uint64_t>(wave.s[kVcc + 1]) << 32;
  switch (in.flow) {
    case Flow::kEnd:
      wave.done = true;
      return;
    case Flow::kBarrier:
      wave.at_barrier = true;
      break;
    case Flow::kBranch:
      taken = true;
      break;
    case Flow::kScc0:
    case Flow::kScc1:
      taken = wave.scc == (in.flow == Flow::kScc1);
      break;
    case Flow::kVccZero:
    case Flow::kVccSome:
      taken = (vcc == 0) == (in.flow == Flow::kVccZero);
      break;
    case Flow::kExecZero:
    case Flow::kExecSome:
      taken = (wave.exec() == 0) == (in.flow == Flow::kExecZero);
      break;
    default:
      if (in.vmcnt >= 0 || in.lgkmcnt >= 0) {
        wait(wave, in);
      } else if (in.handler == nullptr || !in.handler(*this, wave, in)) {
        fail(wave, "not known to this interpreter");
      }
  }
  if (taken) wave.hazards.take_branch();
  wave.pc = taken ? in.target : wave.pc + 1;
}

// What the kernel's descriptor asks for: the arguments' address, the workgroup's number, and v0 the thread's.
void Machine::start(Wave& wave, int index, const void* kernarg, int workgroup) const {
  wave.s.fill(0x5bad5bad);
  wave.s_pending.fill(0);
  wave.v_pending.fill({});
  wave.vector_memory.clear();
  wave.lds_and_scalar.clear();
  wave.hazards = {};
  wave.scc = wave.done = wave.at_barrier = false;
  wave.pc = 0;
  wave.index = index;
  const auto address = reinterpret_cast<uint64_t>(kernarg);
  const auto at = static_cast<size_t>(program_.kernarg_scalar);
  wave.s[at] = static_cast<uint32_t>(address);
  wave.s[at + 1] = static_cast<uint32_t>(address >> 32);
  wave.s[static_cast<size_t>(program_.user_scalars)] = static_cast<uint32_t>(workgroup);
  wave.s[kExec] = wave.s[kExec + 1] = 0xffffffffu;
  // NaN where nobody has written.
  for (int i = 0; i < program_.vectors; ++i) wave.v[static_cast<size_t>(i)].fill(0x7fc0dead);
  for (int i = 0; i < program_.accumulators; ++i)
    wave.v[static_cast<size_t>(kFirstAccumulator) + static_cast<size_t>(i)].fill(0x7fc0dead);
  for (size_t lane = 0; lane < kLanes; ++lane)
    wave.v[0][lane] = static_cast<uint32_t>(index) * kLanes + static_cast<uint32_t>(lane);
}

std::string Machine::run(const void* kernarg, int workgroup, int threads) {
  if (!program_.fault.empty()) return program_.fault;
  if (threads % kLanes != 0 || threads > kMaxWaves * kLanes) return "a workgroup of " + std::to_string(threads);
  lds_.reset(program_.lds_bytes, program_.lds_cell);
  fault_.clear();
  const int count = threads / kLanes;
  while (waves_.size() < static_cast<size_t>(count)) waves_.push_back(std::make_unique<Wave>());
  for (int w = 0; w < count; ++w) start(*waves_[static_cast<size_t>(w)], w, kernarg, workgroup);
  for (bool any = true; any && fault_.empty();) {
    any = false;
    for (int w = 0; w < count; ++w) {
      Wave& wave = *waves_[static_cast<size_t>(w)];
      wave.at_barrier = false;
      while (!wave.done && !wave.at_barrier && fault_.empty()) step(wave);
      any = any || !wave.done;
    }
    lds_.begin_epoch();
  }
  return fault_;
}

}  // namespace sextant::hip::isa
