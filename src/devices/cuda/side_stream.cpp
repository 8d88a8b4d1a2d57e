#include "devices/cuda/side_stream.h"

#include <map>

namespace sextant::cuda {

SideStream::SideStream() {
  error_ = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
  for (cudaEvent_t* event : {&forked_, &joined_})
    if (error_ == cudaSuccess) error_ = cudaEventCreateWithFlags(event, cudaEventDisableTiming);
}

// Never destroyed: at a thread's end the driver may be gone already, and a process has few threads that launch.
SideStream& SideStream::of_this_thread() {
  thread_local std::map<int, SideStream*> streams;
  int device = 0;
  cudaGetDevice(&device);
  SideStream*& stream = streams[device];
  if (stream == nullptr) stream = new SideStream();
  return *stream;
}

cudaError_t SideStream::fork(cudaStream_t main) {
  const cudaError_t error = cudaEventRecord(forked_, main);
  return error != cudaSuccess ? error : cudaStreamWaitEvent(stream_, forked_, 0);
}
cudaError_t SideStream::join(cudaStream_t main) {
  const cudaError_t error = cudaEventRecord(joined_, stream_);
  return error != cudaSuccess ? error : cudaStreamWaitEvent(main, joined_, 0);
}

}  // namespace sextant::cuda
