// The HIP device on a stand-in for the HIP runtime. What is left to a real GPU is the machine code.
#include <gtest/gtest.h>

#include <cstring>

#include "devices/hip/runtime/hip_device.h"
#include "hip/fake_runtime.h"
#include "support/matchers.h"
#include "support/sanitizers.h"
#include "verify/verify.h"

namespace sextant::hip {
namespace {

class HipDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (code_objects().empty()) GTEST_SKIP() << "no compiler for AMD GPUs was found: no code objects";
    fake_gpu() = {};
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
  fake_gpu().count = 0;
  EXPECT_ERROR(open(0, fake_runtime()), StatusCode::kUnavailable, "reports no GPU");
  fake_gpu().count = 1;
  fake_gpu().architecture = "gfx1100";
  EXPECT_ERROR(open(0, fake_runtime()), StatusCode::kUnavailable,
               "hip:0 is gfx1100 (stand-in GPU); kernels were built");
  EXPECT_FALSE(report(fake_runtime()).available);
  fake_gpu().architecture = "gfx942";
  fake_gpu().wave_size = 32;
  EXPECT_ERROR(open(0, fake_runtime()), StatusCode::kUnavailable, "waves of 32 lanes; allowed: 64");
  fake_gpu().wave_size = 64;
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
  EXPECT_FALSE(fake_gpu().modules.empty());
  device = invalid_argument("closed");
  EXPECT_TRUE(fake_gpu().modules.empty());

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
  EXPECT_GE(fake_gpu().launched.size(), 10U);
}

TEST_F(HipDeviceTest, MemoryErrorsAreStatuses) {
  auto device = open(0, fake_runtime());
  ASSERT_OK(device);
  EXPECT_ERROR((*device)->allocate(size_t{1} << 50), StatusCode::kResourceExhausted, "HIP error 2");
}

}  // namespace
}  // namespace sextant::hip
