// What the device could do at most, measured here and now.
#pragma once

#include <string>

#include "arguments.h"

namespace sextant::cli {

struct Ceilings {
  double tflops = 0;  // of the fastest matrix products in the dtype
  double gbs = 0;     // reading memory
  std::string matrix_unit;
  std::string note;  // when not measured: why
};

Ceilings measure_ceilings(Device& device, DType dtype);
Json to_json(const Ceilings& ceilings);

}  // namespace sextant::cli
