// Matrix products by a library where the process has one. Without one, and for what it does not serve, the device's own
// kernel does them.
#pragma once

#include "sextant/ops.h"

namespace sextant::hip {

class MatrixProducts {
 public:
  virtual ~MatrixProducts() = default;
  // False: not served, nothing was launched.
  virtual Result<bool> multiply(const GemmArgs& args, Stream stream) = 0;
};

}  // namespace sextant::hip
