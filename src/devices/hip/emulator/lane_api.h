// What an emulated lane asks of the emulator (see workgroup.h). Included by kernels through kernels/lane.h.
#pragma once

#include <cstdint>

// Vectors of 64 bytes in and out of inline functions: no ABI is crossed.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace sextant::hip::emulator {

constexpr int kSharedBytes =
    160 * 1024;  // LDS of a workgroup on gfx950; scripts/amd_table.py holds others to their 64 KiB

// What kernels see of the chip.
struct EmulatedChip {
  bool wide_mfma = false;  // gfx950's 16x16x32 and 32x32x16 shapes
  bool ocp_fp8 = false;    // the chip's own fp8 is OCP's e4m3fn, not e4m3fnuz
};

struct LaneState {
  int thread = 0, block = 0;
  char* shared = nullptr;
  EmulatedChip chip;
};
// The lane that runs on this OS thread now.
extern constinit thread_local LaneState current_lane;
inline const LaneState& lane() { return current_lane; }

// Matrix shapes by type and k extent; 16 rows and 16 columns, tall ones 32 and 32.
enum class MfmaShape : uint8_t {
  kBf16x16,
  kF16x16,
  kBf16x32,
  kF16x32,
  kF32x4,
  kBf16x8Tall,
  kF16x8Tall,
  kBf16x16Tall,
  kF16x16Tall
};

void barrier();    // all lanes of the workgroup
void wave_sync();  // all lanes of the wave
int shuffle(int x, int lane);
uint64_t ballot(bool x);
// Four 16-bit elements at `from`, transposed among 16 lanes: see read_transposed in kernels/lane_memory.h.
uint64_t transpose(const void* from);
// `d` holds C and receives D.
void multiply_wave(MfmaShape shape, const void* a, const void* b, float* d);

template <class D, class Operand>
inline D mfma(MfmaShape shape, const Operand& a, const Operand& b, D c) {
  multiply_wave(shape, &a, &b, reinterpret_cast<float*>(&c));
  return c;
}

float half_to_float(uint16_t x);
uint16_t float_to_half(float x);
uint16_t cut_to_half(float x);  // rounded towards zero

}  // namespace sextant::hip::emulator
