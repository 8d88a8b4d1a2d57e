// Executes the machine code of gfx90a, gfx942 and gfx950, one workgroup at a time, on the instructions that the kernels
// use.
//
// Besides results it watches what no source-level run can see:
//   - a register that a load or an LDS read has been asked to fill stays pending until an s_waitcnt says that it is
//     there; reading or overwriting it before is a fault
//   - shared memory: local_memory.h
//   - wait states around matrix instructions: hazards.h
// Not modelled: other hazards that s_nop avoids, caches, the order of a wave's global stores and loads, denormal modes
// but for MI200's matrix instructions, and the last bits of v_exp, v_log and v_rcp.
#pragma once

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "hip/isa/hazards.h"
#include "hip/isa/local_memory.h"
#include "hip/isa/program.h"

namespace sextant::hip::isa {

constexpr int kLanes = 64;
using Lanes = std::array<uint32_t, kLanes>;

// A load or store on its way.
struct Pending {
  bool is_scalar = false;  // SMEM: comes back in any order
  Operand destination;     // none for stores
  int lds_number = -1;     // of its LDS access
};

struct Wave {
  std::array<uint32_t, kNumScalars> s{};
  std::array<Lanes, kNumVectors> v;
  std::array<int16_t, kNumScalars> s_pending{};                 // loads on their way to the register
  std::array<std::array<int16_t, 2>, kNumVectors> v_pending{};  // by LDS, by vector memory
  std::deque<Pending> vector_memory, lds_and_scalar;            // vmcnt, lgkmcnt; oldest first
  Hazards hazards;
  bool scc = false, done = false, at_barrier = false;
  int pc = 0, index = 0;

  uint64_t exec() const { return s[kExec] | static_cast<uint64_t>(s[kExec + 1]) << 32; }
  bool is_active(int lane) const { return (exec() >> lane & 1) != 0; }
};

class Machine {
 public:
  explicit Machine(const Program& program)
      : program_(program), executed_(program.code.size(), 0), retired_something_(program.code.size()) {}

  // Empty, or the first fault.
  std::string run(const void* kernarg, int workgroup, int threads);
  // How often each instruction of the program was executed, by all waves so far.
  const std::vector<int64_t>& executed() const { return executed_; }
  void forget_executed() { std::fill(executed_.begin(), executed_.end(), 0); }
  // Waits that had something to wait for; false for all other instructions.
  const std::vector<bool>& retired_something() const { return retired_something_; }
  // Stores go nowhere: for runs of code that is wrong on purpose.
  void discard_stores() { discards_stores_ = true; }

  // Appends the index of each instruction that a wave executes, by waves.
  void trace(std::array<std::vector<int>, kMaxWaves>* indices) { trace_ = indices; }

  // ---- for the instructions
  const Program& program() const { return program_; }
  bool discards_stores() const { return discards_stores_; }
  LocalMemory& lds() { return lds_; }
  void fail(const Wave& wave, const std::string& what);
  uint32_t read_scalar(Wave& wave, const Operand& operand, int part = 0);
  uint64_t read_scalar64(Wave& wave, const Operand& operand);
  void write_scalar(Wave& wave, const Operand& operand, uint32_t value, int part = 0);
  void write_scalar64(Wave& wave, const Operand& operand, uint64_t value);
  // All lanes; `buffer` is filled where the operand is no vector.
  const Lanes& read_lanes(Wave& wave, const Operand& operand, int part, Lanes& buffer);
  // The active lanes.
  void write_lanes(Wave& wave, const Operand& operand, int part, const Lanes& values);
  // By a load: it may come after others of its queue to the same register, because they come back in order.
  void write_loaded(Wave& wave, const Operand& operand, int part, const Lanes& values, bool vector_memory);
  void write_all_lanes(Wave& wave, const Operand& operand, int part, const Lanes& values);
  void issue(Wave& wave, bool vector_memory, const Pending& load);

 private:
  void start(Wave& wave, int index, const void* kernarg, int workgroup) const;
  void step(Wave& wave);
  void wait(Wave& wave, const Instruction& in);
  void retire(Wave& wave, std::deque<Pending>& queue, size_t left, bool vector_memory);
  void mark(Wave& wave, const Operand& operand, bool vector_memory, int change);
  void check_vector(Wave& wave, int index, const char* what);
  static void blend(Wave& wave, int index, const Lanes& values);

  const Program& program_;
  LocalMemory lds_;
  std::vector<std::unique_ptr<Wave>> waves_;
  std::string fault_;
  std::vector<int64_t> executed_;
  std::vector<bool> retired_something_;
  bool discards_stores_ = false;
  std::array<std::vector<int>, kMaxWaves>* trace_ = nullptr;
};

}  // namespace sextant::hip::isa
