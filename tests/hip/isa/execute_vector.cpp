// Vector instructions, lane by lane under the execution mask, and the matrix instructions.
#include <cmath>
#include <cstring>
#include <unordered_map>

#include "devices/hip/emulator/mfma.h"
#include "hip/isa/instructions.h"
#include "reference/numbers.h"

namespace sextant::hip::isa {

bool execute(Machine& m, Wave& w, const Instruction& in) {
  if (in.name[0] == 's') return execute_scalar(m, w, in);
  if (in.name[0] == 'v') return execute_vector(m, w, in);
  return execute_memory(m, w, in);
}

namespace {

float as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
uint32_t as_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
int32_t as_signed(uint32_t x) { return static_cast<int32_t>(x); }
bool is_active(const Wave& w, int lane) { return (w.exec() >> lane & 1) != 0; }

std::string modifier(const Instruction& in, const char* name) {
  const auto found = in.modifiers.find(name);
  return found == in.modifiers.end() ? "" : found->second;
}

// ---- one lane's sources and result ---------------------------------------------------------------------------------

// The part of a word that sdwa selects.
uint32_t select(uint32_t x, const std::string& what) {
  if (what == "WORD_0") return x & 0xffffu;
  if (what == "WORD_1") return x >> 16;
  if (what.starts_with("BYTE_")) return x >> (8 * (what[5] - '0')) & 0xffu;
  return x;
}
// Source i (1 is the first): sign modifiers act on the sign bit.
uint32_t source(Machine& m, Wave& w, const Instruction& in, size_t i, int lane) {
  const Operand& operand = in.operands[i];
  uint32_t x = m.read32(w, operand, lane);
  if (!in.modifiers.empty() && i <= 2) x = select(x, modifier(in, i == 1 ? "src0_sel" : "src1_sel"));
  if (operand.absolute) x &= 0x7fffffffu;
  if (operand.negate) x ^= 0x80000000u;
  return x;
}
void put(Machine& m, Wave& w, const Instruction& in, int lane, uint32_t x) {
  const std::string where = modifier(in, "dst_sel");
  if (!where.empty() && where != "DWORD") {
    const bool preserve = modifier(in, "dst_unused") == "UNUSED_PRESERVE";
    const int shift = where == "WORD_1" ? 16 : where.starts_with("BYTE_") ? 8 * (where[5] - '0') : 0;
    const uint32_t mask = (where.starts_with("WORD") ? 0xffffu : 0xffu) << shift;
    x = (x << shift & mask) | (preserve ? m.read32(w, in.operands[0], lane) & ~mask : 0);
  }
  m.write32(w, in.operands[0], lane, x);
}

using Unary = uint32_t (*)(uint32_t);
using Binary = uint32_t (*)(uint32_t, uint32_t);
using Ternary = uint32_t (*)(uint32_t, uint32_t, uint32_t);
using Predicate = bool (*)(uint64_t, uint64_t);

uint32_t to_unsigned(float x) {
  if (!(x > 0)) return 0;
  return x >= 4294967296.0f ? ~0u : static_cast<uint32_t>(x);
}

const std::unordered_map<std::string, Unary> kUnary = {
    {"v_mov_b32", [](uint32_t a) { return a; }},
    {"v_not_b32", [](uint32_t a) { return ~a; }},
    {"v_exp_f32", [](uint32_t a) { return as_bits(std::exp2(as_float(a))); }},
    {"v_log_f32", [](uint32_t a) { return as_bits(std::log2(as_float(a))); }},
    {"v_rcp_f32", [](uint32_t a) { return as_bits(1.0f / as_float(a)); }},
    {"v_rcp_iflag_f32", [](uint32_t a) { return as_bits(1.0f / as_float(a)); }},
    {"v_cvt_f32_u32", [](uint32_t a) { return as_bits(static_cast<float>(a)); }},
    {"v_cvt_f32_i32", [](uint32_t a) { return as_bits(static_cast<float>(as_signed(a))); }},
    {"v_cvt_u32_f32", [](uint32_t a) { return to_unsigned(as_float(a)); }},
    {"v_cvt_f32_f16", [](uint32_t a) { return as_bits(emulator::half_to_float(static_cast<uint16_t>(a))); }},
    {"v_cvt_f16_f32", [](uint32_t a) { return uint32_t{emulator::float_to_half(as_float(a))}; }},
};

const std::unordered_map<std::string, Binary> kBinary = {
    {"v_add_u32", [](uint32_t a, uint32_t b) { return a + b; }},
    {"v_sub_u32", [](uint32_t a, uint32_t b) { return a - b; }},
    {"v_subrev_u32", [](uint32_t a, uint32_t b) { return b - a; }},
    {"v_mul_lo_u32", [](uint32_t a, uint32_t b) { return a * b; }},
    {"v_mul_hi_u32", [](uint32_t a, uint32_t b) { return static_cast<uint32_t>(uint64_t{a} * b >> 32); }},
    {"v_mul_u32_u24", [](uint32_t a, uint32_t b) { return (a & 0xffffffu) * (b & 0xffffffu); }},
    // 16-bit results leave the upper half of the register zero.
    {"v_mul_lo_u16", [](uint32_t a, uint32_t b) { return (a & 0xffffu) * (b & 0xffffu) & 0xffffu; }},
    {"v_sub_u16", [](uint32_t a, uint32_t b) { return (a - b) & 0xffffu; }},
    {"v_add_u16", [](uint32_t a, uint32_t b) { return (a + b) & 0xffffu; }},
    {"v_lshlrev_b16", [](uint32_t a, uint32_t b) { return b << (a & 15) & 0xffffu; }},
    {"v_lshrrev_b16", [](uint32_t a, uint32_t b) { return (b & 0xffffu) >> (a & 15); }},
    {"v_and_b32", [](uint32_t a, uint32_t b) { return a & b; }},
    {"v_or_b32", [](uint32_t a, uint32_t b) { return a | b; }},
    {"v_xor_b32", [](uint32_t a, uint32_t b) { return a ^ b; }},
    {"v_lshlrev_b32", [](uint32_t a, uint32_t b) { return b << (a & 31); }},
    {"v_lshrrev_b32", [](uint32_t a, uint32_t b) { return b >> (a & 31); }},
    {"v_ashrrev_i32", [](uint32_t a, uint32_t b) { return static_cast<uint32_t>(as_signed(b) >> (a & 31)); }},
    {"v_min_u32", [](uint32_t a, uint32_t b) { return std::min(a, b); }},
    {"v_max_u32", [](uint32_t a, uint32_t b) { return std::max(a, b); }},
    {"v_min_i32", [](uint32_t a, uint32_t b) { return as_signed(a) < as_signed(b) ? a : b; }},
    {"v_max_i32", [](uint32_t a, uint32_t b) { return as_signed(a) > as_signed(b) ? a : b; }},
    {"v_add_f32", [](uint32_t a, uint32_t b) { return as_bits(as_float(a) + as_float(b)); }},
    {"v_sub_f32", [](uint32_t a, uint32_t b) { return as_bits(as_float(a) - as_float(b)); }},
    {"v_subrev_f32", [](uint32_t a, uint32_t b) { return as_bits(as_float(b) - as_float(a)); }},
    {"v_mul_f32", [](uint32_t a, uint32_t b) { return as_bits(as_float(a) * as_float(b)); }},
    {"v_max_f32", [](uint32_t a, uint32_t b) { return as_bits(std::fmax(as_float(a), as_float(b))); }},
    {"v_min_f32", [](uint32_t a, uint32_t b) { return as_bits(std::fmin(as_float(a), as_float(b))); }},
};

// Bytes 0 to 3 are b's, 4 to 7 a's; 12 is zero, more is all ones.
uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selectors) {
  const uint64_t both = b | static_cast<uint64_t>(a) << 32;
  uint32_t r = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t selector = selectors >> (8 * i) & 0xffu;
    const uint32_t byte = selector < 8     ? static_cast<uint32_t>(both >> (8 * selector) & 0xffu)
                          : selector == 12 ? 0u
                                           : 0xffu;
    r |= byte << (8 * i);
  }
  return r;
}

const std::unordered_map<std::string, Ternary> kTernary = {
    {"v_add3_u32", [](uint32_t a, uint32_t b, uint32_t c) { return a + b + c; }},
    {"v_lshl_or_b32", [](uint32_t a, uint32_t b, uint32_t c) { return a << (b & 31) | c; }},
    {"v_lshl_add_u32", [](uint32_t a, uint32_t b, uint32_t c) { return (a << (b & 31)) + c; }},
    {"v_add_lshl_u32", [](uint32_t a, uint32_t b, uint32_t c) { return (a + b) << (c & 31); }},
    {"v_and_or_b32", [](uint32_t a, uint32_t b, uint32_t c) { return (a & b) | c; }},
    {"v_or3_b32", [](uint32_t a, uint32_t b, uint32_t c) { return a | b | c; }},
    {"v_mad_u32_u24", [](uint32_t a, uint32_t b, uint32_t c) { return (a & 0xffffffu) * (b & 0xffffffu) + c; }},
    {"v_mad_i32_i24",
     [](uint32_t a, uint32_t b, uint32_t c) {
       const auto low24 = [](uint32_t x) { return as_signed(x << 8) >> 8; };
       return static_cast<uint32_t>(int64_t{low24(a)} * low24(b)) + c;
     }},
    {"v_bfe_u32", [](uint32_t a, uint32_t b, uint32_t c) { return (a >> (b & 31)) & ((1u << (c & 31)) - 1); }},
    {"v_bfi_b32", [](uint32_t a, uint32_t b, uint32_t c) { return (a & b) | (~a & c); }},
    {"v_perm_b32", permute_bytes},
    {"v_fma_f32",
     [](uint32_t a, uint32_t b, uint32_t c) { return as_bits(std::fma(as_float(a), as_float(b), as_float(c))); }},
    {"v_max3_f32", [](uint32_t a, uint32_t b,
                      uint32_t c) { return as_bits(std::fmax(std::fmax(as_float(a), as_float(b)), as_float(c))); }},
    // A division's three steps: no source is scaled (v_div_scale below says so in vcc), and the last gives the
    // quotient.
    {"v_div_fmas_f32",
     [](uint32_t a, uint32_t b, uint32_t c) { return as_bits(std::fma(as_float(a), as_float(b), as_float(c))); }},
    {"v_div_fixup_f32", [](uint32_t, uint32_t b, uint32_t c) { return as_bits(as_float(c) / as_float(b)); }},
};

template <class Compare>
bool compare_floats(uint64_t a, uint64_t b, Compare compare) {
  return compare(as_float(static_cast<uint32_t>(a)), as_float(static_cast<uint32_t>(b)));
}
const std::unordered_map<std::string, Predicate> kFloatCompares = {
    {"lt", [](uint64_t a, uint64_t b) { return compare_floats(a, b, [](float x, float y) { return x < y; }); }},
    {"eq", [](uint64_t a, uint64_t b) { return compare_floats(a, b, [](float x, float y) { return x == y; }); }},
    {"le", [](uint64_t a, uint64_t b) { return compare_floats(a, b, [](float x, float y) { return x <= y; }); }},
    {"gt", [](uint64_t a, uint64_t b) { return compare_floats(a, b, [](float x, float y) { return x > y; }); }},
    {"lg",
     [](uint64_t a, uint64_t b) { return compare_floats(a, b, [](float x, float y) { return x < y || x > y; }); }},
    {"ge", [](uint64_t a, uint64_t b) { return compare_floats(a, b, [](float x, float y) { return x >= y; }); }},
    {"o",
     [](uint64_t a, uint64_t b) { return compare_floats(a, b, [](float x, float y) { return x == x && y == y; }); }},
    {"u",
     [](uint64_t a, uint64_t b) { return compare_floats(a, b, [](float x, float y) { return x != x || y != y; }); }},
    {"nge", [](uint64_t a, uint64_t b) { return compare_floats(a, b, [](float x, float y) { return !(x >= y); }); }},
    {"nlg",
     [](uint64_t a, uint64_t b) { return compare_floats(a, b, [](float x, float y) { return !(x < y || x > y); }); }},
    {"ngt", [](uint64_t a, uint64_t b) { return compare_floats(a, b, [](float x, float y) { return !(x > y); }); }},
    {"nle", [](uint64_t a, uint64_t b) { return compare_floats(a, b, [](float x, float y) { return !(x <= y); }); }},
    {"neq", [](uint64_t a, uint64_t b) { return compare_floats(a, b, [](float x, float y) { return !(x == y); }); }},
    {"nlt", [](uint64_t a, uint64_t b) { return compare_floats(a, b, [](float x, float y) { return !(x < y); }); }},
};

template <class T>
bool compare_integers(const std::string& relation, T a, T b) {
  if (relation == "lt") return a < b;
  if (relation == "le") return a <= b;
  if (relation == "gt") return a > b;
  if (relation == "ge") return a >= b;
  if (relation == "eq") return a == b;
  return a != b;  // ne
}

// v_cmp_<relation>_<type> mask, a, b: a bit for each active lane, zeros elsewhere.
bool compare(Machine& m, Wave& w, const Instruction& in) {
  const size_t last = in.name.rfind('_');
  const std::string relation = in.name.substr(6, last - 6), type = in.name.substr(last + 1);
  uint64_t mask = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!is_active(w, lane)) continue;
    bool holds = false;
    if (type == "f32") {
      const auto f = kFloatCompares.find(relation);
      if (f == kFloatCompares.end()) return false;
      holds = f->second(source(m, w, in, 1, lane), source(m, w, in, 2, lane));
    } else if (type == "u32") {
      holds = compare_integers(relation, source(m, w, in, 1, lane), source(m, w, in, 2, lane));
    } else if (type == "i32") {
      holds = compare_integers(relation, as_signed(source(m, w, in, 1, lane)), as_signed(source(m, w, in, 2, lane)));
    } else if (type == "u64") {
      holds = compare_integers(relation, m.read64(w, in.operands[1], lane), m.read64(w, in.operands[2], lane));
    } else if (type == "i64") {
      holds = compare_integers(relation, static_cast<int64_t>(m.read64(w, in.operands[1], lane)),
                               static_cast<int64_t>(m.read64(w, in.operands[2], lane)));
    } else {
      return false;
    }
    mask |= static_cast<uint64_t>(holds) << lane;
  }
  m.write64(w, in.operands[0], 0, mask);
  return true;
}

// ---- 64-bit, carries, packed ---------------------------------------------------------------------------------------

bool execute_wide(Machine& m, Wave& w, const Instruction& in, int lane) {
  const auto& op = in.operands;
  if (in.name == "v_lshl_add_u64") {
    m.write64(w, op[0], lane, (m.read64(w, op[1], lane) << (m.read32(w, op[2], lane) & 7)) + m.read64(w, op[3], lane));
  } else if (in.name == "v_mov_b64") {
    m.write64(w, op[0], lane, m.read64(w, op[1], lane));
  } else if (in.name == "v_lshlrev_b64") {
    m.write64(w, op[0], lane, m.read64(w, op[2], lane) << (m.read32(w, op[1], lane) & 63));
  } else if (in.name == "v_lshrrev_b64") {
    m.write64(w, op[0], lane, m.read64(w, op[2], lane) >> (m.read32(w, op[1], lane) & 63));
  } else if (in.name == "v_ashrrev_i64") {
    m.write64(w, op[0], lane,
              static_cast<uint64_t>(static_cast<int64_t>(m.read64(w, op[2], lane)) >> (m.read32(w, op[1], lane) & 63)));
  } else if (in.name == "v_mad_u64_u32") {
    m.write64(w, op[0], lane, uint64_t{m.read32(w, op[2], lane)} * m.read32(w, op[3], lane) + m.read64(w, op[4], lane));
  } else if (in.name == "v_mad_i64_i32") {
    const int64_t product = int64_t{as_signed(m.read32(w, op[2], lane))} * as_signed(m.read32(w, op[3], lane));
    m.write64(w, op[0], lane, static_cast<uint64_t>(product) + m.read64(w, op[4], lane));
  } else {
    return false;
  }
  return true;
}

// d, carry out, a, b [, carry in]
bool execute_carry(Machine& m, Wave& w, const Instruction& in) {
  const bool adds = in.name == "v_add_co_u32" || in.name == "v_addc_co_u32";
  const bool reversed = in.name.find("rev") != std::string::npos;
  const bool chained = in.name.find("c_co") != std::string::npos || in.name.find("subb") != std::string::npos;
  if (!adds && !in.name.starts_with("v_sub")) return false;
  const uint64_t carry_in = chained ? m.read64(w, in.operands[4], 0) : 0;
  uint64_t carry = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!is_active(w, lane)) continue;
    uint64_t a = m.read32(w, in.operands[2], lane), b = m.read32(w, in.operands[3], lane);
    if (reversed) std::swap(a, b);
    const uint64_t extra = carry_in >> lane & 1, r = adds ? a + b + extra : a - b - extra;
    carry |= (r >> 32 & 1) << lane;
    m.write32(w, in.operands[0], lane, static_cast<uint32_t>(r));
  }
  m.write64(w, in.operands[1], 0, carry);
  return true;
}

// v_pk_mul_f32 and the like: two floats of register pairs; op_sel and op_sel_hi pick halves, neg_lo and neg_hi signs.
bool execute_packed(Machine& m, Wave& w, const Instruction& in, int lane) {
  const size_t sources = in.operands.size() - 1;
  const auto flag = [&](const char* name, size_t i, bool otherwise) {
    const std::string text = modifier(in, name);
    return text.empty() ? otherwise : text[1 + 2 * i] == '1';
  };
  float result[2];
  for (int half = 0; half < 2; ++half) {
    float x[3] = {};
    for (size_t i = 0; i < sources; ++i) {
      const bool high = half == 0 ? flag("op_sel", i, false) : flag("op_sel_hi", i, true);
      x[i] = as_float(m.read32(w, in.operands[i + 1], lane, high ? 1 : 0));
      if (flag(half == 0 ? "neg_lo" : "neg_hi", i, false)) x[i] = -x[i];
    }
    if (in.name == "v_pk_mul_f32") {
      result[half] = x[0] * x[1];
    } else if (in.name == "v_pk_add_f32") {
      result[half] = x[0] + x[1];
    } else if (in.name == "v_pk_fma_f32") {
      result[half] = std::fma(x[0], x[1], x[2]);
    } else {
      return false;
    }
  }
  m.write32(w, in.operands[0], lane, as_bits(result[0]), 0);
  m.write32(w, in.operands[0], lane, as_bits(result[1]), 1);
  return true;
}

// ---- whole-wave ----------------------------------------------------------------------------------------------------

bool execute_mfma(Machine& m, Wave& w, const Instruction& in) {
  using emulator::MfmaShape;
  MfmaShape shape;
  if (in.name == "v_mfma_f32_16x16x16_bf16") {
    shape = MfmaShape::kBf16x16;
  } else if (in.name == "v_mfma_f32_16x16x16_f16") {
    shape = MfmaShape::kF16x16;
  } else if (in.name == "v_mfma_f32_16x16x4_f32") {
    shape = MfmaShape::kF32x4;
  } else {
    return false;
  }
  const int words = shape == MfmaShape::kF32x4 ? 1 : 2;
  uint32_t a[kLanes][2] = {}, b[kLanes][2] = {};
  float d[kLanes][4];
  std::array<emulator::MfmaOperands, kLanes> operands;
  std::array<const emulator::MfmaOperands*, kLanes> pointers;
  for (int lane = 0; lane < kLanes; ++lane) {  // the execution mask is ignored, as on the machine
    for (int i = 0; i < words; ++i) {
      a[lane][i] = m.read32(w, in.operands[1], lane, i);
      b[lane][i] = m.read32(w, in.operands[2], lane, i);
    }
    const bool constant = in.operands[3].kind == Operand::Kind::kConstant;
    for (int i = 0; i < 4; ++i) d[lane][i] = as_float(m.read32(w, in.operands[3], lane, constant ? 0 : i));
    operands[static_cast<size_t>(lane)] = {shape, a[lane], b[lane], d[lane]};
    pointers[static_cast<size_t>(lane)] = &operands[static_cast<size_t>(lane)];
  }
  emulator::multiply(pointers);
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < 4; ++i) m.write32(w, in.operands[0], lane, as_bits(d[lane][i]), i);
  return true;
}

bool execute_lane_access(Machine& m, Wave& w, const Instruction& in) {
  const auto& op = in.operands;
  if (in.name == "v_readfirstlane_b32") {
    const int lane = w.exec() == 0 ? 0 : __builtin_ctzll(w.exec());
    m.write32(w, op[0], 0, m.read32(w, op[1], lane));
  } else if (in.name == "v_readlane_b32") {
    m.write32(w, op[0], 0, m.read32(w, op[1], static_cast<int>(m.read32(w, op[2], 0) % kLanes)));
  } else {  // v_writelane_b32
    m.write32(w, op[0], static_cast<int>(m.read32(w, op[2], 0) % kLanes), m.read32(w, op[1], 0));
  }
  return true;
}

// Two fp8 values of the chip's format: the low half of the word, or the high one by sdwa.
void convert_fp8_pair(Machine& m, Wave& w, const Instruction& in, int lane) {
  const uint32_t pair = source(m, w, in, 1, lane);
  for (int i = 0; i < 2; ++i) {
    const auto byte = static_cast<uint8_t>(pair >> (8 * i));
    m.write32(w, in.operands[0], lane, as_bits(static_cast<float>(reference::load(DType::kF8E4M3FNUZ, &byte, 0))), i);
  }
}

bool execute_lane(Machine& m, Wave& w, const Instruction& in, int lane) {
  const auto& op = in.operands;
  if (in.name == "v_cvt_pk_f32_fp8") {
    convert_fp8_pair(m, w, in, lane);
    return true;
  }
  if (const auto f = kUnary.find(in.name); f != kUnary.end()) {
    put(m, w, in, lane, f->second(source(m, w, in, 1, lane)));
  } else if (const auto g = kBinary.find(in.name); g != kBinary.end()) {
    put(m, w, in, lane, g->second(source(m, w, in, 1, lane), source(m, w, in, 2, lane)));
  } else if (const auto h = kTernary.find(in.name); h != kTernary.end()) {
    put(m, w, in, lane, h->second(source(m, w, in, 1, lane), source(m, w, in, 2, lane), source(m, w, in, 3, lane)));
  } else if (in.name == "v_cndmask_b32") {
    const bool second = (m.read64(w, op[3], 0) >> lane & 1) != 0;
    put(m, w, in, lane, source(m, w, in, second ? 2 : 1, lane));
  } else if (in.name == "v_fmac_f32") {
    const float c = as_float(m.read32(w, op[0], lane));
    put(m, w, in, lane, as_bits(std::fma(as_float(source(m, w, in, 1, lane)), as_float(source(m, w, in, 2, lane)), c)));
  } else if (in.name == "v_div_scale_f32") {
    m.write32(w, op[0], lane, m.read32(w, op[2], lane));
  } else if (in.name.starts_with("v_pk_")) {
    return execute_packed(m, w, in, lane);
  } else {
    return execute_wide(m, w, in, lane);
  }
  return true;
}

}  // namespace

bool execute_vector(Machine& m, Wave& w, const Instruction& in) {
  if (in.name.starts_with("v_cmp_")) return compare(m, w, in);
  if (in.name.starts_with("v_mfma_")) return execute_mfma(m, w, in);
  if (in.name == "v_readfirstlane_b32" || in.name == "v_readlane_b32" || in.name == "v_writelane_b32")
    return execute_lane_access(m, w, in);
  if (in.name.find("_co_u32") != std::string::npos) return execute_carry(m, w, in);
  if (in.name == "v_nop") return true;
  if (in.name == "v_div_scale_f32") m.write64(w, in.operands[1], 0, 0);
  for (int lane = 0; lane < kLanes; ++lane)
    if (is_active(w, lane) && !execute_lane(m, w, in, lane)) return false;
  return true;
}

}  // namespace sextant::hip::isa
