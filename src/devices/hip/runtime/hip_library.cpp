// Finds the HIP runtime of the process, or loads one.
#include "devices/hip/runtime/hip_library.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <link.h>

namespace sextant::hip {
namespace {

template <class F>
bool find(void* module, const char* name, F* function) {
  *function = reinterpret_cast<F>(dlsym(module, name));
  return *function != nullptr;
}

// Null, or the first function that the library lacks.
const char* find_functions(void* m, HipLibrary& hip) {
  if (!find(m, "hipGetDeviceCount", &hip.get_device_count)) return "hipGetDeviceCount";
  if (!find(m, "hipSetDevice", &hip.set_device)) return "hipSetDevice";
  if (!find(m, "hipGetDevice", &hip.get_device)) return "hipGetDevice";
  if (!find(m, "hipRuntimeGetVersion", &hip.runtime_get_version)) return "hipRuntimeGetVersion";
  if (!find(m, "hipDeviceGetAttribute", &hip.device_get_attribute)) return "hipDeviceGetAttribute";
  if (!find(m, "hipDeviceGetName", &hip.device_get_name)) return "hipDeviceGetName";
  if (!find(m, "hipDeviceTotalMem", &hip.device_total_mem)) return "hipDeviceTotalMem";
  // ROCm 6 gave the function of the larger struct a name of its own.
  if (!find(m, "hipGetDevicePropertiesR0600", &hip.get_device_properties) &&
      !find(m, "hipGetDeviceProperties", &hip.get_device_properties))
    return "hipGetDeviceProperties";
  if (!find(m, "hipMalloc", &hip.malloc)) return "hipMalloc";
  if (!find(m, "hipFree", &hip.free)) return "hipFree";
  if (!find(m, "hipMemcpyAsync", &hip.memcpy_async)) return "hipMemcpyAsync";
  if (!find(m, "hipMemsetAsync", &hip.memset_async)) return "hipMemsetAsync";
  if (!find(m, "hipStreamSynchronize", &hip.stream_synchronize)) return "hipStreamSynchronize";
  if (!find(m, "hipModuleLoadData", &hip.module_load_data)) return "hipModuleLoadData";
  if (!find(m, "hipModuleUnload", &hip.module_unload)) return "hipModuleUnload";
  if (!find(m, "hipModuleGetFunction", &hip.module_get_function)) return "hipModuleGetFunction";
  if (!find(m, "hipModuleLaunchKernel", &hip.module_launch_kernel)) return "hipModuleLaunchKernel";
  if (!find(m, "hipGetLastError", &hip.get_last_error)) return "hipGetLastError";
  if (!find(m, "hipGetErrorString", &hip.get_error_string)) return "hipGetErrorString";
  return nullptr;
}

}  // namespace

Status HipLibrary::to_status(HipError error, std::string_view what) const {
  if (error == 0) return Status::ok();
  get_last_error();  // an error must not show up again in the next call
  const StatusCode code = error == kHipOutOfMemory ? StatusCode::kResourceExhausted : StatusCode::kInternal;
  return {code, fmt::format("{}: HIP error {} ({})", what, error, get_error_string(error))};
}

std::span<const char* const> hip_library_names() {
  static constexpr const char* kNames[] = {"libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so",
                                           "/opt/rocm/lib/libamdhip64.so"};
  return kNames;
}

std::string find_loaded_library(std::string_view stem) {
  struct Search {
    std::string_view stem;
    std::string found;
  } search{stem, ""};
  const auto look = [](dl_phdr_info* info, size_t, void* data) {
    auto* state = static_cast<Search*>(data);
    const std::string_view path = info->dlpi_name;
    // Wheels ship it under names of their own, as libamdhip64-0a1b2c3d.so.
    if (path.substr(path.rfind('/') + 1).starts_with(state->stem)) state->found = path;
    return state->found.empty() ? 0 : 1;
  };
  dl_iterate_phdr(look, &search);
  return search.found;
}

Result<HipLibraryPtr> load_hip_library(std::span<const char* const> names) {
  auto hip = std::make_shared<HipLibrary>();
  // What the process already uses (PyTorch ships a runtime of its own) comes first: streams and pointers of one runtime
  // mean nothing to another.
  void* module = nullptr;
  hip->path = find_loaded_library("libamdhip64");
  if (!hip->path.empty()) module = dlopen(hip->path.c_str(), RTLD_NOW | RTLD_NOLOAD);
  for (const char* name : names) {
    if (module != nullptr) break;
    module = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    hip->path = name;
  }
  if (module == nullptr)
    return Status(
        StatusCode::kUnavailable,
        "no HIP runtime (libamdhip64.so was not found): install ROCm 6 or newer, or put its lib folder on the "
        "library path");
  if (const char* missing = find_functions(module, *hip))
    return Status(StatusCode::kUnavailable, fmt::format("{} lacks {}: install ROCm 6 or newer", hip->path, missing));
  return HipLibraryPtr(std::move(hip));
}

}  // namespace sextant::hip
