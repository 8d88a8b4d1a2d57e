// Scalar instructions.
#include <cstring>
#include <functional>
#include <limits>
#include <unordered_map>

#include "hip/isa/instructions.h"

namespace sextant::hip::isa {
namespace {

using Binary32 = uint32_t (*)(uint32_t a, uint32_t b, bool* scc);
using Binary64 = uint64_t (*)(uint64_t a, uint64_t b);
using Compare = bool (*)(uint64_t a, uint64_t b);

int32_t as_signed(uint64_t x) { return static_cast<int32_t>(x); }

const std::unordered_map<std::string, Binary32> kBinary32 = {
    {"s_add_u32",
     [](uint32_t a, uint32_t b, bool* c) {
       *c = a + b < a;
       return a + b;
     }},
    {"s_addc_u32",
     [](uint32_t a, uint32_t b, bool* c) {
       const uint64_t sum = uint64_t{a} + b + (*c ? 1 : 0);
       *c = (sum >> 32) != 0;
       return static_cast<uint32_t>(sum);
     }},
    {"s_sub_u32",
     [](uint32_t a, uint32_t b, bool* c) {
       *c = a < b;
       return a - b;
     }},
    {"s_subb_u32",
     [](uint32_t a, uint32_t b, bool* c) {
       const uint64_t subtracted = uint64_t{b} + (*c ? 1 : 0);
       *c = a < subtracted;
       return static_cast<uint32_t>(a - subtracted);
     }},
    {"s_add_i32",
     [](uint32_t a, uint32_t b, bool* c) {
       *c = int64_t{as_signed(a)} + as_signed(b) != int64_t{as_signed(a + b)};
       return a + b;
     }},
    {"s_sub_i32",
     [](uint32_t a, uint32_t b, bool* c) {
       *c = int64_t{as_signed(a)} - as_signed(b) != int64_t{as_signed(a - b)};
       return a - b;
     }},
    {"s_mul_i32", [](uint32_t a, uint32_t b, bool*) { return a * b; }},
    {"s_mul_hi_u32", [](uint32_t a, uint32_t b, bool*) { return static_cast<uint32_t>(uint64_t{a} * b >> 32); }},
    {"s_mul_hi_i32",
     [](uint32_t a, uint32_t b, bool*) {
       return static_cast<uint32_t>(static_cast<uint64_t>(int64_t{as_signed(a)} * as_signed(b)) >> 32);
     }},
    {"s_and_b32",
     [](uint32_t a, uint32_t b, bool* c) {
       *c = (a & b) != 0;
       return a & b;
     }},
    {"s_or_b32",
     [](uint32_t a, uint32_t b, bool* c) {
       *c = (a | b) != 0;
       return a | b;
     }},
    {"s_xor_b32",
     [](uint32_t a, uint32_t b, bool* c) {
       *c = (a ^ b) != 0;
       return a ^ b;
     }},
    {"s_andn2_b32",
     [](uint32_t a, uint32_t b, bool* c) {
       *c = (a & ~b) != 0;
       return a & ~b;
     }},
    {"s_lshl_b32",
     [](uint32_t a, uint32_t b, bool* c) {
       *c = (a << (b & 31)) != 0;
       return a << (b & 31);
     }},
    {"s_lshr_b32",
     [](uint32_t a, uint32_t b, bool* c) {
       *c = (a >> (b & 31)) != 0;
       return a >> (b & 31);
     }},
    {"s_ashr_i32",
     [](uint32_t a, uint32_t b, bool* c) {
       const auto r = static_cast<uint32_t>(as_signed(a) >> (b & 31));
       *c = r != 0;
       return r;
     }},
    {"s_min_i32",
     [](uint32_t a, uint32_t b, bool* c) {
       *c = as_signed(a) < as_signed(b);
       return *c ? a : b;
     }},
    {"s_max_i32",
     [](uint32_t a, uint32_t b, bool* c) {
       *c = as_signed(a) > as_signed(b);
       return *c ? a : b;
     }},
    {"s_min_u32",
     [](uint32_t a, uint32_t b, bool* c) {
       *c = a < b;
       return *c ? a : b;
     }},
    {"s_max_u32",
     [](uint32_t a, uint32_t b, bool* c) {
       *c = a > b;
       return *c ? a : b;
     }},
    {"s_cselect_b32", [](uint32_t a, uint32_t b, bool* c) { return *c ? a : b; }},
    {"s_bfe_u32",
     [](uint32_t a, uint32_t b, bool* c) {
       const uint32_t width = b >> 16 & 0x7f;
       const uint32_t r = width == 0 ? 0 : (a >> (b & 31)) & (width >= 32 ? ~0u : (1u << width) - 1);
       *c = r != 0;
       return r;
     }},
};

const std::unordered_map<std::string, Binary64> kBinary64 = {
    {"s_and", [](uint64_t a, uint64_t b) { return a & b; }},
    {"s_or", [](uint64_t a, uint64_t b) { return a | b; }},
    {"s_xor", [](uint64_t a, uint64_t b) { return a ^ b; }},
    {"s_andn2", [](uint64_t a, uint64_t b) { return a & ~b; }},
    {"s_orn2", [](uint64_t a, uint64_t b) { return a | ~b; }},
    {"s_nand", [](uint64_t a, uint64_t b) { return ~(a & b); }},
    {"s_nor", [](uint64_t a, uint64_t b) { return ~(a | b); }},
    {"s_xnor", [](uint64_t a, uint64_t b) { return ~(a ^ b); }},
};

const std::unordered_map<std::string, Compare> kCompares = {
    {"eq_u32", [](uint64_t a, uint64_t b) { return static_cast<uint32_t>(a) == static_cast<uint32_t>(b); }},
    {"lg_u32", [](uint64_t a, uint64_t b) { return static_cast<uint32_t>(a) != static_cast<uint32_t>(b); }},
    {"gt_u32", [](uint64_t a, uint64_t b) { return static_cast<uint32_t>(a) > static_cast<uint32_t>(b); }},
    {"ge_u32", [](uint64_t a, uint64_t b) { return static_cast<uint32_t>(a) >= static_cast<uint32_t>(b); }},
    {"lt_u32", [](uint64_t a, uint64_t b) { return static_cast<uint32_t>(a) < static_cast<uint32_t>(b); }},
    {"le_u32", [](uint64_t a, uint64_t b) { return static_cast<uint32_t>(a) <= static_cast<uint32_t>(b); }},
    {"eq_i32", [](uint64_t a, uint64_t b) { return as_signed(a) == as_signed(b); }},
    {"lg_i32", [](uint64_t a, uint64_t b) { return as_signed(a) != as_signed(b); }},
    {"gt_i32", [](uint64_t a, uint64_t b) { return as_signed(a) > as_signed(b); }},
    {"ge_i32", [](uint64_t a, uint64_t b) { return as_signed(a) >= as_signed(b); }},
    {"lt_i32", [](uint64_t a, uint64_t b) { return as_signed(a) < as_signed(b); }},
    {"le_i32", [](uint64_t a, uint64_t b) { return as_signed(a) <= as_signed(b); }},
    {"eq_u64", [](uint64_t a, uint64_t b) { return a == b; }},
    {"lg_u64", [](uint64_t a, uint64_t b) { return a != b; }},
};

uint64_t extract_signed64(uint64_t a, uint64_t control) {
  const auto offset = static_cast<int>(control & 63), width = static_cast<int>(control >> 16 & 0x7f);
  if (width == 0) return 0;
  const auto top = static_cast<int64_t>(a << (64 - std::min(64, offset + width)));
  return static_cast<uint64_t>(top >> (64 - std::min(width, 64 - offset)));
}

bool execute_scalar64(Machine& m, Wave& w, const Instruction& in) {
  const auto& op = in.operands;
  const std::string stem = in.name.substr(0, in.name.rfind('_'));
  const auto source = [&](size_t i) { return m.read64(w, op[i], 0); };
  if (const auto f = kBinary64.find(stem); f != kBinary64.end() && op.size() == 3) {
    const uint64_t r = f->second(source(1), source(2));
    w.scc = r != 0;
    m.write64(w, op[0], 0, r);
    return true;
  }
  if (stem.ends_with("_saveexec")) {
    const auto f = kBinary64.find(stem.substr(0, stem.size() - 9));
    if (f == kBinary64.end()) return false;
    const uint64_t old = w.exec(), r = f->second(source(1), old);
    m.write64(w, op[0], 0, old);
    w.s[kExec] = static_cast<uint32_t>(r);
    w.s[kExec + 1] = static_cast<uint32_t>(r >> 32);
    w.scc = r != 0;
    return true;
  }
  uint64_t r = 0;
  if (stem == "s_mov") {
    m.write64(w, op[0], 0, source(1));
    return true;
  }
  if (stem == "s_cselect") {
    m.write64(w, op[0], 0, w.scc ? source(1) : source(2));
    return true;
  }
  if (stem == "s_not") {
    r = ~source(1);
  } else if (stem == "s_lshl") {
    r = source(1) << (m.read32(w, op[2], 0) & 63);
  } else if (stem == "s_lshr") {
    r = source(1) >> (m.read32(w, op[2], 0) & 63);
  } else if (in.name == "s_ashr_i64") {
    r = static_cast<uint64_t>(static_cast<int64_t>(source(1)) >> (m.read32(w, op[2], 0) & 63));
  } else if (in.name == "s_bfe_i64") {
    r = extract_signed64(source(1), m.read32(w, op[2], 0));
  } else {
    return false;
  }
  w.scc = r != 0;
  m.write64(w, op[0], 0, r);
  return true;
}

void load_scalars(Machine& m, Wave& w, const Instruction& in) {
  const auto& op = in.operands;
  const uint64_t base = m.read64(w, op[1], 0) + m.read32(w, op[2], 0);
  for (int i = 0; i < op[0].count; ++i) {
    uint32_t value;
    std::memcpy(&value, reinterpret_cast<const char*>(base) + 4 * i, sizeof(value));
    m.write32(w, op[0], 0, value, i);
  }
  m.issue(w, false, {.is_scalar = true, .destination = op[0]});
}

}  // namespace

bool execute_scalar(Machine& m, Wave& w, const Instruction& in) {
  const auto& op = in.operands;
  const auto source = [&](size_t i) { return m.read32(w, op[i], 0); };
  if (in.name == "s_nop" || in.name == "s_setprio" || in.name == "s_sleep") return true;
  if (in.name.starts_with("s_load_dword")) {
    load_scalars(m, w, in);
    return true;
  }
  if (in.name.starts_with("s_cmp_")) {
    const auto f = kCompares.find(in.name.substr(6));
    if (f == kCompares.end()) return false;
    const bool wide = in.name.ends_with("64");
    w.scc = f->second(wide ? m.read64(w, op[0], 0) : source(0), wide ? m.read64(w, op[1], 0) : source(1));
    return true;
  }
  if (in.name == "s_bitcmp1_b32" || in.name == "s_bitcmp0_b32") {
    w.scc = (source(0) >> (source(1) & 31) & 1) == (in.name == "s_bitcmp1_b32" ? 1U : 0U);
    return true;
  }
  if (in.name.starts_with("s_cmpk_")) {
    const auto f = kCompares.find(in.name.substr(7));
    if (f == kCompares.end()) return false;
    w.scc = f->second(source(0), source(1));
    return true;
  }
  if (in.name.ends_with("_b64") || in.name.ends_with("_i64") || in.name.ends_with("_u64"))
    return execute_scalar64(m, w, in);
  if (const auto f = kBinary32.find(in.name); f != kBinary32.end()) {
    m.write32(w, op[0], 0, f->second(source(1), source(2), &w.scc));
    return true;
  }
  if (in.name == "s_mov_b32") {
    m.write32(w, op[0], 0, source(1));
  } else if (in.name == "s_movk_i32") {
    m.write32(w, op[0], 0, static_cast<uint32_t>(static_cast<int16_t>(source(1))));
  } else if (in.name == "s_addk_i32" || in.name == "s_mulk_i32") {
    const auto k = static_cast<uint32_t>(static_cast<int16_t>(source(1)));
    const uint32_t a = source(0), r = in.name == "s_addk_i32" ? a + k : a * k;
    if (in.name == "s_addk_i32") w.scc = int64_t{as_signed(a)} + as_signed(k) != int64_t{as_signed(r)};
    m.write32(w, op[0], 0, r);
  } else if (in.name == "s_abs_i32") {
    const uint32_t a = source(1), r = as_signed(a) < 0 ? 0 - a : a;
    w.scc = r != 0;
    m.write32(w, op[0], 0, r);
  } else if (in.name == "s_not_b32") {
    const uint32_t r = ~source(1);
    w.scc = r != 0;
    m.write32(w, op[0], 0, r);
  } else {
    return false;
  }
  return true;
}

}  // namespace sextant::hip::isa
