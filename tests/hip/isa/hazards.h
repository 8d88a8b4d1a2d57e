// Wait states that the hardware does not insert by itself around matrix instructions: the tables of AMD's "CDNA3
// Instruction Set Architecture" (4.5, manually inserted wait states), as LLVM's hazard recognizer keeps them.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "hip/isa/program.h"

namespace sextant::hip::isa {

// Says of an instruction what the tables ask: its kind, and of a matrix instruction its four-clock passes, how long the
// pipeline holds the operands.
void classify(Instruction& instruction, const std::string& architecture);

class Hazards {
 public:
  Hazards() { last_.fill({}); }

  // An instruction that reads or writes vectors comes; empty, or which wait states it lacks.
  std::string check(const Program& program, const Instruction& in);
  // A branch was taken: fetching from elsewhere takes longer than an issue, and LLVM counts a second branch here that
  // it removes afterwards.
  void take_branch() { ++now_; }
  // It has been issued.
  void advance(const Instruction& in);

 private:
  struct Register {
    int64_t mfma_write = kLongAgo, vector_write = kLongAgo, accumulator_read = kLongAgo;
    int16_t first = -1;  // of the result that the MFMA wrote
    uint8_t write_passes = 0, read_passes = 0;
    bool writer_is_xdl = false;
  };
  static constexpr int64_t kLongAgo = -1000;
  std::string lack(const Instruction& in, int reg, int64_t since, int needed, const char* why) const;
  std::string check_operand(const Program& program, const Instruction& in, size_t index) const;

  std::array<Register, kNumVectors> last_;
  int64_t now_ = 0, last_mfma_ = kLongAgo;
};

}  // namespace sextant::hip::isa
