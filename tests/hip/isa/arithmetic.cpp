// 32-bit vector arithmetic, lane by lane.
#include <algorithm>
#include <cmath>

#include "hip/isa/lanes.h"

namespace sextant::hip::isa {
namespace {

using u32 = uint32_t;

float f(u32 x) { return as_float(x); }
u32 b(float x) { return as_bits(x); }
u32 low24(u32 x) { return static_cast<u32>(as_signed(x << 8) >> 8); }

// Bytes 0 to 3 are the second source's, 4 to 7 the first's; 12 is zero, more is all ones.
u32 permute_bytes(u32 x, u32 y, u32 selectors) {
  const uint64_t both = y | static_cast<uint64_t>(x) << 32;
  u32 r = 0;
  for (int i = 0; i < 4; ++i) {
    const u32 selector = selectors >> (8 * i) & 0xffu;
    const u32 byte = selector < 8 ? static_cast<u32>(both >> (8 * selector) & 0xffu) : selector == 12 ? 0u : 0xffu;
    r |= byte << (8 * i);
  }
  return r;
}
u32 reverse_bits(u32 x) {
  u32 r = 0;
  for (int i = 0; i < 32; ++i) r |= (x >> i & 1U) << (31 - i);
  return r;
}
u32 extract_signed(u32 x, u32 offset, u32 width) {
  if ((width & 31) == 0) return 0;
  const u32 bits = x >> (offset & 31), shift = 32 - (width & 31);
  return static_cast<u32>(as_signed(bits << shift) >> shift);
}
float middle(float x, float y, float z) { return std::max(std::min(x, y), std::min(std::max(x, y), z)); }

void add_integers(Handlers& t) {
  t["v_mov_b32"] = t["v_accvgpr_read_b32"] = t["v_accvgpr_write_b32"] = t["v_accvgpr_mov_b32"] =
      unary<[](u32 x) { return x; }>;
  t["v_not_b32"] = unary<[](u32 x) { return ~x; }>;
  t["v_bfrev_b32"] = unary<reverse_bits>;
  t["v_ffbh_u32"] = unary<[](u32 x) { return (x == 0 ? ~0u : static_cast<u32>(__builtin_clz(x))); }>;
  t["v_ffbl_b32"] = unary<[](u32 x) { return (x == 0 ? ~0u : static_cast<u32>(__builtin_ctz(x))); }>;
  t["v_add_u32"] = binary<[](u32 x, u32 y) { return x + y; }>;
  t["v_sub_u32"] = binary<[](u32 x, u32 y) { return x - y; }>;
  t["v_subrev_u32"] = binary<[](u32 x, u32 y) { return y - x; }>;
  t["v_mul_lo_u32"] = binary<[](u32 x, u32 y) { return x * y; }>;
  t["v_mul_hi_u32"] = binary<[](u32 x, u32 y) { return (static_cast<u32>(uint64_t{x} * y >> 32)); }>;
  t["v_mul_hi_i32"] = binary<[](u32 x, u32 y) {
    return static_cast<u32>(static_cast<uint64_t>(int64_t{as_signed(x)} * as_signed(y)) >> 32);
  }>;
  t["v_mul_u32_u24"] = binary<[](u32 x, u32 y) { return (x & 0xffffffu) * (y & 0xffffffu); }>;
  t["v_mul_i32_i24"] = binary<[](u32 x, u32 y) { return low24(x) * low24(y); }>;
  // 16-bit results leave the upper half of the register zero.
  t["v_mul_lo_u16"] = binary<[](u32 x, u32 y) { return (x & 0xffffu) * (y & 0xffffu) & 0xffffu; }>;
  t["v_sub_u16"] = binary<[](u32 x, u32 y) { return (x - y) & 0xffffu; }>;
  t["v_add_u16"] = binary<[](u32 x, u32 y) { return (x + y) & 0xffffu; }>;
  t["v_lshlrev_b16"] = binary<[](u32 x, u32 y) { return y << (x & 15) & 0xffffu; }>;
  t["v_lshrrev_b16"] = binary<[](u32 x, u32 y) { return ((y & 0xffffu) >> (x & 15)); }>;
  t["v_and_b32"] = binary<[](u32 x, u32 y) { return x & y; }>;
  t["v_or_b32"] = binary<[](u32 x, u32 y) { return x | y; }>;
  t["v_xor_b32"] = binary<[](u32 x, u32 y) { return x ^ y; }>;
  t["v_xnor_b32"] = binary<[](u32 x, u32 y) { return ~(x ^ y); }>;
  t["v_lshlrev_b32"] = binary<[](u32 x, u32 y) { return y << (x & 31); }>;
  t["v_lshrrev_b32"] = binary<[](u32 x, u32 y) { return (y >> (x & 31)); }>;
  t["v_ashrrev_i32"] = binary<[](u32 x, u32 y) { return (static_cast<u32>(as_signed(y) >> (x & 31))); }>;
  t["v_min_u32"] = binary<[](u32 x, u32 y) { return std::min(x, y); }>;
  t["v_max_u32"] = binary<[](u32 x, u32 y) { return std::max(x, y); }>;
  t["v_min_i32"] = binary<[](u32 x, u32 y) { return as_signed(x) < as_signed(y) ? x : y; }>;
  t["v_max_i32"] = binary<[](u32 x, u32 y) { return (as_signed(x) > as_signed(y) ? x : y); }>;
  t["v_bcnt_u32_b32"] = binary<[](u32 x, u32 y) { return (static_cast<u32>(__builtin_popcount(x)) + y); }>;
  t["v_add3_u32"] = ternary<[](u32 x, u32 y, u32 z) { return x + y + z; }>;
  t["v_xad_u32"] = ternary<[](u32 x, u32 y, u32 z) { return (x ^ y) + z; }>;
  t["v_lshl_or_b32"] = ternary<[](u32 x, u32 y, u32 z) { return x << (y & 31) | z; }>;
  t["v_lshl_add_u32"] = ternary<[](u32 x, u32 y, u32 z) { return (x << (y & 31)) + z; }>;
  t["v_add_lshl_u32"] = ternary<[](u32 x, u32 y, u32 z) { return (x + y) << (z & 31); }>;
  t["v_and_or_b32"] = ternary<[](u32 x, u32 y, u32 z) { return (x & y) | z; }>;
  t["v_or3_b32"] = ternary<[](u32 x, u32 y, u32 z) { return x | y | z; }>;
  t["v_mad_u32_u24"] = ternary<[](u32 x, u32 y, u32 z) { return (x & 0xffffffu) * (y & 0xffffffu) + z; }>;
  t["v_mad_i32_i24"] = ternary<[](u32 x, u32 y, u32 z) { return low24(x) * low24(y) + z; }>;
  t["v_bfe_u32"] = ternary<[](u32 x, u32 y, u32 z) { return ((x >> (y & 31)) & ((1u << (z & 31)) - 1)); }>;
  t["v_bfe_i32"] = ternary<extract_signed>;
  t["v_bfi_b32"] = ternary<[](u32 x, u32 y, u32 z) { return (x & y) | (~x & z); }>;
  t["v_perm_b32"] = ternary<permute_bytes>;
  t["v_alignbit_b32"] =
      ternary<[](u32 x, u32 y, u32 z) { return static_cast<u32>((static_cast<uint64_t>(x) << 32 | y) >> (z & 31)); }>;
  t["v_alignbyte_b32"] = ternary<[](u32 x, u32 y, u32 z) {
    return static_cast<u32>((static_cast<uint64_t>(x) << 32 | y) >> (8 * (z & 3)));
  }>;
  t["v_min3_i32"] = ternary<[](u32 x, u32 y, u32 z) {
    return static_cast<u32>(std::min({as_signed(x), as_signed(y), as_signed(z)}));
  }>;
  t["v_max3_i32"] = ternary<[](u32 x, u32 y, u32 z) {
    return static_cast<u32>(std::max({as_signed(x), as_signed(y), as_signed(z)}));
  }>;
  t["v_med3_i32"] = ternary<[](u32 x, u32 y, u32 z) {
    const int32_t p = as_signed(x), q = as_signed(y), r = as_signed(z);
    return static_cast<u32>(std::max(std::min(p, q), std::min(std::max(p, q), r)));
  }>;
}

void add_floats(Handlers& t) {
  t["v_exp_f32"] = unary<[](u32 x) { return b(std::exp2(f(x))); }>;
  t["v_log_f32"] = unary<[](u32 x) { return b(std::log2(f(x))); }>;
  t["v_rcp_f32"] = t["v_rcp_iflag_f32"] = unary<[](u32 x) { return b(1.0f / f(x)); }>;
  t["v_sqrt_f32"] = unary<[](u32 x) { return b(std::sqrt(f(x))); }>;
  t["v_trunc_f32"] = unary<[](u32 x) { return b(std::trunc(f(x))); }>;
  t["v_floor_f32"] = unary<[](u32 x) { return b(std::floor(f(x))); }>;
  t["v_rndne_f32"] = unary<[](u32 x) { return b(std::nearbyint(f(x))); }>;
  t["v_add_f32"] = binary<[](u32 x, u32 y) { return b(f(x) + f(y)); }>;
  t["v_sub_f32"] = binary<[](u32 x, u32 y) { return b(f(x) - f(y)); }>;
  t["v_subrev_f32"] = binary<[](u32 x, u32 y) { return b(f(y) - f(x)); }>;
  t["v_mul_f32"] = binary<[](u32 x, u32 y) { return b(f(x) * f(y)); }>;
  t["v_mul_legacy_f32"] = binary<[](u32 x, u32 y) { return f(x) == 0 || f(y) == 0 ? 0u : b(f(x) * f(y)); }>;
  t["v_max_f32"] = binary<[](u32 x, u32 y) { return b(std::fmax(f(x), f(y))); }>;
  t["v_min_f32"] = binary<[](u32 x, u32 y) { return b(std::fmin(f(x), f(y))); }>;
  t["v_ldexp_f32"] = binary<[](u32 x, u32 y) { return b(std::ldexp(f(x), as_signed(y))); }>;
  t["v_fma_f32"] = ternary<[](u32 x, u32 y, u32 z) { return b(std::fma(f(x), f(y), f(z))); }>;
  t["v_max3_f32"] = ternary<[](u32 x, u32 y, u32 z) { return b(std::fmax(std::fmax(f(x), f(y)), f(z))); }>;
  t["v_min3_f32"] = ternary<[](u32 x, u32 y, u32 z) { return b(std::fmin(std::fmin(f(x), f(y)), f(z))); }>;
  t["v_med3_f32"] = ternary<[](u32 x, u32 y, u32 z) { return b(middle(f(x), f(y), f(z))); }>;
  // d = a * k + b and d = a * b + k have k among the operands where it stands.
  t["v_fmamk_f32"] = ternary<[](u32 x, u32 k, u32 z) { return b(std::fma(f(x), f(k), f(z))); }>;
  t["v_fmaak_f32"] = ternary<[](u32 x, u32 y, u32 k) { return b(std::fma(f(x), f(y), f(k))); }>;
  // The v_mad family rounds the product.
  t["v_madmk_f32"] = t["v_madak_f32"] = t["v_mad_f32"] = ternary<[](u32 x, u32 y, u32 z) {
    const volatile float product = f(x) * f(y);
    return b(product + f(z));
  }>;
  // A division's steps: no source is scaled (v_div_scale says so in vcc), and the last gives the quotient.
  t["v_div_fmas_f32"] = ternary<[](u32 x, u32 y, u32 z) { return b(std::fma(f(x), f(y), f(z))); }>;
  t["v_div_fixup_f32"] = ternary<[](u32, u32 y, u32 z) { return b(f(z) / f(y)); }>;
}

// d = a * b + d
template <bool kFused>
bool accumulate(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer_a, buffer_b, buffer_c, result;
  const Lanes& x = source(m, w, in, 1, buffer_a);
  const Lanes& y = source(m, w, in, 2, buffer_b);
  const Lanes& z = m.read_lanes(w, in.operands[0], 0, buffer_c);
  for (size_t lane = 0; lane < kLanes; ++lane) {
    const volatile float product = f(x[lane]) * f(y[lane]);
    result[lane] = b(kFused ? std::fma(f(x[lane]), f(y[lane]), f(z[lane])) : product + f(z[lane]));
  }
  put(m, w, in, result);
  return true;
}

bool divide_scale(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer;
  m.write_scalar64(w, in.operands[1], 0);
  m.write_lanes(w, in.operands[0], 0, Lanes(m.read_lanes(w, in.operands[2], 0, buffer)));
  return true;
}

bool select_by_mask(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer_a, buffer_b, result;
  const Lanes& x = source(m, w, in, 1, buffer_a);
  const Lanes& y = source(m, w, in, 2, buffer_b);
  const uint64_t mask = m.read_scalar64(w, in.operands[3]);
  for (size_t lane = 0; lane < kLanes; ++lane) result[lane] = (mask >> lane & 1) != 0 ? y[lane] : x[lane];
  put(m, w, in, result);
  return true;
}

// Any function of three bits, by its truth table.
bool bit_operation3(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer_a, buffer_b, buffer_c, result;
  const Lanes& x = source(m, w, in, 1, buffer_a);
  const Lanes& y = source(m, w, in, 2, buffer_b);
  const Lanes& z = source(m, w, in, 3, buffer_c);
  for (size_t lane = 0; lane < kLanes; ++lane) {
    u32 r = 0;
    for (int row = 0; row < 8; ++row)
      if ((in.bitop3 >> row & 1) != 0)
        r |= ((row & 4) != 0 ? x[lane] : ~x[lane]) & ((row & 2) != 0 ? y[lane] : ~y[lane]) &
             ((row & 1) != 0 ? z[lane] : ~z[lane]);
    result[lane] = r;
  }
  put(m, w, in, result);
  return true;
}

}  // namespace

const Handlers& arithmetic_handlers() {
  static const Handlers kTable = [] {
    Handlers t;
    add_integers(t);
    add_floats(t);
    t["v_fmac_f32"] = accumulate<true>;
    t["v_mac_f32"] = accumulate<false>;
    t["v_div_scale_f32"] = divide_scale;
    t["v_cndmask_b32"] = select_by_mask;
    t["v_bitop3_b32"] = bit_operation3;
    return t;
  }();
  return kTable;
}

}  // namespace sextant::hip::isa
