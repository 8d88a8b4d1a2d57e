// A matrix product for what cuBLASLt takes not: operands whose rows are not aligned.
#pragma once

#include <cuda_runtime.h>

#include "sextant/types.h"

namespace sextant::cuda {

// c[i] = a[i] b[i]; strides in elements, of the three dimensions of each view.
struct PlainGemm {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  DType type = DType::kF32, c_type = DType::kF32;
  int64_t batch = 0, m = 0, n = 0, k = 0;
  int64_t a_stride[3] = {}, b_stride[3] = {}, c_stride[3] = {};
};

cudaError_t launch_plain_gemm(const PlainGemm& g, cudaStream_t stream);

}  // namespace sextant::cuda
