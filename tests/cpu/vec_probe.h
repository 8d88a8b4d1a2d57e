// The vector functions of one ISA, callable from tests that are compiled without its flags.
#pragma once

#include <cstdint>
#include <vector>

#include "sextant/types.h"

namespace sextant::testing {

struct VecProbe {
  const char* isa;
  int lanes;
  // Arrays of any length.
  void (*exp2)(int degree, const float* x, float* y, int64_t n);
  void (*tanh)(int degree, const float* x, float* y, int64_t n);
  void (*widen_fp8)(DType dtype, const uint8_t* codes, uint16_t* bf16, int64_t n);
  // x [lanes * lanes] -> sum of each group of `lanes`; order of two loads of 2 * lanes bf16 elements.
  void (*reduce_lanes)(const float* x, float* sums);
  void (*load_two_bf16)(const uint16_t* x, float* two);
};

const VecProbe& scalar_probe();
const VecProbe& avx2_probe();
const VecProbe& avx512_probe();
const VecProbe& avx512_bf16_probe();

}  // namespace sextant::testing
