// 64-bit arithmetic, carries, and pairs of floats.
#include <cmath>
#include <utility>

#include "hip/isa/lanes.h"

namespace sextant::hip::isa {
namespace {

template <auto kFunction>  // (shift, value), as v_lshlrev_b64 takes them
bool shift(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer;
  const Lanes& by = m.read_lanes(w, in.operands[1], 0, buffer);
  WideLanes x = read_wide(m, w, in.operands[2]);
  for (size_t lane = 0; lane < kLanes; ++lane) x[lane] = kFunction(x[lane], by[lane] & 63);
  write_wide(m, w, in.operands[0], x);
  return true;
}
bool shift_add(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer;
  WideLanes x = read_wide(m, w, in.operands[1]);
  const Lanes& by = m.read_lanes(w, in.operands[2], 0, buffer);
  const WideLanes y = read_wide(m, w, in.operands[3]);
  for (size_t lane = 0; lane < kLanes; ++lane) x[lane] = (x[lane] << (by[lane] & 7)) + y[lane];
  write_wide(m, w, in.operands[0], x);
  return true;
}
bool move(Machine& m, Wave& w, const Instruction& in) {
  write_wide(m, w, in.operands[0], read_wide(m, w, in.operands[1]));
  return true;
}
template <bool kSigned>  // d[64], carry out, a, b, c[64]
bool multiply_add(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer_a, buffer_b;
  const Lanes& a = m.read_lanes(w, in.operands[2], 0, buffer_a);
  const Lanes& b = m.read_lanes(w, in.operands[3], 0, buffer_b);
  WideLanes c = read_wide(m, w, in.operands[4]);
  uint64_t carry = 0;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    const uint64_t product =
        kSigned ? static_cast<uint64_t>(int64_t{as_signed(a[lane])} * as_signed(b[lane])) : uint64_t{a[lane]} * b[lane];
    carry |= static_cast<uint64_t>(c[lane] + product < product) << lane;
    c[lane] += product;
  }
  write_wide(m, w, in.operands[0], c);
  if (!kSigned) m.write_scalar64(w, in.operands[1], carry & w.exec());
  return true;
}

// d, carry out, a, b [, carry in]
template <bool kAdds, bool kReversed, bool kChained>
bool add_carry(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer_a, buffer_b, result;
  const Lanes* a = &m.read_lanes(w, in.operands[2], 0, buffer_a);
  const Lanes* b = &m.read_lanes(w, in.operands[3], 0, buffer_b);
  if (kReversed) std::swap(a, b);
  const uint64_t carry_in = kChained ? m.read_scalar64(w, in.operands[4]) : 0;
  uint64_t carry = 0;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    const uint64_t x = (*a)[lane], y = (*b)[lane], extra = carry_in >> lane & 1,
                   r = kAdds ? x + y + extra : x - y - extra;
    carry |= (r >> 32 & 1) << lane;
    result[lane] = static_cast<uint32_t>(r);
  }
  m.write_lanes(w, in.operands[0], 0, result);
  m.write_scalar64(w, in.operands[1], carry & w.exec());
  return true;
}

// Two numbers of register pairs; op_sel and op_sel_hi pick halves, neg_lo and neg_hi signs. A constant stands for its
// low half in both.
template <size_t kSources, auto kFunction>
bool packed(Machine& m, Wave& w, const Instruction& in) {
  Lanes results[2];
  for (int half = 0; half < 2; ++half) {
    Lanes buffers[3];
    const Lanes* x[3] = {};
    uint32_t sign[3] = {};
    for (size_t i = 0; i < kSources; ++i) {
      const Operand& operand = in.operands[i + 1];
      const bool high = ((half == 0 ? in.op_sel : in.op_sel_hi) >> i & 1) != 0;
      const bool pair = operand.kind != Operand::Kind::kConstant;
      x[i] = &m.read_lanes(w, operand, high && pair ? 1 : 0, buffers[i]);
      if (high && !pair) buffers[i].fill(0);
      if (((half == 0 ? in.neg_lo : in.neg_hi) >> i & 1) != 0) sign[i] = 0x80000000u;
    }
    for (size_t lane = 0; lane < kLanes; ++lane)
      results[half][lane] = kFunction((*x[0])[lane] ^ sign[0], kSources > 1 ? (*x[1])[lane] ^ sign[1] : 0,
                                      kSources > 2 ? (*x[2])[lane] ^ sign[2] : 0);
  }
  m.write_lanes(w, in.operands[0], 0, results[0]);
  m.write_lanes(w, in.operands[0], 1, results[1]);
  return true;
}
// The low result is of the first source, the high one of the second.
bool packed_move(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffers[2];
  Lanes low = m.read_lanes(w, in.operands[1], in.op_sel & 1, buffers[0]);
  const Lanes high = m.read_lanes(w, in.operands[2], in.op_sel >> 1 & 1, buffers[1]);
  m.write_lanes(w, in.operands[0], 0, low);
  m.write_lanes(w, in.operands[0], 1, high);
  return true;
}

}  // namespace

const Handlers& wide_handlers() {
  static const Handlers kTable = [] {
    using u32 = uint32_t;
    using u64 = uint64_t;
    Handlers t;
    t["v_lshlrev_b64"] = shift<[](u64 x, u32 by) { return x << by; }>;
    t["v_lshrrev_b64"] = shift<[](u64 x, u32 by) { return (x >> by); }>;
    t["v_ashrrev_i64"] = shift<[](u64 x, u32 by) { return (static_cast<u64>(static_cast<int64_t>(x) >> by)); }>;
    t["v_lshl_add_u64"] = shift_add;
    t["v_mov_b64"] = move;
    t["v_mad_u64_u32"] = multiply_add<false>;
    t["v_mad_i64_i32"] = multiply_add<true>;
    t["v_add_co_u32"] = add_carry<true, false, false>;
    t["v_addc_co_u32"] = add_carry<true, false, true>;
    t["v_sub_co_u32"] = add_carry<false, false, false>;
    t["v_subb_co_u32"] = add_carry<false, false, true>;
    t["v_subrev_co_u32"] = add_carry<false, true, false>;
    t["v_subbrev_co_u32"] = add_carry<false, true, true>;
    t["v_pk_mul_f32"] = packed<2, [](u32 x, u32 y, u32) { return as_bits(as_float(x) * as_float(y)); }>;
    t["v_pk_add_f32"] = packed<2, [](u32 x, u32 y, u32) { return as_bits(as_float(x) + as_float(y)); }>;
    t["v_pk_fma_f32"] =
        packed<3, [](u32 x, u32 y, u32 z) { return as_bits(std::fma(as_float(x), as_float(y), as_float(z))); }>;
    t["v_pk_mov_b32"] = packed_move;
    return t;
  }();
  return kTable;
}

}  // namespace sextant::hip::isa
