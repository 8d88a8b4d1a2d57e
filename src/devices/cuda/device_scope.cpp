// Switches the current device of the thread, and back.
#include "devices/cuda/device_scope.h"

#include "devices/cuda/cuda_status.h"
#include "devices/cuda/driver_entry.h"

namespace sextant::cuda {
namespace {

// The runtime's cudaGetDevice alone would not do: for a thread without a device it names GPU 0, and setting that one
// again would make a context there.
decltype(&cuCtxGetCurrent) get_current() {
  static const auto entry = find_driver_entry<decltype(&cuCtxGetCurrent)>("cuCtxGetCurrent");
  return entry;
}

decltype(&cuCtxSetCurrent) set_current() {
  static const auto entry = find_driver_entry<decltype(&cuCtxSetCurrent)>("cuCtxSetCurrent");
  return entry;
}

}  // namespace

DeviceScope::DeviceScope(int index) {
  const bool known = get_current() != nullptr && set_current() != nullptr && get_current()(&caller_) == CUDA_SUCCESS;
  int current = -1;
  if (caller_ != nullptr && cudaGetDevice(&current) == cudaSuccess && current == index) return;
  changed_ = known && caller_ != nullptr;  // a thread without a device keeps this one: nothing of the caller's is lost
  status_ = to_status(cudaSetDevice(index), "cudaSetDevice");
}

DeviceScope::~DeviceScope() {
  if (changed_) set_current()(caller_);
}

}  // namespace sextant::cuda
