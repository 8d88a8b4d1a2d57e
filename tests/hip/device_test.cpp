// The HIP device on a stand-in for the HIP runtime: memory is the host's, modules are checked as ELF files for AMD
// GPUs, and launches run the emulator's version of the kernel. What is left to a real GPU is the machine code.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>

#include "devices/hip/emulator/workgroup.h"
#include "devices/hip/kernels/kernel_set.h"
#include "devices/hip/runtime/code_objects.h"
#include "devices/hip/runtime/hip_device.h"
#include "hip/sanitizers.h"
#include "support/matchers.h"
#include "verify/verify.h"

namespace sextant::hip {
namespace {

struct FakeGpu {
  std::string architecture = "gfx942:sramecc+:xnack-";
  int count = 1;
  int wave_size = 64;
  std::set<const void*> modules;
  std::set<std::string> launched;
  int64_t launches = 0;
};
FakeGpu gpu;

const CodeObject* object_of(const void* data) {
  for (const CodeObject& object : code_objects())
    if (object.data == data) return &object;
  return nullptr;
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

int launch(HipFunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned threads, unsigned,
           unsigned, unsigned shared, HipStream, void** params, void** extra) {
  const auto& kernel = *static_cast<const EmulatedKernel*>(function);
  if (grid_y != 1 || grid_z != 1 || shared != 0 || params != nullptr || static_cast<int>(threads) != kernel.threads)
    return 1;
  if (extra[0] != kLaunchBufferPointer || extra[2] != kLaunchBufferSize || extra[4] != kLaunchEnd) return 1;
  static emulator::Workgroup group;
  for (unsigned i = 0; i < grid_x; ++i)
    if (!group.run(kernel.function, extra[1], static_cast<int>(i), kernel.threads, emulator::LaneOrder::kForward, false)
             .empty())
      return 700;
  gpu.launched.insert(std::string(kernel.name));
  ++gpu.launches;
  return 0;
}

HipLibraryPtr fake_runtime() {
  auto hip = std::make_shared<HipLibrary>();
  hip->path = "stand-in";
  hip->get_device_count = [](int* count) {
    *count = gpu.count;
    return gpu.count == 0 ? kHipNoDevice : 0;
  };
  hip->set_device = [](int) { return 0; };
  hip->get_device = [](int* device) { return *device = 0; };
  hip->runtime_get_version = [](int* version) { return *version = 0; };
  hip->device_get_attribute = [](int* value, int attribute, int) {
    *value = attribute == kAttributeWarpSize              ? gpu.wave_size
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
    std::strcpy(static_cast<char*>(properties) + 1160, gpu.architecture.c_str());
    return 0;
  };
  hip->malloc = [](void** pointer, size_t bytes) {
    if (bytes > (size_t{1} << 40)) return kHipOutOfMemory;
    *pointer = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    return 0;
  };
  hip->free = [](void* pointer) {
    std::free(pointer);
    return 0;
  };
  hip->memcpy_async = [](void* to, const void* from, size_t bytes, int, HipStream) {
    std::memcpy(to, from, bytes);
    return 0;
  };
  hip->memset_async = [](void* to, int value, size_t bytes, HipStream) {
    std::memset(to, value, bytes);
    return 0;
  };
  hip->stream_synchronize = [](HipStream) { return 0; };
  hip->module_load_data = [](HipModule* module, const void* data) {
    *module = const_cast<void*>(data);
    gpu.modules.insert(data);
    return object_of(data) == nullptr ? 1 : 0;
  };
  hip->module_unload = [](HipModule module) {
    gpu.modules.erase(module);
    return 0;
  };
  hip->module_get_function = get_function;
  hip->module_launch_kernel = launch;
  hip->get_last_error = [] { return 0; };
  hip->get_error_string = [](HipError) { return "an error of the stand-in"; };
  return hip;
}

class HipDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (code_objects().empty()) GTEST_SKIP() << "no compiler for AMD GPUs was found: no code objects";
    gpu = {};
  }
};

uint32_t word_at(const CodeObject& object, size_t offset) {
  uint32_t word;
  std::memcpy(&word, static_cast<const char*>(object.data) + offset, sizeof(word));
  return word;
}

TEST_F(HipDeviceTest, CodeObjectsAreElfFilesOfTheirArchitecture) {
  for (const CodeObject& object : code_objects()) {
    ASSERT_GT(object.bytes, 64U);
    EXPECT_EQ(std::memcmp(object.data,
                          "\x7f"
                          "ELF",
                          4),
              0);
    EXPECT_EQ(word_at(object, 18) & 0xffff, 224U);  // EM_AMDGPU
    const uint32_t mach = object.architecture == "gfx90a" ? 0x3f : object.architecture == "gfx942" ? 0x4c : 0x4f;
    EXPECT_EQ(word_at(object, 48) & 0xff, mach) << object.architecture;  // e_flags, EF_AMDGPU_MACH
  }
}

TEST_F(HipDeviceTest, SaysWhatIsMissing) {
  static constexpr const char* kNowhere[] = {"libsextant-no-such-runtime.so"};
  EXPECT_ERROR(open(0, load_hip_library(kNowhere)), StatusCode::kUnavailable, "libamdhip64.so was not found");
  EXPECT_EQ(report(load_hip_library(kNowhere)).devices.size(), 0U);
  gpu.count = 0;
  EXPECT_ERROR(open(0, fake_runtime()), StatusCode::kUnavailable, "reports no GPU");
  gpu.count = 1;
  gpu.architecture = "gfx1100";
  EXPECT_ERROR(open(0, fake_runtime()), StatusCode::kUnavailable,
               "hip:0 is gfx1100 (stand-in GPU); kernels were built");
  EXPECT_FALSE(report(fake_runtime()).available);
  gpu.architecture = "gfx942";
  gpu.wave_size = 32;
  EXPECT_ERROR(open(0, fake_runtime()), StatusCode::kUnavailable, "waves of 32 lanes; allowed: 64");
  gpu.wave_size = 64;
  EXPECT_ERROR(open(3, fake_runtime()), StatusCode::kInvalidArgument, "device index is 3; hip allows 0..0");
}

TEST_F(HipDeviceTest, KnowsTheChip) {
  auto device = open(0, fake_runtime());
  ASSERT_OK(device);
  const DeviceInfo& info = (*device)->info();
  EXPECT_EQ(info.architecture, "gfx942");
  EXPECT_EQ(info.compute_units, 304);
  EXPECT_EQ(info.native_fp8, DType::kF8E4M3FNUZ);
  EXPECT_EQ((*device)->ops(KernelFamily::kTuned).name(), "hip/tuned (gfx942)");
  EXPECT_FALSE(gpu.modules.empty());
  device = invalid_argument("closed");
  EXPECT_TRUE(gpu.modules.empty());

  EXPECT_EQ(count_xcds("gfx942", 304), 8);
  EXPECT_EQ(count_xcds("gfx942", 228), 6);  // MI300A
  EXPECT_EQ(count_xcds("gfx942", 38), 1);   // MI300X in CPX mode
  EXPECT_EQ(count_xcds("gfx950", 256), 8);
  EXPECT_EQ(count_xcds("gfx90a", 104), 1);
}

TEST_F(HipDeviceTest, RunsTheBackends) {
  SKIP_UNDER_SANITIZERS();
  auto device = open(0, fake_runtime());
  ASSERT_OK(device);
  verify::VerifyOptions options;
  options.reduced = true;
  options.backends = {find_backend("ROCM_ATTN").value(), find_backend("ROCM_AITER_MLA").value()};
  const verify::SuiteResult suite = verify::run_oracle_sweep(**device, options);
  EXPECT_EQ(suite.failed + suite.skipped, 0);
  for (const std::string& message : suite.messages) ADD_FAILURE() << message;
  EXPECT_GE(gpu.launched.size(), 10U);
}

TEST_F(HipDeviceTest, MemoryErrorsAreStatuses) {
  auto device = open(0, fake_runtime());
  ASSERT_OK(device);
  EXPECT_ERROR((*device)->allocate(size_t{1} << 50), StatusCode::kResourceExhausted, "HIP error 2");
}

}  // namespace
}  // namespace sextant::hip
