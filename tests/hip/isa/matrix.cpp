// The matrix instructions, from AMD's description of their operands, not from the emulator's code: of a block M x N x
// K, 64 / M groups of M lanes hold A, each K * M / 64 consecutive k's of its row; B alike by columns; a lane holds
// column lane % N of D, four rows at a time, each group of lanes four rows further. Products are summed in double
// precision and rounded once: what order the hardware adds in is not published.
#include <cstdio>
#include <vector>

#include "hip/isa/lanes.h"

namespace sextant::hip::isa {
namespace {

enum class Input : uint8_t { kF32, kF16, kBF16, kFp8 };

struct Shape {
  int m = 0, n = 0, k = 0;
  Input input = Input::kF32;
  bool valid = false;
};

Shape parse(const std::string& name) {
  Shape s;
  char type[32] = {};
  if (std::sscanf(name.c_str(), "v_mfma_f32_%dx%dx%d%31s", &s.m, &s.n, &s.k, type) != 4) return s;
  std::string_view kind = type;
  if (kind.front() == '_') kind.remove_prefix(1);
  s.valid = s.m == s.n && (s.m == 16 || s.m == 32) && s.k >= 2 && s.k <= 32;
  if (kind == "f32") {
    s.input = Input::kF32;
    s.valid = s.valid && s.m * s.k == 64;
  } else if (kind == "f16") {
    s.input = Input::kF16;
  } else if (kind == "bf16" || kind == "bf16_1k") {
    s.input = Input::kBF16;
  } else if (kind == "fp8_fp8") {
    s.input = Input::kFp8;
  } else {
    s.valid = false;
  }
  // Other K have several blocks or two k's a lane of another layout.
  if (s.input == Input::kF16 || s.input == Input::kBF16) s.valid = s.valid && (s.m * s.k == 256 || s.m * s.k == 512);
  if (s.input == Input::kFp8) s.valid = s.valid && s.m * s.k == 512;
  return s;
}

float flushed(float x, float least) { return x < least && x > -least ? 0.0f : x; }

float element(const Program& p, Input input, const Lanes* const* words, size_t lane, int e) {
  if (input == Input::kF32) return as_float((*words[e])[lane]);
  if (input == Input::kFp8) return fp8_to_float(p, (*words[e / 4])[lane] >> (8 * (e % 4)) & 0xffu);
  const uint32_t bits = (*words[e / 2])[lane] >> (16 * (e % 2)) & 0xffffu;
  const float x = input == Input::kF16 ? half_to_float(bits) : bf16_to_float(bits);
  // MI200 takes subnormal inputs of 16 bits for zero.
  return p.is_gfx90a() ? flushed(x, input == Input::kF16 ? 0x1p-14f : 0x1p-126f) : x;
}

// [side][k], row or column by lane.
void gather(Machine& m, Wave& w, const Shape& s, const Operand& operand, std::vector<float>& matrix) {
  Lanes buffers[4];
  const Lanes* words[4] = {};
  for (int i = 0; i < operand.count && i < 4; ++i)
    words[i] = &m.read_lanes(w, operand, i, buffers[static_cast<size_t>(i)]);
  const int elements = s.m * s.k / kLanes;
  matrix.resize(static_cast<size_t>(s.m) * static_cast<size_t>(s.k));
  for (int lane = 0; lane < kLanes; ++lane)
    for (int e = 0; e < elements; ++e) {
      const int k = elements * (lane / s.m) + e;
      matrix[static_cast<size_t>(lane % s.m) * static_cast<size_t>(s.k) + static_cast<size_t>(k)] =
          element(m.program(), s.input, words, static_cast<size_t>(lane), e);
    }
}

bool multiply(Machine& m, Wave& w, const Instruction& in) {
  const Shape s = parse(in.name);
  if (!s.valid || in.modifiers.count("cbsz") != 0 || in.modifiers.count("blgp") != 0) return false;
  static thread_local std::vector<float> a, b;
  gather(m, w, s, in.operands[1], a);
  gather(m, w, s, in.operands[2], b);
  const int results = s.m * s.n / kLanes, groups = kLanes / s.n;
  std::array<Lanes, 16> d;
  for (int r = 0; r < results; ++r) {
    Lanes buffer;
    const bool constant = in.operands[3].kind == Operand::Kind::kConstant;
    const Lanes& c = m.read_lanes(w, in.operands[3], constant ? 0 : r, buffer);
    for (int lane = 0; lane < kLanes; ++lane) {  // the execution mask is ignored, as on the machine
      const int row = r / 4 * 4 * groups + 4 * (lane / s.n) + r % 4, column = lane % s.n;
      const float* x = &a[static_cast<size_t>(row) * static_cast<size_t>(s.k)];
      const float* y = &b[static_cast<size_t>(column) * static_cast<size_t>(s.k)];
      double sum = static_cast<double>(as_float(c[static_cast<size_t>(lane)]));
      for (int k = 0; k < s.k; ++k) sum += static_cast<double>(x[k]) * static_cast<double>(y[k]);
      auto rounded = static_cast<float>(sum);
      if (m.program().is_gfx90a() && s.input != Input::kF32) rounded = flushed(rounded, 0x1p-126f);
      d[static_cast<size_t>(r)][static_cast<size_t>(lane)] = as_bits(rounded);
    }
  }
  for (int r = 0; r < results; ++r) m.write_all_lanes(w, in.operands[0], r, d[static_cast<size_t>(r)]);
  return true;
}

}  // namespace

Handler matrix_handler(const std::string& name) { return parse(name).valid ? multiply : nullptr; }

}  // namespace sextant::hip::isa
