// gfx942 machine code as text of llvm-objdump, decoded once.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace sextant::hip::isa {

struct Operand {
  enum class Kind : uint8_t { kNone, kScalar, kVector, kConstant, kOff } kind = Kind::kNone;
  int index = 0, count = 1;  // registers
  uint64_t constant = 0;     // as 32-bit operand its low half; sign-extended for 64-bit ones
  bool negate = false, absolute = false;
};

// Numbers of scalar registers with names.
constexpr int kVcc = 106, kM0 = 124, kExec = 126, kNumScalars = 128;

struct Instruction {
  std::string name, text;  // name without _e32, _e64, _sdwa
  std::vector<Operand> operands;
  std::map<std::string, std::string> modifiers;  // "offset": "16", "op_sel_hi": "[0,1]", "vmcnt": "0"
  int64_t address = 0;
  int target = -1;  // of a branch: index of an instruction
};

struct Program {
  std::vector<Instruction> code;
  std::string fault;  // what could not be read
};

// The kernel `name` of `text`, the output of llvm-objdump -d.
Program parse_program(const std::string& text, const std::string& name);

}  // namespace sextant::hip::isa
