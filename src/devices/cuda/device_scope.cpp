#include "devices/cuda/device_scope.h"

#include <cuda_runtime.h>

#include "devices/cuda/cuda_status.h"

namespace sextant::cuda {
namespace {

// The driver's entries, found at run time: nothing links against libcuda. The runtime's cudaGetDevice alone would not
// do: for a thread without a device it names GPU 0, and setting that one again would make a context there.
template <class Function>
Function find_entry(const char* name) {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  if (cudaGetDriverEntryPointByVersion(name, &entry, 12000, cudaEnableDefault, &found) == cudaSuccess &&
      found == cudaDriverEntryPointSuccess)
    return reinterpret_cast<Function>(entry);
  cudaGetLastError();
  return nullptr;
}

decltype(&cuCtxGetCurrent) get_current() {
  static const auto entry = find_entry<decltype(&cuCtxGetCurrent)>("cuCtxGetCurrent");
  return entry;
}

decltype(&cuCtxSetCurrent) set_current() {
  static const auto entry = find_entry<decltype(&cuCtxSetCurrent)>("cuCtxSetCurrent");
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
