// What the vector instructions are written with: sources with their modifiers, results under the execution mask.
#pragma once

#include <cstring>
#include <unordered_map>

#include "hip/isa/machine.h"

namespace sextant::hip::isa {

using Handlers = std::unordered_map<std::string, Handler>;
// One table a file.
const Handlers& scalar_handlers();
const Handlers& arithmetic_handlers();
const Handlers& conversion_handlers();
const Handlers& compare_handlers();
const Handlers& wide_handlers();
const Handlers& lane_handlers();
Handler matrix_handler(const std::string& name);
Handler memory_handler(const std::string& name);

inline float as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline uint32_t as_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline int32_t as_signed(uint32_t x) { return static_cast<int32_t>(x); }

inline uint32_t select_part(uint32_t x, Part part, bool sign_extend) {
  switch (part) {
    case Part::kWord0:
      return sign_extend ? static_cast<uint32_t>(static_cast<int16_t>(x)) : x & 0xffffu;
    case Part::kWord1:
      return sign_extend ? static_cast<uint32_t>(static_cast<int16_t>(x >> 16)) : x >> 16;
    case Part::kDword:
      return x;
    default: {
      const uint32_t byte = x >> (8 * (static_cast<int>(part) - static_cast<int>(Part::kByte0))) & 0xffu;
      return sign_extend ? static_cast<uint32_t>(static_cast<int8_t>(byte)) : byte;
    }
  }
}

// The lane that a dpp control takes the first source from; -1: none.
int dpp_source(const Instruction& in, int lane);

// Operand i (1 is the first source): the selected part, from the lane that dpp says, with its signs changed.
inline const Lanes& source(Machine& m, Wave& w, const Instruction& in, size_t i, Lanes& buffer) {
  const Operand& operand = in.operands[i];
  const Part part = i == 1 || i == 2 ? in.source_part[i - 1] : Part::kDword;
  const bool moves = in.dpp && i == 1;
  const Lanes& raw = m.read_lanes(w, operand, 0, buffer);
  if (part == Part::kDword && !moves && !operand.absolute && !operand.negate) return raw;
  Lanes from = raw;
  if (moves)
    for (int lane = 0; lane < kLanes; ++lane) {
      const int source_lane = dpp_source(in, lane);
      from[static_cast<size_t>(lane)] = source_lane < 0 ? 0 : raw[static_cast<size_t>(source_lane)];
    }
  // Of half floats the sign bit is bit 15.
  const uint32_t sign =
      in.name.ends_with("_f16") || part == Part::kWord0 || part == Part::kWord1 ? 0x8000u : 0x80000000u;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    uint32_t x = select_part(from[lane], part, operand.sign_extend);
    if (operand.absolute) x &= ~sign;
    if (operand.negate) x ^= sign;
    buffer[lane] = x;
  }
  return buffer;
}

inline void put(Machine& m, Wave& w, const Instruction& in, const Lanes& values) {
  if (in.result_part == Part::kDword) {
    m.write_lanes(w, in.operands[0], 0, values);
    return;
  }
  const bool word = in.result_part == Part::kWord0 || in.result_part == Part::kWord1;
  const int shift = word ? (in.result_part == Part::kWord1 ? 16 : 0)
                         : 8 * (static_cast<int>(in.result_part) - static_cast<int>(Part::kByte0));
  const uint32_t mask = (word ? 0xffffu : 0xffu) << shift;
  Lanes old_buffer, result;
  const Lanes& old = m.read_lanes(w, in.operands[0], 0, old_buffer);
  for (size_t lane = 0; lane < kLanes; ++lane)
    result[lane] = (values[lane] << shift & mask) | (in.preserves ? old[lane] & ~mask : 0);
  m.write_lanes(w, in.operands[0], 0, result);
}

template <auto kFunction>
bool unary(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer, result;
  const Lanes& a = source(m, w, in, 1, buffer);
  for (size_t lane = 0; lane < kLanes; ++lane) result[lane] = kFunction(a[lane]);
  put(m, w, in, result);
  return !in.clamp;
}
template <auto kFunction>
bool binary(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer_a, buffer_b, result;
  const Lanes& a = source(m, w, in, 1, buffer_a);
  const Lanes& b = source(m, w, in, 2, buffer_b);
  for (size_t lane = 0; lane < kLanes; ++lane) result[lane] = kFunction(a[lane], b[lane]);
  put(m, w, in, result);
  return !in.clamp;
}
template <auto kFunction>
bool ternary(Machine& m, Wave& w, const Instruction& in) {
  Lanes buffer_a, buffer_b, buffer_c, result;
  const Lanes& a = source(m, w, in, 1, buffer_a);
  const Lanes& b = source(m, w, in, 2, buffer_b);
  const Lanes& c = source(m, w, in, 3, buffer_c);
  for (size_t lane = 0; lane < kLanes; ++lane) result[lane] = kFunction(a[lane], b[lane], c[lane]);
  put(m, w, in, result);
  return !in.clamp;
}

// 64-bit sources and results.
using WideLanes = std::array<uint64_t, kLanes>;
inline WideLanes read_wide(Machine& m, Wave& w, const Operand& operand) {
  Lanes low_buffer, high_buffer;
  const Lanes& low = m.read_lanes(w, operand, 0, low_buffer);
  const Lanes& high = m.read_lanes(w, operand, 1, high_buffer);
  WideLanes both;
  for (size_t lane = 0; lane < kLanes; ++lane) both[lane] = low[lane] | static_cast<uint64_t>(high[lane]) << 32;
  return both;
}
inline void write_wide(Machine& m, Wave& w, const Operand& operand, const WideLanes& values) {
  Lanes low, high;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    low[lane] = static_cast<uint32_t>(values[lane]);
    high[lane] = static_cast<uint32_t>(values[lane] >> 32);
  }
  m.write_lanes(w, operand, 0, low);
  m.write_lanes(w, operand, 1, high);
}

// Numbers of 16 and 8 bits, by the reference's rules.
float half_to_float(uint32_t x);
uint32_t float_to_half(float x);
float bf16_to_float(uint32_t x);
uint32_t float_to_bf16(float x);
float fp8_to_float(const Program& program, uint32_t x);  // in the chip's own format
uint32_t float_to_fp8(const Program& program, float x);

}  // namespace sextant::hip::isa
