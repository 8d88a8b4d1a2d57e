// Vector memory and LDS.
#include <algorithm>

#include "hip/isa/lanes.h"

namespace sextant::hip::isa {
namespace {

// Of "..._dwordx4", "..._ushort", "..._b128".
struct Width {
  int bytes = 0;
  bool is_signed = false, low = false, high = false;  // low, high: of a register whose other half stays
};
Width width_of(std::string name) {
  Width width;
  if (name.ends_with("_d16_hi")) {
    width.high = true;
    name.resize(name.size() - 7);
  } else if (name.ends_with("_d16")) {
    width.low = true;
    name.resize(name.size() - 4);
  }
  static const std::unordered_map<std::string, std::pair<int, bool>> kWidths = {
      {"dwordx4", {16, false}}, {"dwordx3", {12, false}}, {"dwordx2", {8, false}}, {"dword", {4, false}},
      {"ushort", {2, false}},   {"sshort", {2, true}},    {"short", {2, false}},   {"ubyte", {1, false}},
      {"sbyte", {1, true}},     {"byte", {1, false}},     {"b128", {16, false}},   {"b96", {12, false}},
      {"b64", {8, false}},      {"b32", {4, false}},      {"b16", {2, false}},     {"b8", {1, false}},
      {"u16", {2, false}},      {"i16", {2, true}},       {"u8", {1, false}},      {"i8", {1, true}}};
  if (const auto found = kWidths.find(name.substr(name.rfind('_') + 1)); found != kWidths.end()) {
    width.bytes = found->second.first;
    width.is_signed = found->second.second;
  }
  return width;
}

using Words = std::array<uint32_t, 4>;
// What was loaded, as the register gets it.
void widen(const Width& width, uint32_t old, uint32_t* word) {
  if (width.is_signed)
    *word = width.bytes == 1 ? static_cast<uint32_t>(static_cast<int8_t>(*word))
                             : static_cast<uint32_t>(static_cast<int16_t>(*word));
  if (width.low) *word = (old & 0xffff0000u) | (*word & 0xffffu);
  if (width.high) *word = (old & 0xffffu) | *word << 16;
}

// ---- addresses -----------------------------------------------------------------------------------------------------

// global: v[a:a+1] + offset, or s[b:b+1] + v[a] + offset.
struct GlobalAddress {
  std::array<uint64_t, kLanes> at{};
  std::array<int, kLanes> inside{};  // bytes from there that may be touched
};
size_t touched(const GlobalAddress& address, size_t lane, int bytes) {
  return static_cast<size_t>(std::min(bytes, address.inside[lane]));
}
GlobalAddress global_address(Machine& m, Wave& w, const Instruction& in, const Operand& vector, const Operand& base) {
  GlobalAddress address;
  address.inside.fill(16);
  if (base.kind == Operand::Kind::kOff) {
    address.at = read_wide(m, w, vector);
  } else {
    Lanes buffer;
    const Lanes& offsets = m.read_lanes(w, vector, 0, buffer);
    const uint64_t start = m.read_scalar64(w, base);
    for (size_t lane = 0; lane < kLanes; ++lane) address.at[lane] = start + offsets[lane];
  }
  for (uint64_t& at : address.at) at += static_cast<uint64_t>(int64_t{in.offset});
  return address;
}
// buffer: a resource of four scalars (base, stride, bytes, format), a scalar offset, and v's with offen. Bytes outside
// are zero, and are not written.
GlobalAddress buffer_address(Machine& m, Wave& w, const Instruction& in, const Operand& vector, const Operand& resource,
                             const Operand& scalar, int bytes) {
  GlobalAddress address;
  const uint64_t base = m.read_scalar64(w, resource) & 0xffffffffffffu;
  const uint64_t size = m.read_scalar(w, resource, 2), fixed = m.read_scalar(w, scalar);
  Lanes buffer{};
  const Lanes& offsets = vector.kind == Operand::Kind::kVector ? m.read_lanes(w, vector, 0, buffer) : buffer;
  const bool uses_vector = in.modifiers.count("offen") != 0;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    const uint64_t offset = (uses_vector ? offsets[lane] : 0) + static_cast<uint64_t>(in.offset);
    // Each dword is inside or outside.
    const uint64_t limit = size > fixed ? size - fixed : 0, left = offset < limit ? limit - offset : 0;
    address.inside[lane] = left >= 16 ? 16 : bytes < 4 ? static_cast<int>(left) : static_cast<int>(left / 4 * 4);
    address.at[lane] = base + fixed + offset;
  }
  return address;
}

// ---- vector memory -------------------------------------------------------------------------------------------------

// To LDS: a wave's lanes side by side from m0 on.
bool load_to_lds(Machine& m, Wave& w, const Instruction& in, const GlobalAddress& address, int bytes) {
  const int number = m.lds().begin_access(w.index, LdsQueue::kVectorMemory);
  const uint32_t begin = (w.s[kM0] & 0x3ffffu) + static_cast<uint32_t>(in.offset);
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!w.is_active(lane)) continue;
    Words words{};
    const auto i = static_cast<size_t>(lane);
    std::memcpy(words.data(), reinterpret_cast<const void*>(address.at[i]), touched(address, i, bytes));
    const int stored = bytes < 4 ? 4 : bytes;
    const std::string fault =
        m.lds().write(w.index, LdsQueue::kVectorMemory, number, begin + static_cast<uint32_t>(lane * stored),
                      static_cast<uint32_t>(stored), words.data());
    if (!fault.empty()) m.fail(w, fault);
  }
  m.issue(w, true, {.is_scalar = false, .destination = {}, .lds_number = number});
  return true;
}

bool load(Machine& m, Wave& w, const Instruction& in, const GlobalAddress& address, const Width& width) {
  if (in.to_lds) return load_to_lds(m, w, in, address, width.bytes);
  std::array<Lanes, 4> loaded;
  const int words = (width.bytes + 3) / 4;
  Lanes buffer{};
  const Lanes old = width.low || width.high ? m.read_lanes(w, in.operands[0], 0, buffer) : buffer;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    if (!w.is_active(static_cast<int>(lane))) continue;
    Words one{};
    std::memcpy(one.data(), reinterpret_cast<const void*>(address.at[lane]), touched(address, lane, width.bytes));
    widen(width, old[lane], one.data());
    for (size_t i = 0; i < static_cast<size_t>(words); ++i) loaded[i][lane] = one[i];
  }
  for (int i = 0; i < words; ++i) m.write_loaded(w, in.operands[0], i, loaded[static_cast<size_t>(i)], true);
  m.issue(w, true, {.destination = in.operands[0]});
  return true;
}

bool store(Machine& m, Wave& w, const GlobalAddress& address, const Width& width, const Operand& data) {
  Lanes buffers[4];
  const Lanes* words[4] = {};
  for (int i = 0; i < (width.bytes + 3) / 4; ++i) words[i] = &m.read_lanes(w, data, i, buffers[static_cast<size_t>(i)]);
  for (size_t lane = 0; lane < kLanes; ++lane) {
    if (!w.is_active(static_cast<int>(lane)) || m.discards_stores()) continue;
    Words one{};
    for (size_t i = 0; i < 4 && words[i] != nullptr; ++i) one[i] = (*words[i])[lane] >> (width.high ? 16 : 0);
    std::memcpy(reinterpret_cast<void*>(address.at[lane]), one.data(), touched(address, lane, width.bytes));
  }
  m.issue(w, true, {});
  return true;
}

bool access_global(Machine& m, Wave& w, const Instruction& in) {
  const auto& op = in.operands;
  const Width width = width_of(in.name);
  const bool stores = in.name.starts_with("global_store");
  if (width.bytes == 0) return false;
  const size_t vector = stores || in.to_lds ? 0 : 1, base = in.to_lds ? 1 : 2;
  const GlobalAddress address = global_address(m, w, in, op[vector], op[base]);
  return stores ? store(m, w, address, width, op[1]) : load(m, w, in, address, width);
}
bool access_buffer(Machine& m, Wave& w, const Instruction& in) {
  const auto& op = in.operands;
  const Width width = width_of(in.name);
  const size_t first = in.to_lds ? 0 : 1;  // vector offset, resource, scalar offset
  if (width.bytes == 0 || op.size() != first + 3) return false;
  const GlobalAddress address = buffer_address(m, w, in, op[first], op[first + 1], op[first + 2], width.bytes);
  return in.name.starts_with("buffer_store") ? store(m, w, address, width, op[0]) : load(m, w, in, address, width);
}

// ---- LDS -----------------------------------------------------------------------------------------------------------

bool permute(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer_a, buffer_b, result{};
  const Lanes& from = m.read_lanes(w, in.operands[1], 0, buffer_a);
  const Lanes& data = m.read_lanes(w, in.operands[2], 0, buffer_b);
  for (size_t lane = 0; lane < kLanes; ++lane) {
    const int other = static_cast<int>((from[lane] + static_cast<uint32_t>(in.offset)) / 4 % kLanes);
    result[lane] = w.is_active(other) ? data[static_cast<size_t>(other)] : 0;
  }
  m.write_lanes(w, in.operands[0], 0, result);
  m.issue(w, false, {.destination = in.operands[0]});
  return true;
}

struct LdsShape {
  Width width;
  int accesses = 1;
  int stride = 0;  // bytes that offset0, offset1 count; 0: `offset`
};
LdsShape lds_shape(const std::string& name) {
  LdsShape shape{width_of(name)};
  const bool two = name.find("read2") != std::string::npos || name.find("write2") != std::string::npos;
  if (!two) return shape;
  shape.accesses = 2;
  shape.stride = shape.width.bytes * (name.find("2st64") != std::string::npos ? 64 : 1);
  return shape;
}
uint32_t lds_offset(const Instruction& in, const LdsShape& shape, int access) {
  return static_cast<uint32_t>(shape.stride == 0 ? in.offset : (access == 0 ? in.offset0 : in.offset1) * shape.stride);
}

bool read_local(Machine& m, Wave& w, const Instruction& in) {
  const LdsShape shape = lds_shape(in.name);
  if (shape.width.bytes == 0) return false;
  Lanes buffer, old_buffer{};
  const Lanes& base = m.read_lanes(w, in.operands[1], 0, buffer);
  const bool keeps = shape.width.low || shape.width.high;
  const Lanes old = keeps ? m.read_lanes(w, in.operands[0], 0, old_buffer) : old_buffer;
  const int number = m.lds().begin_access(w.index, LdsQueue::kLocal);
  const int words = (shape.width.bytes + 3) / 4;
  std::array<Lanes, 8> loaded;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    if (!w.is_active(static_cast<int>(lane))) continue;
    for (int a = 0; a < shape.accesses; ++a) {
      Words one{};
      const std::string fault = m.lds().read(w.index, number, base[lane] + lds_offset(in, shape, a),
                                             static_cast<uint32_t>(shape.width.bytes), one.data());
      if (!fault.empty()) m.fail(w, fault);
      widen(shape.width, old[lane], one.data());
      for (int i = 0; i < words; ++i)
        loaded[static_cast<size_t>(a) * static_cast<size_t>(words) + static_cast<size_t>(i)][lane] =
            one[static_cast<size_t>(i)];
    }
  }
  for (int i = 0; i < shape.accesses * words; ++i)
    m.write_loaded(w, in.operands[0], i, loaded[static_cast<size_t>(i)], false);
  m.issue(w, false, {.destination = in.operands[0], .lds_number = number});
  return true;
}

// gfx950: of 16 lanes that each address four 16-bit elements, four lanes hold a row of 16; lane i gets column i.
bool read_transposed(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer;
  const Lanes& base = m.read_lanes(w, in.operands[1], 0, buffer);
  const int number = m.lds().begin_access(w.index, LdsQueue::kLocal);
  std::array<std::array<uint16_t, 4>, kLanes> raw{};
  for (size_t lane = 0; lane < kLanes; ++lane) {
    if (!w.is_active(static_cast<int>(lane))) continue;
    const std::string fault =
        m.lds().read(w.index, number, base[lane] + static_cast<uint32_t>(in.offset), 8, raw[lane].data());
    if (!fault.empty()) m.fail(w, fault);
  }
  Lanes low, high;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    const size_t group = lane / 16 * 16, column = lane % 16;
    const auto row = [&](size_t r) { return uint32_t{raw[group + 4 * r + column / 4][column % 4]}; };
    low[lane] = row(0) | row(1) << 16;
    high[lane] = row(2) | row(3) << 16;
  }
  m.write_loaded(w, in.operands[0], 0, low, false);
  m.write_loaded(w, in.operands[0], 1, high, false);
  m.issue(w, false, {.destination = in.operands[0], .lds_number = number});
  return true;
}

bool write_local(Machine& m, Wave& w, const Instruction& in) {
  const LdsShape shape = lds_shape(in.name);
  if (shape.width.bytes == 0) return false;
  Lanes buffer;
  const Lanes& base = m.read_lanes(w, in.operands[0], 0, buffer);
  const int number = m.lds().begin_access(w.index, LdsQueue::kLocal);
  for (int a = 0; a < shape.accesses; ++a) {
    Lanes buffers[4];
    const Lanes* words[4] = {};
    for (int i = 0; i < (shape.width.bytes + 3) / 4; ++i)
      words[i] = &m.read_lanes(w, in.operands[static_cast<size_t>(1) + static_cast<size_t>(a)], i,
                               buffers[static_cast<size_t>(i)]);
    for (size_t lane = 0; lane < kLanes; ++lane) {
      if (!w.is_active(static_cast<int>(lane))) continue;
      Words one{};
      for (size_t i = 0; i < 4 && words[i] != nullptr; ++i) one[i] = (*words[i])[lane] >> (shape.width.high ? 16 : 0);
      const std::string fault = m.lds().write(w.index, LdsQueue::kLocal, number, base[lane] + lds_offset(in, shape, a),
                                              static_cast<uint32_t>(shape.width.bytes), one.data());
      if (!fault.empty()) m.fail(w, fault);
    }
  }
  m.issue(w, false, {.is_scalar = false, .destination = {}, .lds_number = number});
  return true;
}

}  // namespace

Handler memory_handler(const std::string& name) {
  if (name.starts_with("global_load") || name.starts_with("global_store")) return access_global;
  if (name.starts_with("buffer_load") || name.starts_with("buffer_store")) return access_buffer;
  if (name == "ds_bpermute_b32") return permute;
  if (name == "ds_read_b64_tr_b16") return read_transposed;
  if (name.starts_with("ds_read")) return read_local;
  if (name.starts_with("ds_write")) return write_local;
  return nullptr;
}

}  // namespace sextant::hip::isa
