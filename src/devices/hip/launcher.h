// How kernels are started: by the HIP runtime on a GPU, or by the emulator on the CPU. Plans and ops know no more.
#pragma once

#include <cstdint>
#include <string_view>

#include "devices/hip/kernels/params.h"
#include "sextant/ops.h"

namespace sextant::hip {

// What planning needs to know of the chip.
struct ChipLimits {
  int compute_units = 1;
  int num_xcds = 1;  // chiplets that take workgroups in turns
  DType native_fp8 = DType::kF8E4M3FN;
};

class Launcher {
 public:
  virtual ~Launcher() = default;
  // `params` is the kernel's one argument, copied before this returns.
  virtual Status launch(std::string_view kernel, int64_t workgroups, int threads, const void* params, size_t bytes,
                        Stream stream) = 0;

  template <class Params>
  Status launch(std::string_view kernel, int64_t workgroups, const Params& params, Stream stream, int threads = 256) {
    if (workgroups == 0) return Status::ok();
    return launch(kernel, workgroups, threads, &params, sizeof(params), stream);
  }
};

Format to_format(DType dtype);
// The scales of a cache with one a token and head; none for others.
inline TokenScales token_scales(const KvCacheView& cache, const float* scales) {
  if (!cache.spec.has_token_scales()) return {};
  return {const_cast<float*>(scales), cache.scale_strides.block, cache.scale_strides.token, cache.scale_strides.head};
}

}  // namespace sextant::hip
