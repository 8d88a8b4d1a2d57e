#include "hip/isa/hazards.h"

namespace sextant::hip::isa {
namespace {

// fp32 products go through another pipeline than the narrow types'.
bool is_xdl(const std::string& name) {
  return name.find("x4_f32") == std::string::npos && name.find("x4f32") == std::string::npos &&
         name.find("x2_f32") == std::string::npos && name.find("x2f32") == std::string::npos;
}

// ---- the tables: wait states after an MFMA of `passes` -------------------------------------------------------------
// Its result as A or B of another, or read or overwritten by other instructions.
int states_until_used(const Program& p, bool xdl, int passes) {
  if (p.is_gfx90a()) return passes == 2 ? 5 : passes == 8 ? 11 : 19;
  return passes + (xdl ? 3 : 2) + (p.is_gfx950() && xdl && passes != 2 ? 1 : 0);
}
// Its result as C of another that does not take exactly the same registers.
int states_until_added(const Program& p, bool xdl, int passes) {
  if (p.is_gfx90a()) return passes;
  return passes + (xdl ? 1 : 0) + (p.is_gfx950() && xdl && passes != 2 ? 1 : 0);
}
// Its C, until another instruction may overwrite it.
int states_until_read(int passes) { return passes - 1; }
constexpr int kVectorWriteToMfma = 2;

}  // namespace

void classify(Instruction& in, const std::string& architecture) {
  const std::string& name = in.name;
  in.is_vector = name[0] == 'v';
  in.is_memory = name.starts_with("global_") || name.starts_with("buffer_") || name.starts_with("ds_");
  in.is_store =
      name.starts_with("global_store") || name.starts_with("buffer_store") || name.starts_with("ds_write") || in.to_lds;
  in.is_mfma = name.starts_with("v_mfma");
  if (!in.is_mfma) return;
  in.is_xdl = is_xdl(name);
  const bool old = architecture == "gfx90a", small = name.find("_16x16x") != std::string::npos;
  const int narrow = small ? (old ? 8 : 4) : (old ? 16 : 8), fp32 = small ? 8 : 16;
  in.passes = static_cast<uint8_t>(in.is_xdl ? narrow : fp32);
}

std::string Hazards::lack(const Instruction& in, int reg, int64_t since, int needed, const char* why) const {
  const int64_t states = now_ - since - 1;
  if (states >= needed) return "";
  return std::string(why) + (reg >= kFirstAccumulator ? " a" : " v") + std::to_string(reg % kFirstAccumulator) +
         " after " + std::to_string(states) + " wait states; needed: " + std::to_string(needed) + " (" + in.name + ")";
}

std::string Hazards::check_operand(const Program& p, const Instruction& in, size_t index) const {
  const Operand& operand = in.operands[index];
  if (operand.kind != Operand::Kind::kVector) return "";
  const bool mfma = in.is_mfma, writes = index == 0 && !in.is_store;
  for (int reg = operand.index; reg < operand.index + operand.count; ++reg) {
    const Register& r = last_[static_cast<size_t>(reg)];
    std::string fault;
    if (r.mfma_write != kLongAgo) {
      if (mfma && index == 3) {
        // Exactly the same registers: the pipeline forwards them.
        const bool same = r.first == operand.index;
        const int needed = same ? (!p.is_gfx90a() && r.write_passes == 2 ? 2 : 0)
                                : states_until_added(p, r.writer_is_xdl, r.write_passes);
        fault = lack(in, reg, r.mfma_write, needed, "adds to");
      } else if (mfma && index == 0) {
        // Results leave the pipeline in order.
      } else {
        fault = lack(in, reg, r.mfma_write, states_until_used(p, r.writer_is_xdl, r.write_passes),
                     writes ? "overwrites the matrix result" : "reads the matrix result");
      }
      if (!fault.empty()) return fault;
    }
    if (mfma && index > 0) fault = lack(in, reg, r.vector_write, kVectorWriteToMfma, "multiplies");
    if (!mfma && writes && fault.empty())
      fault = lack(in, reg, r.accumulator_read, states_until_read(r.read_passes), "overwrites the addend");
    if (!fault.empty()) return fault;
  }
  return "";
}

std::string Hazards::check(const Program& program, const Instruction& in) {
  constexpr int kLongest = 20;
  if (!in.is_vector && !in.is_memory) return "";
  if (!in.is_mfma && now_ - last_mfma_ > kLongest) return "";
  for (size_t i = 0; i < in.operands.size(); ++i)
    if (std::string fault = check_operand(program, in, i); !fault.empty()) return fault;
  return "";
}

void Hazards::advance(const Instruction& in) {
  now_ += in.wait_states;
  if ((!in.is_vector && !in.is_memory) || in.operands.empty()) return;
  const int64_t at = now_ - 1;
  if (in.is_mfma) last_mfma_ = at;
  const Operand& result = in.operands[0];
  if (in.is_mfma && in.operands[3].kind == Operand::Kind::kVector)
    for (int i = 0; i < in.operands[3].count; ++i) {
      Register& r = last_[static_cast<size_t>(in.operands[3].index) + static_cast<size_t>(i)];
      r.accumulator_read = at;
      r.read_passes = in.passes;
    }
  if (result.kind != Operand::Kind::kVector || in.is_store) return;
  for (int i = 0; i < result.count; ++i) {
    Register& r = last_[static_cast<size_t>(result.index) + static_cast<size_t>(i)];
    r.mfma_write = in.is_mfma ? at : kLongAgo;
    r.vector_write = in.is_vector && !in.is_mfma ? at : kLongAgo;
    if (!in.is_mfma) continue;
    r.first = static_cast<int16_t>(result.index);
    r.write_passes = in.passes;
    r.writer_is_xdl = in.is_xdl;
  }
}

}  // namespace sextant::hip::isa
