// A second stream beside the caller's, for two kernels of one op that need not wait for each other.
#pragma once

#include <cuda_runtime.h>

namespace sextant::cuda {

// Fork and join by events, so that a capture of the caller's stream takes both branches. One for each host thread and
// device: two threads never share the events.
class SideStream {
 public:
  // Of the current device; made when a thread first asks. Its error() tells when that failed.
  static SideStream& of_this_thread();

  cudaStream_t stream() const { return stream_; }
  cudaError_t error() const { return error_; }
  cudaError_t fork(cudaStream_t main);  // what goes to stream() from now on comes after all that `main` holds
  cudaError_t join(cudaStream_t main);  // what goes to `main` from now on comes after all that stream() holds

  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;

 private:
  SideStream();

  cudaStream_t stream_ = nullptr;
  cudaEvent_t forked_ = nullptr, joined_ = nullptr;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace sextant::cuda
