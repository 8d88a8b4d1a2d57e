// Our own declarations of the HIP runtime against ROCm's headers, where those are.
#if __has_include(<hip/hip_runtime_api.h>)
#ifndef __HIP_PLATFORM_AMD__
#define __HIP_PLATFORM_AMD__ 1
#endif
#include <hip/hip_runtime_api.h>

#include <type_traits>

#include "devices/hip/runtime/hip_library.h"

namespace sextant::hip {
namespace {

// The runtime's enums are ints to a caller, its handles pointers.
static_assert(sizeof(hipError_t) == sizeof(HipError) && sizeof(hipDeviceAttribute_t) == sizeof(int) &&
              sizeof(hipMemcpyKind) == sizeof(int) && std::is_same_v<hipDevice_t, int>);
static_assert(std::is_pointer_v<hipStream_t> && std::is_pointer_v<hipModule_t> && std::is_pointer_v<hipFunction_t>);
static_assert(hipSuccess == 0 && hipErrorOutOfMemory == kHipOutOfMemory && hipErrorNoDevice == kHipNoDevice);
static_assert(hipMemcpyHostToDevice == kHostToDevice && hipMemcpyDeviceToHost == kDeviceToHost);
static_assert(hipDeviceAttributeMultiprocessorCount == kAttributeMultiprocessorCount &&
              hipDeviceAttributeWarpSize == kAttributeWarpSize);
static_assert(sizeof(hipDeviceProp_t) <= 16384);

// Calls as we make them must compile against the real functions.
[[maybe_unused]] void check_signatures(void* pointer, hipModule_t module, hipFunction_t function, hipStream_t stream) {
  int number = 0;
  size_t bytes = 0;
  char name[8];
  void* extra[5] = {};
  static_cast<void>(hipGetDeviceCount(&number));
  static_cast<void>(hipGetDevice(&number));
  static_cast<void>(hipRuntimeGetVersion(&number));
  static_cast<void>(hipDeviceGetAttribute(&number, hipDeviceAttributeWarpSize, 0));
  static_cast<void>(hipDeviceGetName(name, int{8}, 0));
  static_cast<void>(hipDeviceTotalMem(&bytes, 0));
  static_cast<void>(hipMemcpyAsync(pointer, pointer, bytes, hipMemcpyHostToDevice, stream));
  static_cast<void>(hipMemsetAsync(pointer, 0, bytes, stream));
  static_cast<void>(hipModuleLoadData(&module, pointer));
  static_cast<void>(hipModuleGetFunction(&function, module, name));
  static_cast<void>(hipModuleLaunchKernel(function, 1U, 1U, 1U, 64U, 1U, 1U, 0U, stream, nullptr, extra));
}

}  // namespace
}  // namespace sextant::hip

#endif
