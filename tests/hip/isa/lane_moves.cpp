// Instructions that move data between lanes, and the table of all instructions.
#include <utility>

#include "hip/isa/lanes.h"

namespace sextant::hip::isa {
namespace {

size_t first_active(const Wave& w) { return w.exec() == 0 ? 0 : static_cast<size_t>(__builtin_ctzll(w.exec())); }

bool read_first(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer;
  m.write_scalar(w, in.operands[0], m.read_lanes(w, in.operands[1], 0, buffer)[first_active(w)]);
  return true;
}
bool read_lane(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer;
  const size_t lane = m.read_scalar(w, in.operands[2]) % kLanes;
  m.write_scalar(w, in.operands[0], m.read_lanes(w, in.operands[1], 0, buffer)[lane]);
  return true;
}
bool write_lane(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer;
  Lanes values = m.read_lanes(w, in.operands[0], 0, buffer);
  values[m.read_scalar(w, in.operands[2]) % kLanes] = m.read_scalar(w, in.operands[1]);
  m.write_all_lanes(w, in.operands[0], 0, values);
  return true;
}

// Exchanges the odd groups of `kGroup` lanes of the first register with the even ones of the second.
template <size_t kGroup>
bool swap_groups(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer_a, buffer_b;
  Lanes a = m.read_lanes(w, in.operands[0], 0, buffer_a), b = m.read_lanes(w, in.operands[1], 0, buffer_b);
  for (size_t lane = 0; lane < kLanes; ++lane)
    if (lane / kGroup % 2 == 1) std::swap(a[lane], b[lane - kGroup]);
  m.write_lanes(w, in.operands[0], 0, a);
  m.write_lanes(w, in.operands[1], 0, b);
  return true;
}
bool swap(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer_a, buffer_b;
  const Lanes a = m.read_lanes(w, in.operands[0], 0, buffer_a), b = m.read_lanes(w, in.operands[1], 0, buffer_b);
  m.write_lanes(w, in.operands[0], 0, b);
  m.write_lanes(w, in.operands[1], 0, a);
  return true;
}
// Bits of a mask below this lane, plus an addend.
template <int kFirst>
bool count_below(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer_a, buffer_b, result;
  const Lanes& mask = source(m, w, in, 1, buffer_a);
  const Lanes& addend = source(m, w, in, 2, buffer_b);
  for (int lane = 0; lane < kLanes; ++lane) {
    const int bits = lane - kFirst;
    const uint32_t below = bits <= 0 ? 0 : bits >= 32 ? ~0u : (1u << bits) - 1;
    const auto i = static_cast<size_t>(lane);
    result[i] = static_cast<uint32_t>(__builtin_popcount(mask[i] & below)) + addend[i];
  }
  m.write_lanes(w, in.operands[0], 0, result);
  return true;
}
bool nothing(Machine&, Wave&, const Instruction&) { return true; }

int number(const Instruction& in, const char* name, int otherwise) {
  const auto found = in.modifiers.find(name);
  return found == in.modifiers.end() || found->second.empty() ? otherwise : std::stoi(found->second, nullptr, 0);
}

}  // namespace

int dpp_source(const Instruction& in, int lane) {
  const int row = lane / 16 * 16, place = lane % 16;
  if (const auto quad = in.modifiers.find("quad_perm"); quad != in.modifiers.end())
    return lane / 4 * 4 + (quad->second[1 + 2 * static_cast<size_t>(lane % 4)] - '0');
  if (in.modifiers.count("row_mirror") != 0) return row + 15 - place;
  if (in.modifiers.count("row_half_mirror") != 0) return lane / 8 * 8 + 7 - lane % 8;
  if (const int n = number(in, "row_ror", 0); n != 0) return row + (place + 16 - n) % 16;
  if (const int n = number(in, "row_shr", 0); n != 0) return place >= n ? lane - n : -1;
  if (const int n = number(in, "row_shl", 0); n != 0) return place + n < 16 ? lane + n : -1;
  if (const int n = number(in, "row_newbcast", -1); n >= 0) return row + n;
  if (number(in, "row_bcast", 0) == 15) return row == 0 ? -1 : row - 1;
  if (number(in, "row_bcast", 0) == 31) return lane < 32 ? -1 : 31;
  return lane;
}

const Handlers& lane_handlers() {
  static const Handlers kTable = [] {
    Handlers t;
    t["v_readfirstlane_b32"] = read_first;
    t["v_readlane_b32"] = read_lane;
    t["v_writelane_b32"] = write_lane;
    t["v_permlane32_swap_b32"] = swap_groups<32>;
    t["v_permlane16_swap_b32"] = swap_groups<16>;
    t["v_swap_b32"] = swap;
    t["v_mbcnt_lo_u32_b32"] = count_below<0>;
    t["v_mbcnt_hi_u32_b32"] = count_below<32>;
    t["v_nop"] = nothing;
    return t;
  }();
  return kTable;
}

Handler find_handler(const std::string& name) {
  for (const Handlers* table : {&scalar_handlers(), &arithmetic_handlers(), &conversion_handlers(), &compare_handlers(),
                                &wide_handlers(), &lane_handlers()})
    if (const auto found = table->find(name); found != table->end()) return found->second;
  return name.starts_with("v_mfma") ? matrix_handler(name) : memory_handler(name);
}

}  // namespace sextant::hip::isa
