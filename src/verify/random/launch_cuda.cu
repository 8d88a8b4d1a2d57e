// The judge's steps on a GPU: a thread an index.
#include <algorithm>

#include "verify/random/launch.h"

namespace sextant::verify {
namespace {

template <class Step>
__global__ void run_step(int64_t count, Step step) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    step(i);
}

}  // namespace

template <class Step>
Status launch_on_cuda(int64_t count, const Step& step) {
  constexpr int kThreads = 128;
  const int64_t blocks = std::min<int64_t>((count + kThreads - 1) / kThreads, 1 << 20);
  run_step<<<static_cast<unsigned>(blocks), kThreads>>>(count, step);
  cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
  if (error == cudaSuccess) return Status::ok();
  return Status(StatusCode::kInternal, std::string("the judge's step failed: ") + cudaGetErrorString(error));
}

#define SEXTANT_INSTANTIATE(Step) template Status launch_on_cuda<Step>(int64_t, const Step&);
SEXTANT_FOR_EACH_STEP(SEXTANT_INSTANTIATE)

}  // namespace sextant::verify
