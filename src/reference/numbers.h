// Number formats read and written through double, straight from their definitions and independent of any kernel.
// For the oracle, the tests and the tools; slow on purpose.
#pragma once

#include <cstdint>

#include "sextant/types.h"

namespace sextant::reference {

// Element `index` of an array of `dtype`, exactly.
double load(DType dtype, const void* data, int64_t index);

// Rounds to nearest, ties to even. fp8 saturates at the largest finite value; fp16, bf16 and fp32 overflow to infinity.
void store(DType dtype, void* data, int64_t index, double value);

// Largest finite value of a format.
double max_finite(DType dtype);

// One unit in the last place of a number near 1: 2^-mantissa_bits.
double epsilon(DType dtype);

}  // namespace sextant::reference
