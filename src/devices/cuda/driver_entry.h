// Entries of the driver, found at run time: nothing links against libcuda.
#pragma once

#include <cuda_runtime.h>

namespace sextant::cuda {

// Null where the driver has none.
template <class Function>
Function find_driver_entry(const char* name) {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  if (cudaGetDriverEntryPointByVersion(name, &entry, 12000, cudaEnableDefault, &found) == cudaSuccess &&
      found == cudaDriverEntryPointSuccess)
    return reinterpret_cast<Function>(entry);
  cudaGetLastError();
  return nullptr;
}

}  // namespace sextant::cuda
