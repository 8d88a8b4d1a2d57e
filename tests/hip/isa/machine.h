// Executes gfx942 machine code, one workgroup at a time, on the instructions that the attention kernels use.
//
// Besides results it watches what no source-level run can see:
//   - a register that a load or an LDS read has been asked to fill stays pending until an s_waitcnt says that it is
//     there; reading or overwriting it before is a fault
//   - shared memory: between two barriers a wave may not touch what another has written, nor write what another has
//     read; and no LDS write may be on its way when a wave comes to a barrier
// Not modelled: the manual's hazards that s_nop avoids, caches, and denormal modes.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "hip/isa/program.h"

namespace sextant::hip::isa {

constexpr int kLanes = 64, kNumVectors = 256;

// A load on its way.
struct Pending {
  bool is_scalar = false;  // SMEM: comes back in any order
  bool is_lds_write = false;
  Operand destination;  // none for stores
};

struct Wave {
  std::array<uint32_t, kNumScalars> s{};
  std::array<std::array<uint32_t, kLanes>, kNumVectors> v{};
  std::array<int, kNumScalars> s_pending{};  // loads on their way to the register
  std::array<int, kNumVectors> v_pending{};
  std::vector<Pending> vector_memory, lds_and_scalar;  // vmcnt, lgkmcnt; oldest first
  bool scc = false, done = false, at_barrier = false;
  int pc = 0, index = 0;

  uint64_t exec() const { return s[kExec] | static_cast<uint64_t>(s[kExec + 1]) << 32; }
};

class Machine {
 public:
  explicit Machine(const Program& program) : program_(program) {}

  // Empty, or the first fault.
  std::string run(const void* kernarg, int workgroup, int threads);
  int64_t instructions() const { return instructions_; }

  // ---- for the instructions (execute.cpp)
  void fail(const Wave& wave, const std::string& what);
  uint32_t read32(Wave& wave, const Operand& operand, int lane, int part = 0);
  uint64_t read64(Wave& wave, const Operand& operand, int lane);
  void write32(Wave& wave, const Operand& operand, int lane, uint32_t value, int part = 0);
  void write64(Wave& wave, const Operand& operand, int lane, uint64_t value);
  uint32_t read_lds(Wave& wave, uint32_t address);
  void write_lds(Wave& wave, uint32_t address, uint32_t value);
  void issue(Wave& wave, bool vector_memory, const Pending& load);
  void wait(Wave& wave, int vmcnt, int lgkmcnt);

 private:
  struct LdsWord {
    uint32_t value = 0xffffffffu;
    int write_epoch = -1, writer = -1;
    int read_epoch = -1;
    uint32_t readers = 0;  // a bit a wave
  };
  void step(Wave& wave);
  void mark(Wave& wave, const Operand& operand, int change);

  const Program& program_;
  std::vector<LdsWord> lds_;
  std::string fault_;
  int epoch_ = 0;
  int64_t instructions_ = 0;
};

// Executes everything but control flow; false: the instruction is not known.
bool execute(Machine& machine, Wave& wave, const Instruction& instruction);

}  // namespace sextant::hip::isa
