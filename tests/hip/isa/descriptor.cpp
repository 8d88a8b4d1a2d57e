// The kernel's descriptor in its ELF file: 64 bytes under the symbol <kernel>.kd (LLVM, "User Guide for AMDGPU
// Backend", kernel descriptor).
#include <elf.h>

#include <algorithm>
#include <cstring>

#include "hip/isa/program.h"

namespace sextant::hip::isa {
namespace {

template <class T>
bool read_at(std::string_view object, uint64_t offset, T* value) {
  if (offset + sizeof(T) > object.size()) return false;
  std::memcpy(value, object.data() + offset, sizeof(T));
  return true;
}

Elf64_Shdr section(std::string_view object, const Elf64_Ehdr& file, uint64_t index) {
  Elf64_Shdr header{};
  read_at(object, file.e_shoff + index * file.e_shentsize, &header);
  return header;
}

// Offset in the file of the symbol; 0: none.
uint64_t find_symbol(std::string_view object, const std::string& name) {
  Elf64_Ehdr file;
  if (!read_at(object, 0, &file)) return 0;
  for (uint64_t s = 0; s < file.e_shnum; ++s) {
    const Elf64_Shdr symbols = section(object, file, s);
    if (symbols.sh_type != SHT_DYNSYM) continue;
    const Elf64_Shdr names = section(object, file, symbols.sh_link);
    for (uint64_t at = symbols.sh_offset; at < symbols.sh_offset + symbols.sh_size; at += sizeof(Elf64_Sym)) {
      Elf64_Sym symbol;
      if (!read_at(object, at, &symbol)) return 0;
      const uint64_t begin = names.sh_offset + symbol.st_name;
      if (begin + name.size() + 1 > object.size() || object.substr(begin, name.size()) != name ||
          object[begin + name.size()] != '\0')
        continue;
      const Elf64_Shdr home = section(object, file, symbol.st_shndx);
      return symbol.st_value - home.sh_addr + home.sh_offset;
    }
  }
  return 0;
}

uint32_t field(uint32_t word, int low, int bits) { return word >> low & ((1U << bits) - 1); }

}  // namespace

bool read_descriptor(std::string_view object, Program& program) {
  const uint64_t at = find_symbol(object, program.name + ".kd");
  uint32_t rsrc1 = 0, rsrc2 = 0, rsrc3 = 0;
  uint16_t properties = 0;
  if (at == 0 || !read_at(object, at, &program.lds_bytes) || !read_at(object, at + 44, &rsrc3) ||
      !read_at(object, at + 48, &rsrc1) || !read_at(object, at + 52, &rsrc2) || !read_at(object, at + 56, &properties))
    return false;
  program.user_scalars = static_cast<int>(field(rsrc2, 1, 5));
  // User scalars in this order, each only where asked for: private segment buffer (4), dispatch (2), queue (2),
  // arguments (2).
  program.kernarg_scalar = 4 * (properties & 1) + 2 * (properties >> 1 & 1) + 2 * (properties >> 2 & 1);
  const int total = 8 * (static_cast<int>(field(rsrc1, 0, 6)) + 1);
  program.vectors = std::min(total, 4 * (static_cast<int>(field(rsrc3, 0, 6)) + 1));
  program.accumulators = total - program.vectors;
  if ((properties >> 3 & 1) == 0) program.fault = program.name + " does not ask for its arguments";
  for (const Instruction& in : program.code)
    for (const Operand& operand : in.operands) {
      if (operand.kind != Operand::Kind::kVector) continue;
      const bool accumulates = operand.index >= kFirstAccumulator;
      const int last = operand.index + operand.count - (accumulates ? kFirstAccumulator : 0);
      if (last > (accumulates ? program.accumulators : program.vectors))
        program.fault = program.name + " uses a register that its descriptor does not ask for: " + in.text;
    }
  return true;
}

}  // namespace sextant::hip::isa
