// Scalar instructions.
#include <algorithm>

#include "hip/isa/lanes.h"

namespace sextant::hip::isa {
namespace {

template <auto kFunction>  // (a, b, scc) -> result
bool binary32(Machine& m, Wave& w, const Instruction& in) {
  const uint32_t a = m.read_scalar(w, in.operands[1]), b = m.read_scalar(w, in.operands[2]);
  m.write_scalar(w, in.operands[0], kFunction(a, b, &w.scc));
  return true;
}
template <auto kFunction>  // scc: the result is not zero
bool logic32(Machine& m, Wave& w, const Instruction& in) {
  const uint32_t r = kFunction(m.read_scalar(w, in.operands[1]), m.read_scalar(w, in.operands[2]));
  w.scc = r != 0;
  m.write_scalar(w, in.operands[0], r);
  return true;
}
template <auto kFunction, bool kShift = false>  // the second source of a shift has 32 bits
bool logic64(Machine& m, Wave& w, const Instruction& in) {
  const Operand& second = in.operands[2];
  const uint64_t a = m.read_scalar64(w, in.operands[1]);
  const uint64_t r = kFunction(a, kShift ? m.read_scalar(w, second) : m.read_scalar64(w, second));
  w.scc = r != 0;
  m.write_scalar64(w, in.operands[0], r);
  return true;
}
template <auto kFunction>
bool saveexec(Machine& m, Wave& w, const Instruction& in) {
  const uint64_t old = w.exec(), r = kFunction(m.read_scalar64(w, in.operands[1]), old);
  m.write_scalar64(w, in.operands[0], old);
  w.s[kExec] = static_cast<uint32_t>(r);
  w.s[kExec + 1] = static_cast<uint32_t>(r >> 32);
  w.scc = r != 0;
  return true;
}
template <auto kFunction, bool kScc>
bool unary32(Machine& m, Wave& w, const Instruction& in) {
  const uint32_t r = kFunction(m.read_scalar(w, in.operands[1]));
  if (kScc) w.scc = r != 0;
  m.write_scalar(w, in.operands[0], r);
  return true;
}
// One bit of the destination; the others stay.
template <bool kOn>
bool set_bit(Machine& m, Wave& w, const Instruction& in) {
  const uint32_t bit = 1u << (m.read_scalar(w, in.operands[1]) & 31), old = m.read_scalar(w, in.operands[0]);
  m.write_scalar(w, in.operands[0], kOn ? old | bit : old & ~bit);
  return true;
}
template <auto kFunction>
bool compare32(Machine& m, Wave& w, const Instruction& in) {
  w.scc = kFunction(m.read_scalar(w, in.operands[0]), m.read_scalar(w, in.operands[1]));
  return true;
}
template <auto kFunction>
bool compare64(Machine& m, Wave& w, const Instruction& in) {
  w.scc = kFunction(m.read_scalar64(w, in.operands[0]), m.read_scalar64(w, in.operands[1]));
  return true;
}

uint64_t extract_signed64(uint64_t a, uint64_t control) {
  const auto offset = static_cast<int>(control & 63), width = static_cast<int>(control >> 16 & 0x7f);
  if (width == 0) return 0;
  const auto top = static_cast<int64_t>(a << (64 - std::min(64, offset + width)));
  return static_cast<uint64_t>(top >> (64 - std::min(width, 64 - offset)));
}

bool load(Machine& m, Wave& w, const Instruction& in) {
  const auto& op = in.operands;
  const uint64_t base = m.read_scalar64(w, op[1]) + m.read_scalar(w, op[2]) + static_cast<uint64_t>(in.offset);
  for (int i = 0; i < op[0].count; ++i) {
    uint32_t value;
    std::memcpy(&value, reinterpret_cast<const char*>(base & ~uint64_t{3}) + 4 * i, sizeof(value));
    m.write_scalar(w, op[0], value, i);
  }
  m.issue(w, false, {.is_scalar = true, .destination = op[0]});
  return true;
}

bool nothing(Machine&, Wave&, const Instruction&) { return true; }

bool move_literal(Machine& m, Wave& w, const Instruction& in) {
  m.write_scalar(w, in.operands[0], static_cast<uint32_t>(static_cast<int16_t>(m.read_scalar(w, in.operands[1]))));
  return true;
}
bool add_literal(Machine& m, Wave& w, const Instruction& in) {
  const auto k = static_cast<uint32_t>(static_cast<int16_t>(m.read_scalar(w, in.operands[1])));
  const uint32_t a = m.read_scalar(w, in.operands[0]), r = a + k;
  w.scc = int64_t{as_signed(a)} + as_signed(k) != int64_t{as_signed(r)};
  m.write_scalar(w, in.operands[0], r);
  return true;
}
bool multiply_literal(Machine& m, Wave& w, const Instruction& in) {
  const auto k = static_cast<uint32_t>(static_cast<int16_t>(m.read_scalar(w, in.operands[1])));
  m.write_scalar(w, in.operands[0], m.read_scalar(w, in.operands[0]) * k);
  return true;
}
bool move64(Machine& m, Wave& w, const Instruction& in) {
  m.write_scalar64(w, in.operands[0], m.read_scalar64(w, in.operands[1]));
  return true;
}
bool not64(Machine& m, Wave& w, const Instruction& in) {
  const uint64_t r = ~m.read_scalar64(w, in.operands[1]);
  w.scc = r != 0;
  m.write_scalar64(w, in.operands[0], r);
  return true;
}
bool select64(Machine& m, Wave& w, const Instruction& in) {
  m.write_scalar64(w, in.operands[0], m.read_scalar64(w, in.operands[w.scc ? 1 : 2]));
  return true;
}
template <auto kFunction>  // a number about 64 bits
bool count64(Machine& m, Wave& w, const Instruction& in) {
  const uint32_t r = kFunction(m.read_scalar64(w, in.operands[1]));
  if (in.name.starts_with("s_bcnt")) w.scc = r != 0;
  m.write_scalar(w, in.operands[0], r);
  return true;
}

uint32_t reverse_bits(uint32_t x) {
  uint32_t r = 0;
  for (int i = 0; i < 32; ++i) r |= (x >> i & 1U) << (31 - i);
  return r;
}
uint32_t extract(uint32_t a, uint32_t b) {
  const uint32_t width = b >> 16 & 0x7f;
  return width == 0 ? 0 : (a >> (b & 31)) & (width >= 32 ? ~0u : (1u << width) - 1);
}
uint32_t extract_signed(uint32_t a, uint32_t b) {
  const uint32_t width = b >> 16 & 0x7f;
  if (width == 0) return 0;
  const uint32_t shift = 64 - std::min(64U, (b & 31) + width);
  return static_cast<uint32_t>(static_cast<int64_t>(uint64_t{a} << shift) >> (64 - width));
}

void add_arithmetic(Handlers& t) {
  using u32 = uint32_t;
  t["s_add_u32"] = binary32<[](u32 a, u32 b, bool* c) { return *c = a + b < a, a + b; }>;
  t["s_addc_u32"] = binary32<[](u32 a, u32 b, bool* c) {
    const uint64_t sum = uint64_t{a} + b + (*c ? 1 : 0);
    return *c = (sum >> 32) != 0, static_cast<u32>(sum);
  }>;
  t["s_sub_u32"] = binary32<[](u32 a, u32 b, bool* c) { return *c = a < b, a - b; }>;
  t["s_subb_u32"] = binary32<[](u32 a, u32 b, bool* c) {
    const uint64_t taken = uint64_t{b} + (*c ? 1 : 0);
    return *c = a < taken, static_cast<u32>(a - taken);
  }>;
  t["s_add_i32"] = binary32<[](u32 a, u32 b, bool* c) {
    return *c = int64_t{as_signed(a)} + as_signed(b) != int64_t{as_signed(a + b)}, a + b;
  }>;
  t["s_sub_i32"] = binary32<[](u32 a, u32 b, bool* c) {
    return *c = int64_t{as_signed(a)} - as_signed(b) != int64_t{as_signed(a - b)}, a - b;
  }>;
  t["s_mul_i32"] = binary32<[](u32 a, u32 b, bool*) { return a * b; }>;
  t["s_mul_hi_u32"] = binary32<[](u32 a, u32 b, bool*) { return (static_cast<u32>(uint64_t{a} * b >> 32)); }>;
  t["s_mul_hi_i32"] = binary32<[](u32 a, u32 b, bool*) {
    return static_cast<u32>(static_cast<uint64_t>(int64_t{as_signed(a)} * as_signed(b)) >> 32);
  }>;
  t["s_min_i32"] = binary32<[](u32 a, u32 b, bool* c) { return *c = as_signed(a) < as_signed(b), *c ? a : b; }>;
  t["s_max_i32"] = binary32<[](u32 a, u32 b, bool* c) { return (*c = as_signed(a) > as_signed(b), *c ? a : b); }>;
  t["s_min_u32"] = binary32<[](u32 a, u32 b, bool* c) { return *c = a < b, *c ? a : b; }>;
  t["s_max_u32"] = binary32<[](u32 a, u32 b, bool* c) { return (*c = a > b, *c ? a : b); }>;
  t["s_cselect_b32"] = binary32<[](u32 a, u32 b, bool* c) { return *c ? a : b; }>;
  t["s_pack_ll_b32_b16"] = binary32<[](u32 a, u32 b, bool*) { return (a & 0xffffu) | b << 16; }>;
  t["s_pack_hh_b32_b16"] = binary32<[](u32 a, u32 b, bool*) { return (a >> 16 | (b & 0xffff0000u)); }>;
  t["s_pack_lh_b32_b16"] = binary32<[](u32 a, u32 b, bool*) { return (a & 0xffffu) | (b & 0xffff0000u); }>;
  for (const auto& [shift, name] : {std::pair<Handler, const char*>{binary32<[](u32 a, u32 b, bool* c) {
                                                                      const uint64_t r = (uint64_t{a} << 1) + b;
                                                                      return *c = (r >> 32) != 0, static_cast<u32>(r);
                                                                    }>,
                                                                    "s_lshl1_add_u32"},
                                    {binary32<[](u32 a, u32 b, bool* c) {
                                       const uint64_t r = (uint64_t{a} << 2) + b;
                                       return *c = (r >> 32) != 0, static_cast<u32>(r);
                                     }>,
                                     "s_lshl2_add_u32"},
                                    {binary32<[](u32 a, u32 b, bool* c) {
                                       const uint64_t r = (uint64_t{a} << 3) + b;
                                       return *c = (r >> 32) != 0, static_cast<u32>(r);
                                     }>,
                                     "s_lshl3_add_u32"},
                                    {binary32<[](u32 a, u32 b, bool* c) {
                                       const uint64_t r = (uint64_t{a} << 4) + b;
                                       return *c = (r >> 32) != 0, static_cast<u32>(r);
                                     }>,
                                     "s_lshl4_add_u32"}})
    t[name] = shift;
  t["s_abs_i32"] = unary32<[](u32 a) { return as_signed(a) < 0 ? 0 - a : a; }, true>;
  t["s_addk_i32"] = add_literal;
  t["s_mulk_i32"] = multiply_literal;
}

void add_bits(Handlers& t) {
  using u32 = uint32_t;
  using u64 = uint64_t;
  t["s_and_b32"] = logic32<[](u32 a, u32 b) { return a & b; }>;
  t["s_or_b32"] = logic32<[](u32 a, u32 b) { return a | b; }>;
  t["s_xor_b32"] = logic32<[](u32 a, u32 b) { return a ^ b; }>;
  t["s_andn2_b32"] = logic32<[](u32 a, u32 b) { return a & ~b; }>;
  t["s_orn2_b32"] = logic32<[](u32 a, u32 b) { return a | ~b; }>;
  t["s_lshl_b32"] = logic32<[](u32 a, u32 b) { return a << (b & 31); }>;
  t["s_lshr_b32"] = logic32<[](u32 a, u32 b) { return (a >> (b & 31)); }>;
  t["s_ashr_i32"] = logic32<[](u32 a, u32 b) { return (static_cast<u32>(as_signed(a) >> (b & 31))); }>;
  t["s_bfe_u32"] = logic32<extract>;
  t["s_bfe_i32"] = logic32<extract_signed>;
  t["s_bfm_b32"] = binary32<[](u32 a, u32 b, bool*) { return ((1u << (a & 31)) - 1) << (b & 31); }>;
  t["s_not_b32"] = unary32<[](u32 a) { return ~a; }, true>;
  t["s_bitset0_b32"] = set_bit<false>;
  t["s_bitset1_b32"] = set_bit<true>;
  t["s_mov_b32"] = unary32<[](u32 a) { return a; }, false>;
  t["s_brev_b32"] = unary32<reverse_bits, false>;
  t["s_sext_i32_i16"] = unary32<[](u32 a) { return static_cast<u32>(static_cast<int16_t>(a)); }, false>;
  t["s_sext_i32_i8"] = unary32<[](u32 a) { return static_cast<u32>(static_cast<int8_t>(a)); }, false>;
  t["s_bcnt1_i32_b32"] = unary32<[](u32 a) { return static_cast<u32>(__builtin_popcount(a)); }, true>;
  t["s_ff1_i32_b32"] = unary32<[](u32 a) { return a == 0 ? ~0u : static_cast<u32>(__builtin_ctz(a)); }, false>;
  t["s_flbit_i32_b32"] = unary32<[](u32 a) { return a == 0 ? ~0u : static_cast<u32>(__builtin_clz(a)); }, false>;
  t["s_bcnt1_i32_b64"] = count64<[](u64 a) { return (static_cast<u32>(__builtin_popcountll(a))); }>;
  t["s_ff1_i32_b64"] = count64<[](u64 a) { return (a == 0 ? ~0u : static_cast<u32>(__builtin_ctzll(a))); }>;
  t["s_flbit_i32_b64"] = count64<[](u64 a) { return (a == 0 ? ~0u : static_cast<u32>(__builtin_clzll(a))); }>;
  t["s_movk_i32"] = move_literal;
  t["s_mov_b64"] = move64;
  t["s_not_b64"] = not64;
  t["s_cselect_b64"] = select64;
  t["s_lshl_b64"] = logic64<[](u64 a, u64 b) { return a << (b & 63); }, true>;
  t["s_lshr_b64"] = logic64<[](u64 a, u64 b) { return (a >> (b & 63)); }, true>;
  t["s_ashr_i64"] = logic64<[](u64 a, u64 b) { return (static_cast<u64>(static_cast<int64_t>(a) >> (b & 63))); }, true>;
  t["s_bfe_i64"] = logic64<extract_signed64, true>;
}

template <auto kFunction>
void add_logic64(Handlers& t, const char* name) {
  t[std::string("s_") + name + "_b64"] = logic64<kFunction>;
  t[std::string("s_") + name + "_saveexec_b64"] = saveexec<kFunction>;
}
void add_masks(Handlers& t) {
  using u64 = uint64_t;
  add_logic64<[](u64 a, u64 b) { return a & b; }>(t, "and");
  add_logic64<[](u64 a, u64 b) { return a | b; }>(t, "or");
  add_logic64<[](u64 a, u64 b) { return a ^ b; }>(t, "xor");
  add_logic64<[](u64 a, u64 b) { return a & ~b; }>(t, "andn2");
  add_logic64<[](u64 a, u64 b) { return a | ~b; }>(t, "orn2");
  add_logic64<[](u64 a, u64 b) { return ~(a & b); }>(t, "nand");
  add_logic64<[](u64 a, u64 b) { return ~(a | b); }>(t, "nor");
  add_logic64<[](u64 a, u64 b) { return ~(a ^ b); }>(t, "xnor");
}

template <auto kFunction>
void add_compare(Handlers& t, const char* relation) {
  t[std::string("s_cmp_") + relation] = t[std::string("s_cmpk_") + relation] = compare32<kFunction>;
}
void add_compares(Handlers& t) {
  using u32 = uint32_t;
  using u64 = uint64_t;
  add_compare<[](u32 a, u32 b) { return a == b; }>(t, "eq_u32");
  add_compare<[](u32 a, u32 b) { return a != b; }>(t, "lg_u32");
  add_compare<[](u32 a, u32 b) { return (a > b); }>(t, "gt_u32");
  add_compare<[](u32 a, u32 b) { return (a >= b); }>(t, "ge_u32");
  add_compare<[](u32 a, u32 b) { return a < b; }>(t, "lt_u32");
  add_compare<[](u32 a, u32 b) { return a <= b; }>(t, "le_u32");
  add_compare<[](u32 a, u32 b) { return a == b; }>(t, "eq_i32");
  add_compare<[](u32 a, u32 b) { return a != b; }>(t, "lg_i32");
  add_compare<[](u32 a, u32 b) { return (as_signed(a) > as_signed(b)); }>(t, "gt_i32");
  add_compare<[](u32 a, u32 b) { return (as_signed(a) >= as_signed(b)); }>(t, "ge_i32");
  add_compare<[](u32 a, u32 b) { return as_signed(a) < as_signed(b); }>(t, "lt_i32");
  add_compare<[](u32 a, u32 b) { return as_signed(a) <= as_signed(b); }>(t, "le_i32");
  t["s_cmp_eq_u64"] = compare64<[](u64 a, u64 b) { return a == b; }>;
  t["s_cmp_lg_u64"] = compare64<[](u64 a, u64 b) { return a != b; }>;
  t["s_bitcmp0_b32"] = compare32<[](u32 a, u32 b) { return ((a >> (b & 31) & 1) == 0); }>;
  t["s_bitcmp1_b32"] = compare32<[](u32 a, u32 b) { return ((a >> (b & 31) & 1) == 1); }>;
}

}  // namespace

const Handlers& scalar_handlers() {
  static const Handlers kTable = [] {
    Handlers t;
    add_arithmetic(t);
    add_bits(t);
    add_masks(t);
    add_compares(t);
    for (const char* width : {"", "x2", "x4", "x8", "x16"}) t[std::string("s_load_dword") + width] = load;
    for (const char* name : {"s_nop", "s_setprio", "s_sleep"}) t[name] = nothing;
    return t;
  }();
  return kTable;
}

}  // namespace sextant::hip::isa
