// The HIP runtime, found when the program runs. These are our own declarations of the public functions that are used,
// so that nothing of ROCm is needed to build, and the program starts on machines without it.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "sextant/status.h"

namespace sextant::hip {

using HipError = int;  // 0: success
using HipStream = void*;
using HipModule = void*;
using HipFunction = void*;

// Values of the runtime's enums; the same in every release from 5.2 on.
constexpr HipError kHipOutOfMemory = 2, kHipNoDevice = 100;
constexpr int kHostToDevice = 1, kDeviceToHost = 2;
constexpr int kAttributeMultiprocessorCount = 63, kAttributeWarpSize = 87;
// Markers of hipModuleLaunchKernel's `extra`: a buffer with the kernel's arguments, and its size.
inline void* const kLaunchBufferPointer = reinterpret_cast<void*>(1);
inline void* const kLaunchBufferSize = reinterpret_cast<void*>(2);
inline void* const kLaunchEnd = reinterpret_cast<void*>(3);

struct HipLibrary {
  std::string path;  // as it was opened
  HipError (*get_device_count)(int*) = nullptr;
  HipError (*set_device)(int) = nullptr;
  HipError (*get_device)(int*) = nullptr;
  HipError (*runtime_get_version)(int*) = nullptr;
  HipError (*device_get_attribute)(int*, int, int) = nullptr;
  HipError (*device_get_name)(char*, int, int) = nullptr;
  HipError (*device_total_mem)(size_t*, int) = nullptr;
  HipError (*get_device_properties)(void*, int) = nullptr;
  HipError (*malloc)(void**, size_t) = nullptr;
  HipError (*free)(void*) = nullptr;
  HipError (*memcpy_async)(void*, const void*, size_t, int, HipStream) = nullptr;
  HipError (*memset_async)(void*, int, size_t, HipStream) = nullptr;
  HipError (*stream_synchronize)(HipStream) = nullptr;
  HipError (*module_load_data)(HipModule*, const void*) = nullptr;
  HipError (*module_unload)(HipModule) = nullptr;
  HipError (*module_get_function)(HipFunction*, HipModule, const char*) = nullptr;
  HipError (*module_launch_kernel)(HipFunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                   HipStream, void**, void**) = nullptr;
  HipError (*get_last_error)() = nullptr;
  const char* (*get_error_string)(HipError) = nullptr;

  // Ok, or a status that names the call and the runtime's own words.
  Status to_status(HipError error, std::string_view what) const;
};

using HipLibraryPtr = std::shared_ptr<const HipLibrary>;

// Where the runtime may be.
std::span<const char* const> hip_library_names();
// The path of a shared library in this process whose file name begins so; empty: none.
std::string find_loaded_library(std::string_view stem);
// The runtime that this process already has, else the first of the names that can be loaded. The library stays loaded:
// unloading it while a GPU is in use is not safe.
Result<HipLibraryPtr> load_hip_library(std::span<const char* const> names = hip_library_names());

}  // namespace sextant::hip
