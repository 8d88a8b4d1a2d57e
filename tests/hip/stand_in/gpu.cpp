// A HIP runtime with one gfx942 that runs nothing: memory is the host's, and each call that matters is noted by name.
// For processes of other languages (python/tests/test_hip_launches.py); the C++ tests' own is fake_runtime.cpp.
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <string>

namespace {

std::mutex mutex;
std::string calls;  // kernels' names and runtime calls, a line each

void note(const char* what) {
  const std::lock_guard<std::mutex> lock(mutex);
  calls.append(what).append("\n");
}

}  // namespace

extern "C" {

// What was called since the last time, in order.
const char* stand_in_calls() {
  static std::string given;
  const std::lock_guard<std::mutex> lock(mutex);
  given.swap(calls);
  calls.clear();
  return given.c_str();
}

int hipRuntimeGetVersion(int* version) { return *version = 0; }
int hipGetDeviceCount(int* count) {
  *count = 1;
  return 0;
}
const char* hipGetErrorString(int) { return "an error of the stand-in"; }
int hipSetDevice(int) { return 0; }
int hipGetDevice(int* device) { return *device = 0; }
int hipDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 87 ? 64 : attribute == 63 ? 304 : 4 << 20;  // lanes of a wave, compute units
  return 0;
}
int hipDeviceGetName(char* name, int, int) {
  std::strcpy(name, "stand-in GPU");
  return 0;
}
int hipDeviceTotalMem(size_t* bytes, int) {
  *bytes = size_t{192} << 30;
  return 0;
}
int hipGetDevicePropertiesR0600(void* properties, int) {
  std::strcpy(static_cast<char*>(properties) + 1160, "gfx942:sramecc+:xnack-");
  return 0;
}
int hipMalloc(void** pointer, size_t bytes) {
  note("hipMalloc");
  *pointer = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return 0;
}
int hipFree(void* pointer) {
  note("hipFree");
  std::free(pointer);
  return 0;
}
int hipMemcpyAsync(void* to, const void* from, size_t bytes, int, void*) {
  note("hipMemcpyAsync");
  std::memcpy(to, from, bytes);
  return 0;
}
int hipMemsetAsync(void* to, int value, size_t bytes, void*) {
  note("hipMemsetAsync");
  std::memset(to, value, bytes);
  return 0;
}
int hipStreamSynchronize(void*) {
  note("hipStreamSynchronize");
  return 0;
}
int hipModuleLoadData(void** module, const void* data) {
  *module = const_cast<void*>(data);
  return 0;
}
int hipModuleUnload(void*) { return 0; }
int hipModuleGetFunction(void** function, void*, const char* name) {
  static std::set<std::string> names;  // a function is its name
  const std::lock_guard<std::mutex> lock(mutex);
  *function = const_cast<char*>(names.insert(name).first->c_str());
  return 0;
}
int hipModuleLaunchKernel(void* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*,
                          void**, void**) {
  note(static_cast<const char*>(function));
  return 0;
}
int hipGetLastError() { return 0; }

}  // extern "C"
