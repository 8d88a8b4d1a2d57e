#include "hip/isa/machine.h"

#include <algorithm>
#include <cstring>

namespace sextant::hip::isa {

void Machine::fail(const Wave& wave, const std::string& what) {
  if (!fault_.empty()) return;
  const Instruction& at = program_.code[static_cast<size_t>(wave.pc)];
  char place[64];
  std::snprintf(place, sizeof(place), "wave %d at 0x%llx: ", wave.index, static_cast<unsigned long long>(at.address));
  fault_ = place + at.text + ": " + what;
}

uint32_t Machine::read32(Wave& wave, const Operand& operand, int lane, int part) {
  const auto index = static_cast<size_t>(operand.index + part);
  switch (operand.kind) {
    case Operand::Kind::kScalar:
      if (wave.s_pending[index] > 0)
        fail(wave, "reads s" + std::to_string(index) + " while a load is on its way to it");
      return wave.s[index];
    case Operand::Kind::kVector:
      if (wave.v_pending[index] > 0)
        fail(wave, "reads v" + std::to_string(index) + " while a load is on its way to it");
      return wave.v[index][static_cast<size_t>(lane)];
    default:
      return static_cast<uint32_t>(operand.constant);
  }
}

uint64_t Machine::read64(Wave& wave, const Operand& operand, int lane) {
  if (operand.kind == Operand::Kind::kConstant) return operand.constant;
  return read32(wave, operand, lane, 0) | static_cast<uint64_t>(read32(wave, operand, lane, 1)) << 32;
}

void Machine::write32(Wave& wave, const Operand& operand, int lane, uint32_t value, int part) {
  const auto index = static_cast<size_t>(operand.index + part);
  const bool scalar = operand.kind == Operand::Kind::kScalar;
  if ((scalar ? wave.s_pending[index] : wave.v_pending[index]) > 0)
    fail(wave, std::string("overwrites ") + (scalar ? "s" : "v") + std::to_string(index) +
                   " while a load is on its way to it");
  if (scalar) {
    wave.s[index] = value;
  } else {
    wave.v[index][static_cast<size_t>(lane)] = value;
  }
}

void Machine::write64(Wave& wave, const Operand& operand, int lane, uint64_t value) {
  write32(wave, operand, lane, static_cast<uint32_t>(value), 0);
  write32(wave, operand, lane, static_cast<uint32_t>(value >> 32), 1);
}

uint32_t Machine::read_lds(Wave& wave, uint32_t address) {
  if (address % 4 != 0 || address / 4 >= lds_.size()) {
    fail(wave, "LDS address " + std::to_string(address) + " is outside the 64 KiB or not aligned");
    return 0;
  }
  LdsWord& word = lds_[address / 4];
  if (word.write_epoch == epoch_ && word.writer != wave.index)
    fail(wave, "reads LDS byte " + std::to_string(address) + ", which wave " + std::to_string(word.writer) +
                   " has written with no barrier between");
  if (word.read_epoch != epoch_) word.readers = 0;
  word.read_epoch = epoch_;
  word.readers |= 1u << wave.index;
  return word.value;
}

void Machine::write_lds(Wave& wave, uint32_t address, uint32_t value) {
  if (address % 4 != 0 || address / 4 >= lds_.size()) {
    fail(wave, "LDS address " + std::to_string(address) + " is outside the 64 KiB or not aligned");
    return;
  }
  LdsWord& word = lds_[address / 4];
  if (word.write_epoch == epoch_ && word.writer != wave.index)
    fail(wave, "writes LDS byte " + std::to_string(address) + ", which wave " + std::to_string(word.writer) +
                   " has written with no barrier between");
  if (word.read_epoch == epoch_ && (word.readers & ~(1u << wave.index)) != 0)
    fail(wave, "writes LDS byte " + std::to_string(address) + ", which another wave has read with no barrier between");
  word.value = value;
  word.write_epoch = epoch_;
  word.writer = wave.index;
}

void Machine::mark(Wave& wave, const Operand& operand, int change) {
  for (int i = 0; i < operand.count; ++i) {
    const auto index = static_cast<size_t>(operand.index + i);
    if (operand.kind == Operand::Kind::kScalar) wave.s_pending[index] += change;
    if (operand.kind == Operand::Kind::kVector) wave.v_pending[index] += change;
  }
}

void Machine::issue(Wave& wave, bool vector_memory, const Pending& load) {
  (vector_memory ? wave.vector_memory : wave.lds_and_scalar).push_back(load);
  mark(wave, load.destination, 1);
}

// Vector memory and LDS come back in order, scalar loads in any: with one on its way only a count of 0 says anything.
void Machine::wait(Wave& wave, int vmcnt, int lgkmcnt) {
  const auto retire = [&](std::vector<Pending>& queue, int left) {
    while (static_cast<int>(queue.size()) > left) {
      mark(wave, queue.front().destination, -1);
      queue.erase(queue.begin());
    }
  };
  retire(wave.vector_memory, vmcnt);
  const bool any_scalar = std::any_of(wave.lds_and_scalar.begin(), wave.lds_and_scalar.end(),
                                      [](const Pending& load) { return load.is_scalar; });
  if (lgkmcnt == 0 || !any_scalar) retire(wave.lds_and_scalar, lgkmcnt);
}

void Machine::step(Wave& wave) {
  const Instruction& in = program_.code[static_cast<size_t>(wave.pc)];
  ++instructions_;
  const auto branch = [&](bool taken) { wave.pc = taken ? in.target : wave.pc + 1; };
  const uint64_t vcc = wave.s[kVcc] | static_cast<uint64_t>(wave.s[kVcc + 1]) << 32;
  if (in.name == "s_endpgm") {
    wave.done = true;
  } else if (in.name == "s_branch") {
    branch(true);
  } else if (in.name == "s_cbranch_scc0" || in.name == "s_cbranch_scc1") {
    branch(wave.scc == (in.name.back() == '1'));
  } else if (in.name == "s_cbranch_vccz" || in.name == "s_cbranch_vccnz") {
    branch((vcc == 0) == (in.name == "s_cbranch_vccz"));
  } else if (in.name == "s_cbranch_execz" || in.name == "s_cbranch_execnz") {
    branch((wave.exec() == 0) == (in.name == "s_cbranch_execz"));
  } else if (in.name == "s_barrier") {
    for (const Pending& load : wave.lds_and_scalar)
      if (load.is_lds_write) fail(wave, "an LDS write is still on its way");
    wave.at_barrier = true;
    ++wave.pc;
  } else if (in.name == "s_waitcnt") {
    const auto count = [&](const char* name) {
      const auto found = in.modifiers.find(name);
      return found == in.modifiers.end() ? 1 << 20 : std::stoi(found->second);
    };
    if (!in.operands.empty()) fail(wave, "a wait in numbers; allowed: vmcnt(n), lgkmcnt(n)");
    wait(wave, count("vmcnt"), count("lgkmcnt"));
    ++wave.pc;
  } else {
    if (!execute(*this, wave, in)) fail(wave, "not known to this interpreter");
    ++wave.pc;
  }
}

std::string Machine::run(const void* kernarg, int workgroup, int threads) {
  lds_.assign(64 * 1024 / 4, LdsWord{});
  epoch_ = 0;
  fault_.clear();
  std::vector<Wave> waves(static_cast<size_t>(threads / kLanes));
  const auto address = reinterpret_cast<uint64_t>(kernarg);
  for (size_t w = 0; w < waves.size(); ++w) {
    Wave& wave = waves[w];
    wave.index = static_cast<int>(w);
    // What the kernels' descriptors ask for: the arguments' address, the workgroup's number, and v0 the thread's.
    wave.s[0] = static_cast<uint32_t>(address);
    wave.s[1] = static_cast<uint32_t>(address >> 32);
    wave.s[2] = static_cast<uint32_t>(workgroup);
    wave.s[kExec] = wave.s[kExec + 1] = 0xffffffffu;
    for (auto& vector : wave.v) vector.fill(0x7fc0dead);
    for (size_t lane = 0; lane < kLanes; ++lane) wave.v[0][lane] = static_cast<uint32_t>(w * kLanes + lane);
  }
  for (bool any = true; any && fault_.empty();) {
    any = false;
    for (Wave& wave : waves) {
      wave.at_barrier = false;
      while (!wave.done && !wave.at_barrier && fault_.empty()) step(wave);
      any = any || !wave.done;
    }
    ++epoch_;
  }
  return fault_;
}

}  // namespace sextant::hip::isa
