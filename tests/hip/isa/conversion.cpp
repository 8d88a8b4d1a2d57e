// Conversions between formats. Numbers of 16 and 8 bits follow the reference, not the emulator that the kernels'
// sources run under.
#include <algorithm>
#include <cmath>
#include <vector>

#include "hip/isa/lanes.h"
#include "reference/numbers.h"

namespace sextant::hip::isa {
namespace {

using u32 = uint32_t;

template <class Bits>
std::vector<float> table_of(DType dtype) {
  std::vector<float> table(size_t{1} << (8 * sizeof(Bits)));
  for (size_t i = 0; i < table.size(); ++i) {
    const auto bits = static_cast<Bits>(i);
    table[i] = static_cast<float>(reference::load(dtype, &bits, 0));
  }
  return table;
}
template <class Bits>
u32 store(DType dtype, float x) {
  Bits bits = 0;
  reference::store(dtype, &bits, 0, static_cast<double>(x));
  return bits;
}
DType native_fp8(const Program& p) { return p.is_gfx950() ? DType::kF8E4M3FN : DType::kF8E4M3FNUZ; }

u32 to_unsigned(float x) {
  if (!(x > 0)) return 0;
  return x >= 4294967296.0f ? ~0u : static_cast<u32>(x);
}
u32 to_signed(float x) {
  if (x != x) return 0;
  if (x >= 2147483648.0f) return 0x7fffffffu;
  return x <= -2147483648.0f ? 0x80000000u : static_cast<u32>(static_cast<int32_t>(x));
}
u32 truncate_half(float x) {
  const u32 nearest = float_to_half(x);
  return std::fabs(half_to_float(nearest)) > std::fabs(x) ? nearest - 1 : nearest;
}

// Two fp8 values of a word's low or high half; op_sel or sdwa says which.
bool convert_fp8_pair(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer, low, high;
  const Lanes& pair = source(m, w, in, 1, buffer);
  const int shift = (in.op_sel & 1) != 0 ? 16 : 0;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    low[lane] = as_bits(fp8_to_float(m.program(), pair[lane] >> shift & 0xffu));
    high[lane] = as_bits(fp8_to_float(m.program(), pair[lane] >> (shift + 8) & 0xffu));
  }
  m.write_lanes(w, in.operands[0], 0, low);
  m.write_lanes(w, in.operands[0], 1, high);
  return true;
}
bool convert_fp8(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer, result;
  const Lanes& a = source(m, w, in, 1, buffer);
  for (size_t lane = 0; lane < kLanes; ++lane) result[lane] = as_bits(fp8_to_float(m.program(), a[lane] & 0xffu));
  put(m, w, in, result);
  return true;
}
// d's low or high half by op_sel of the result; the other stays.
bool convert_to_fp8_pair(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer_a, buffer_b, buffer_d, result;
  const Lanes& a = source(m, w, in, 1, buffer_a);
  const Lanes& b = source(m, w, in, 2, buffer_b);
  const Lanes& old = m.read_lanes(w, in.operands[0], 0, buffer_d);
  const int shift = (in.op_sel & 4) != 0 ? 16 : 0;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    const u32 pair = float_to_fp8(m.program(), as_float(a[lane])) | float_to_fp8(m.program(), as_float(b[lane])) << 8;
    result[lane] = (old[lane] & ~(0xffffu << shift)) | pair << shift;
  }
  m.write_lanes(w, in.operands[0], 0, result);
  return true;
}

}  // namespace

float half_to_float(u32 x) {
  static const std::vector<float> kTable = table_of<uint16_t>(DType::kF16);
  return kTable[x & 0xffffu];
}
u32 float_to_half(float x) { return store<uint16_t>(DType::kF16, x); }
float bf16_to_float(u32 x) { return as_float(x << 16); }
u32 float_to_bf16(float x) { return store<uint16_t>(DType::kBF16, x); }
float fp8_to_float(const Program& p, u32 x) {
  static const std::vector<float> kOcp = table_of<uint8_t>(DType::kF8E4M3FN),
                                  kFnuz = table_of<uint8_t>(DType::kF8E4M3FNUZ);
  return (p.is_gfx950() ? kOcp : kFnuz)[x & 0xffu];
}
u32 float_to_fp8(const Program& p, float x) { return store<uint8_t>(native_fp8(p), x); }

const Handlers& conversion_handlers() {
  static const Handlers kTable = [] {
    Handlers t;
    t["v_cvt_f32_u32"] = unary<[](u32 x) { return (as_bits(static_cast<float>(x))); }>;
    t["v_cvt_f32_i32"] = unary<[](u32 x) { return (as_bits(static_cast<float>(as_signed(x)))); }>;
    t["v_cvt_u32_f32"] = unary<[](u32 x) { return to_unsigned(as_float(x)); }>;
    t["v_cvt_i32_f32"] = unary<[](u32 x) { return to_signed(as_float(x)); }>;
    t["v_cvt_f32_ubyte0"] = unary<[](u32 x) { return (as_bits(static_cast<float>(x & 0xffu))); }>;
    t["v_cvt_f32_ubyte1"] = unary<[](u32 x) { return (as_bits(static_cast<float>(x >> 8 & 0xffu))); }>;
    t["v_cvt_f32_ubyte2"] = unary<[](u32 x) { return (as_bits(static_cast<float>(x >> 16 & 0xffu))); }>;
    t["v_cvt_f32_ubyte3"] = unary<[](u32 x) { return (as_bits(static_cast<float>(x >> 24))); }>;
    t["v_cvt_f32_f16"] = unary<[](u32 x) { return as_bits(half_to_float(x)); }>;
    t["v_cvt_f16_f32"] = unary<[](u32 x) { return float_to_half(as_float(x)); }>;
    t["v_cvt_f32_bf16"] = unary<[](u32 x) { return x << 16; }>;
    t["v_cvt_pk_bf16_f32"] =
        binary<[](u32 x, u32 y) { return float_to_bf16(as_float(x)) | float_to_bf16(as_float(y)) << 16; }>;
    t["v_cvt_pk_f16_f32"] =
        binary<[](u32 x, u32 y) { return float_to_half(as_float(x)) | float_to_half(as_float(y)) << 16; }>;
    t["v_cvt_pkrtz_f16_f32"] =
        binary<[](u32 x, u32 y) { return truncate_half(as_float(x)) | truncate_half(as_float(y)) << 16; }>;
    t["v_pack_b32_f16"] = binary<[](u32 x, u32 y) { return (x & 0xffffu) | y << 16; }>;
    t["v_cvt_pk_f32_fp8"] = convert_fp8_pair;
    t["v_cvt_f32_fp8"] = convert_fp8;
    t["v_cvt_pk_fp8_f32"] = convert_to_fp8_pair;
    return t;
  }();
  return kTable;
}

}  // namespace sextant::hip::isa
