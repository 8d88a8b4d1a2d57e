// v_cmp_<relation>_<type> mask, a, b: a bit for each active lane, zeros elsewhere.
#include "hip/isa/lanes.h"

namespace sextant::hip::isa {
namespace {

enum class Relation : uint8_t { kLt, kEq, kLe, kGt, kNe, kGe };

template <class T>
T convert(uint32_t x) {
  if constexpr (std::is_same_v<T, float>) return as_float(x);
  return static_cast<T>(x);
}

template <class T, Relation kRelation>
bool holds(T a, T b) {
  switch (kRelation) {
    case Relation::kLt:
      return a < b;
    case Relation::kEq:
      return a == b;
    case Relation::kLe:
      return a <= b;
    case Relation::kGt:
      return a > b;
    case Relation::kNe:
      return a < b || a > b;
    default:
      return a >= b;
  }
}

void put_mask(Machine& m, Wave& w, const Instruction& in, uint64_t mask) {
  mask &= w.exec();
  m.write_scalar64(w, in.operands[0], mask);
  if (!in.name.starts_with("v_cmpx")) return;
  w.s[kExec] = static_cast<uint32_t>(mask);
  w.s[kExec + 1] = static_cast<uint32_t>(mask >> 32);
}

// kNegated: what v_cmp_n<relation> asks, true for NaN.
template <class T, Relation kRelation, bool kNegated>
bool compare(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer_a, buffer_b;
  const Lanes& a = source(m, w, in, 1, buffer_a);
  const Lanes& b = source(m, w, in, 2, buffer_b);
  uint64_t mask = 0;
  for (size_t lane = 0; lane < kLanes; ++lane)
    mask |= static_cast<uint64_t>(holds<T, kRelation>(convert<T>(a[lane]), convert<T>(b[lane])) != kNegated) << lane;
  put_mask(m, w, in, mask);
  return true;
}
template <class T, Relation kRelation>
bool compare_wide(Machine& m, Wave& w, const Instruction& in) {
  const WideLanes a = read_wide(m, w, in.operands[1]), b = read_wide(m, w, in.operands[2]);
  uint64_t mask = 0;
  for (size_t lane = 0; lane < kLanes; ++lane)
    mask |= static_cast<uint64_t>(holds<T, kRelation>(static_cast<T>(a[lane]), static_cast<T>(b[lane]))) << lane;
  put_mask(m, w, in, mask);
  return true;
}
template <bool kUnordered>
bool compare_order(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer_a, buffer_b;
  const Lanes& a = source(m, w, in, 1, buffer_a);
  const Lanes& b = source(m, w, in, 2, buffer_b);
  uint64_t mask = 0;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    const float x = as_float(a[lane]), y = as_float(b[lane]);
    mask |= static_cast<uint64_t>((x != x || y != y) == kUnordered) << lane;
  }
  put_mask(m, w, in, mask);
  return true;
}

void add(Handlers& t, const std::string& relation, Handler handler) {
  t["v_cmp_" + relation] = t["v_cmpx_" + relation] = handler;
}
template <class T>
void add_integers(Handlers& t, const std::string& type) {
  add(t, "lt_" + type, compare<T, Relation::kLt, false>);
  add(t, "eq_" + type, compare<T, Relation::kEq, false>);
  add(t, "le_" + type, compare<T, Relation::kLe, false>);
  add(t, "gt_" + type, compare<T, Relation::kGt, false>);
  add(t, "ne_" + type, compare<T, Relation::kNe, false>);
  add(t, "ge_" + type, compare<T, Relation::kGe, false>);
}
template <class T>
void add_wide(Handlers& t, const std::string& type) {
  add(t, "lt_" + type, compare_wide<T, Relation::kLt>);
  add(t, "eq_" + type, compare_wide<T, Relation::kEq>);
  add(t, "le_" + type, compare_wide<T, Relation::kLe>);
  add(t, "gt_" + type, compare_wide<T, Relation::kGt>);
  add(t, "ne_" + type, compare_wide<T, Relation::kNe>);
  add(t, "ge_" + type, compare_wide<T, Relation::kGe>);
}

}  // namespace

const Handlers& compare_handlers() {
  static const Handlers kTable = [] {
    Handlers t;
    add_integers<uint32_t>(t, "u32");
    add_integers<int32_t>(t, "i32");
    add_integers<uint16_t>(t, "u16");
    add_integers<int16_t>(t, "i16");
    add_wide<uint64_t>(t, "u64");
    add_wide<int64_t>(t, "i64");
    add(t, "lt_f32", compare<float, Relation::kLt, false>);
    add(t, "eq_f32", compare<float, Relation::kEq, false>);
    add(t, "le_f32", compare<float, Relation::kLe, false>);
    add(t, "gt_f32", compare<float, Relation::kGt, false>);
    add(t, "lg_f32", compare<float, Relation::kNe, false>);
    add(t, "ge_f32", compare<float, Relation::kGe, false>);
    add(t, "nge_f32", compare<float, Relation::kGe, true>);
    add(t, "nlg_f32", compare<float, Relation::kNe, true>);
    add(t, "ngt_f32", compare<float, Relation::kGt, true>);
    add(t, "nle_f32", compare<float, Relation::kLe, true>);
    add(t, "neq_f32", compare<float, Relation::kEq, true>);
    add(t, "nlt_f32", compare<float, Relation::kLt, true>);
    add(t, "o_f32", compare_order<false>);
    add(t, "u_f32", compare_order<true>);
    return t;
  }();
  return kTable;
}

}  // namespace sextant::hip::isa
