#include "hip/fake_runtime.h"

#include <cstdlib>
#include <cstring>

#include "devices/hip/emulator/workgroup.h"
#include "devices/hip/kernels/kernel_set.h"

namespace sextant::hip {

FakeGpu& fake_gpu() {
  static FakeGpu gpu;
  return gpu;
}

const CodeObject* object_of(const void* data) {
  for (const CodeObject& object : code_objects())
    if (object.data == data) return &object;
  return nullptr;
}

namespace {

constexpr HipError kCaptureUnsupported = 900;

HipError refused(const char* call) {
  fake_gpu().refused.emplace_back(call);
  return kCaptureUnsupported;
}

int get_function(HipFunction* function, HipModule module, const char* name) {
  const CodeObject* object = object_of(module);
  const std::string_view bytes(static_cast<const char*>(object->data), object->bytes);
  // The code object must hold a kernel descriptor of this name.
  if (bytes.find(std::string("\0", 1) + name + ".kd" + std::string("\0", 1)) == std::string_view::npos) return 500;
  for (const auto& set : {ops_kernels(), portable_kernels(), mla_kernels(), decode_kernels(), forward_kernels()})
    for (const EmulatedKernel& kernel : set)
      if (kernel.name == name) {
        *function = const_cast<EmulatedKernel*>(&kernel);
        return 0;
      }
  return 500;
}

HipError run_groups(const FakeLaunch& launch) {
  static emulator::Workgroup group;
  const EmulatedKernel& kernel = *launch.kernel;
  std::vector<char> arguments = launch.arguments;
  for (unsigned i = 0; i < launch.grid; ++i)
    if (!group
             .run(kernel.function, arguments.data(), static_cast<int>(i), kernel.threads, emulator::LaneOrder::kForward,
                  {})
             .empty())
      return 700;
  fake_gpu().launched.insert(std::string(kernel.name));
  ++fake_gpu().launches;
  return 0;
}

HipError launch(HipFunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned threads, unsigned,
                unsigned, unsigned shared, HipStream stream, void** params, void** extra) {
  const auto& kernel = *static_cast<const EmulatedKernel*>(function);
  if (grid_y != 1 || grid_z != 1 || shared != 0 || params != nullptr || static_cast<int>(threads) != kernel.threads)
    return 1;
  if (extra[0] != kLaunchBufferPointer || extra[2] != kLaunchBufferSize || extra[4] != kLaunchEnd) return 1;
  const char* arguments = static_cast<const char*>(extra[1]);
  FakeLaunch made{&kernel, grid_x, {arguments, arguments + *static_cast<const size_t*>(extra[3])}};
  FakeGpu& gpu = fake_gpu();
  if (gpu.capturing == nullptr) return run_groups(made);
  if (stream != gpu.capturing) return refused("hipModuleLaunchKernel on another stream");
  gpu.graph.push_back(std::move(made));
  return 0;
}

}  // namespace

HipError FakeGpu::replay() const {
  for (const FakeLaunch& made : graph)
    if (const HipError error = run_groups(made); error != 0) return error;
  return 0;
}

HipLibraryPtr fake_runtime() {
  auto hip = std::make_shared<HipLibrary>();
  hip->path = "stand-in";
  hip->get_device_count = [](int* count) {
    *count = fake_gpu().count;
    return fake_gpu().count == 0 ? kHipNoDevice : 0;
  };
  hip->set_device = [](int) { return 0; };
  hip->get_device = [](int* device) { return *device = 0; };
  hip->runtime_get_version = [](int* version) { return *version = 0; };
  hip->device_get_attribute = [](int* value, int attribute, int) {
    *value = attribute == kAttributeWarpSize              ? fake_gpu().wave_size
             : attribute == kAttributeMultiprocessorCount ? 304
                                                          : 4 << 20;
    return 0;
  };
  hip->device_get_name = [](char* name, int, int) {
    std::strcpy(name, "stand-in GPU");
    return 0;
  };
  hip->device_total_mem = [](size_t* bytes, int) {
    *bytes = size_t{192} << 30;
    return 0;
  };
  hip->get_device_properties = [](void* properties, int) {
    std::strcpy(static_cast<char*>(properties) + 1160, fake_gpu().architecture.c_str());
    return 0;
  };
  hip->malloc = [](void** pointer, size_t bytes) {
    if (fake_gpu().capturing != nullptr) return refused("hipMalloc");
    if (bytes > (size_t{1} << 40)) return kHipOutOfMemory;
    *pointer = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    return 0;
  };
  hip->free = [](void* pointer) {
    if (fake_gpu().capturing != nullptr) return refused("hipFree");
    std::free(pointer);
    return 0;
  };
  hip->memcpy_async = [](void* to, const void* from, size_t bytes, int, HipStream) {
    if (fake_gpu().capturing != nullptr) return refused("hipMemcpyAsync from the host");
    std::memcpy(to, from, bytes);
    return 0;
  };
  hip->memset_async = [](void* to, int value, size_t bytes, HipStream) {
    if (fake_gpu().capturing != nullptr) return refused("hipMemsetAsync, which this stand-in does not record");
    std::memset(to, value, bytes);
    return 0;
  };
  hip->stream_synchronize = [](HipStream) {
    return fake_gpu().capturing == nullptr ? 0 : refused("hipStreamSynchronize");
  };
  hip->module_load_data = [](HipModule* module, const void* data) {
    if (fake_gpu().capturing != nullptr) return refused("hipModuleLoadData");
    *module = const_cast<void*>(data);
    fake_gpu().modules.insert(data);
    return object_of(data) == nullptr ? 1 : 0;
  };
  hip->module_unload = [](HipModule module) {
    fake_gpu().modules.erase(module);
    return 0;
  };
  hip->module_get_function = get_function;
  hip->module_launch_kernel = launch;
  hip->get_last_error = [] { return 0; };
  hip->get_error_string = [](HipError) { return "an error of the stand-in"; };
  return hip;
}

}  // namespace sextant::hip
