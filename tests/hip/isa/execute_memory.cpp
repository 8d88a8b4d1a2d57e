// Vector memory and LDS.
#include <cstring>

#include "hip/isa/instructions.h"

namespace sextant::hip::isa {
namespace {

bool is_active(const Wave& w, int lane) { return (w.exec() >> lane & 1) != 0; }

int64_t modifier(const Instruction& in, const char* name) {
  const auto found = in.modifiers.find(name);
  return found == in.modifiers.end() ? 0 : std::stoll(found->second, nullptr, 0);
}

// Bytes of "..._dwordx4", "..._ushort": how many, and whether the register keeps its upper half.
int bytes_of(const std::string& name) {
  if (name.ends_with("dwordx4")) return 16;
  if (name.ends_with("dwordx3")) return 12;
  if (name.ends_with("dwordx2")) return 8;
  if (name.ends_with("dword")) return 4;
  if (name.ends_with("ushort") || name.ends_with("sshort") || name.ends_with("short")) return 2;
  if (name.ends_with("ubyte") || name.ends_with("byte")) return 1;
  return 0;
}

// Address: v[a:a+1] + offset, or v[a] + s[b:b+1] + offset.
uint64_t address(Machine& m, Wave& w, const Instruction& in, const Operand& vector, const Operand& base, int lane) {
  const auto offset = static_cast<uint64_t>(modifier(in, "offset"));
  if (base.kind == Operand::Kind::kOff) return m.read64(w, vector, lane) + offset;
  return m.read32(w, vector, lane) + m.read64(w, base, 0) + offset;
}

bool load_global(Machine& m, Wave& w, const Instruction& in) {
  const auto& op = in.operands;
  const int bytes = bytes_of(in.name);
  if (bytes == 0) return false;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!is_active(w, lane)) continue;
    uint32_t words[4] = {};
    std::memcpy(words, reinterpret_cast<const void*>(address(m, w, in, op[1], op[2], lane)),
                static_cast<size_t>(bytes));
    if (in.name.ends_with("sshort")) words[0] = static_cast<uint32_t>(static_cast<int16_t>(words[0]));
    for (int i = 0; i < (bytes + 3) / 4; ++i) m.write32(w, op[0], lane, words[i], i);
  }
  m.issue(w, true, {.destination = op[0]});
  return true;
}

bool store_global(Machine& m, Wave& w, const Instruction& in) {
  const auto& op = in.operands;
  const bool high = in.name.ends_with("_d16_hi");
  const int bytes = bytes_of(high ? in.name.substr(0, in.name.size() - 7) : in.name);
  if (bytes == 0) return false;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!is_active(w, lane)) continue;
    uint32_t words[4] = {};
    for (int i = 0; i < (bytes + 3) / 4; ++i) words[i] = m.read32(w, op[1], lane, i) >> (high ? 16 : 0);
    std::memcpy(reinterpret_cast<void*>(address(m, w, in, op[0], op[2], lane)), words, static_cast<size_t>(bytes));
  }
  m.issue(w, true, {});
  return true;
}

struct LdsShape {
  int words = 0;  // of one access
  int accesses = 1;
  int64_t stride = 0;  // bytes that offset0, offset1 count; 0: `offset`
};
bool lds_shape(const std::string& name, LdsShape* shape) {
  const std::string width = name.substr(name.rfind("_b") + 2);
  shape->words = width == "32" ? 1 : width == "64" ? 2 : width == "96" ? 3 : width == "128" ? 4 : 0;
  if (name.find("2st64") != std::string::npos) {
    shape->accesses = 2;
    shape->stride = 64 * 4 * shape->words;
  } else if (name.find("read2") != std::string::npos || name.find("write2") != std::string::npos) {
    shape->accesses = 2;
    shape->stride = 4 * shape->words;
  }
  return shape->words > 0;
}
uint32_t lds_address(Machine& m, Wave& w, const Instruction& in, const LdsShape& shape, int access, int lane,
                     const Operand& base) {
  const int64_t offset =
      shape.stride == 0 ? modifier(in, "offset") : modifier(in, access == 0 ? "offset0" : "offset1") * shape.stride;
  return m.read32(w, base, lane) + static_cast<uint32_t>(offset);
}

bool permute(Machine& m, Wave& w, const Instruction& in) {
  const auto& op = in.operands;
  uint32_t result[kLanes] = {};
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!is_active(w, lane)) continue;
    const int from = static_cast<int>((m.read32(w, op[1], lane) + modifier(in, "offset")) / 4 % kLanes);
    result[lane] = is_active(w, from) ? m.read32(w, op[2], from) : 0;
  }
  for (int lane = 0; lane < kLanes; ++lane)
    if (is_active(w, lane)) m.write32(w, op[0], lane, result[lane]);
  m.issue(w, false, {.destination = op[0]});
  return true;
}

bool access_lds(Machine& m, Wave& w, const Instruction& in) {
  const auto& op = in.operands;
  LdsShape shape;
  if (!lds_shape(in.name, &shape)) return false;
  const bool reads = in.name.starts_with("ds_read");
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!is_active(w, lane)) continue;
    uint32_t values[8] = {};
    for (int a = 0; a < shape.accesses; ++a) {
      const uint32_t at = lds_address(m, w, in, shape, a, lane, op[reads ? 1 : 0]);
      for (int i = 0; i < shape.words; ++i) {
        const uint32_t place = at + static_cast<uint32_t>(4 * i);
        if (reads)
          values[a * shape.words + i] = m.read_lds(w, place);
        else
          m.write_lds(w, place, m.read32(w, op[static_cast<size_t>(1 + a)], lane, i));
      }
    }
    for (int i = 0; reads && i < shape.accesses * shape.words; ++i) m.write32(w, op[0], lane, values[i], i);
  }
  Pending pending;
  pending.is_lds_write = !reads;
  if (reads) pending.destination = op[0];
  m.issue(w, false, pending);
  return true;
}

}  // namespace

bool execute_memory(Machine& m, Wave& w, const Instruction& in) {
  if (in.name.starts_with("global_load")) return load_global(m, w, in);
  if (in.name.starts_with("global_store")) return store_global(m, w, in);
  if (in.name == "ds_bpermute_b32") return permute(m, w, in);
  if (in.name.starts_with("ds_read") || in.name.starts_with("ds_write")) return access_lds(m, w, in);
  return false;
}

}  // namespace sextant::hip::isa
