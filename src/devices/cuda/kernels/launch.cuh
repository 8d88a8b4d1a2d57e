// Launches that may overlap the kernel before them in the stream (programmatic dependent launch, sm_90).
#pragma once

#include <cuda_runtime.h>

namespace sextant::cuda {

// With `overlap` the kernel's blocks start once all blocks of the kernel before it have called launch_dependents() or
// ended; each block must then call wait_for_previous_kernel() before it reads that kernel's results, at its end at the
// latest, so that what follows comes after both.
template <class... Parameters, class... Arguments>
cudaError_t launch_after(void (*kernel)(Parameters...), dim3 grid, int threads, bool overlap, cudaStream_t stream,
                         Arguments... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace sextant::cuda
