// Machine code of an AMD GPU as text of llvm-objdump, decoded once.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace sextant::hip::isa {

class Machine;
struct Wave;
struct Instruction;
// Executes one instruction; false: it is not known.
using Handler = bool (*)(Machine&, Wave&, const Instruction&);

struct Operand {
  enum class Kind : uint8_t { kNone, kScalar, kVector, kConstant, kOff } kind = Kind::kNone;
  int index = 0, count = 1;  // registers; accumulation registers are vectors from kFirstAccumulator on
  uint64_t constant = 0;     // as 32-bit operand its low half; sign-extended for 64-bit ones
  bool negate = false, absolute = false, sign_extend = false;
};

// Numbers of scalar registers with names.
constexpr int kVcc = 106, kM0 = 124, kExec = 126, kNumScalars = 128;
constexpr int kFirstAccumulator = 256, kNumVectors = 512;

// The part of a register that sdwa selects.
enum class Part : uint8_t { kDword, kWord0, kWord1, kByte0, kByte1, kByte2, kByte3 };
enum class Flow : uint8_t { kNext, kEnd, kBranch, kScc0, kScc1, kVccZero, kVccSome, kExecZero, kExecSome, kBarrier };

struct Instruction {
  std::string name, text;  // name without _e32, _e64, _sdwa, _dpp
  std::vector<Operand> operands;
  std::map<std::string, std::string> modifiers;  // "offset": "16", "op_sel_hi": "[0,1]", "vmcnt": "0"; "lds": ""
  int64_t address = 0;
  int target = -1;  // of a branch: index of an instruction
  Flow flow = Flow::kNext;
  Handler handler = nullptr;

  // From the modifiers.
  Part source_part[2] = {Part::kDword, Part::kDword}, result_part = Part::kDword;
  bool preserves = false;                                            // what result_part leaves of the register
  bool dpp = false, clamp = false, to_lds = false, partial = false;  // partial: some part above is not kDword
  uint8_t op_sel = 0, op_sel_hi = 0xff, neg_lo = 0, neg_hi = 0;      // a bit a source
  int32_t offset = 0, offset0 = 0, offset1 = 0, bitop3 = 0;
  int vmcnt = -1, lgkmcnt = -1;  // of s_waitcnt; -1: does not wait
  int wait_states = 1;           // s_nop n: n + 1
  // For hazards.h.
  bool is_vector = false, is_memory = false, is_store = false, is_mfma = false, is_xdl = false;
  uint8_t passes = 0;
};

struct Program {
  std::string name, architecture;
  std::vector<Instruction> code;
  std::string fault;  // what could not be read
  // From the kernel's descriptor: what the hardware sets up.
  int user_scalars = 2, kernarg_scalar = 0;
  int vectors = 256, accumulators = 256;  // registers that the kernel may name
  uint32_t lds_bytes = 0;
  uint32_t lds_cell = 4;  // bytes that waves may share; 2 where instructions write less than 4

  bool is_gfx90a() const { return architecture == "gfx90a"; }
  bool is_gfx950() const { return architecture == "gfx950"; }
};

// The kernel `name` of `text`, the output of llvm-objdump -d.
Program parse_program(const std::string& text, const std::string& name, const std::string& architecture = "gfx942");
// What the code object (an ELF file) says of the kernel; false: it has no such kernel.
bool read_descriptor(std::string_view object, Program& program);

// Makes the instruction do nothing, and take as long.
void leave_out(Instruction& instruction);

// Null: not known. Waits, branches and barriers have none.
Handler find_handler(const std::string& name);

}  // namespace sextant::hip::isa
