// The choice of the ISA: automatic, by option, by environment variable.
#include <gtest/gtest.h>

#include <cstdlib>

#include "devices/cpu/cpu_isa.h"
#include "sextant/device.h"
#include "support/matchers.h"

namespace sextant {
namespace {

constexpr char kVariable[] = "SEXTANT_CPU_ISA";

class IsaChoice : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const char* value = std::getenv(kVariable)) previous_ = value;
    unsetenv(kVariable);
  }
  void TearDown() override { previous_.empty() ? unsetenv(kVariable) : setenv(kVariable, previous_.c_str(), 1); }
  std::string previous_;
};

std::string architecture_of(const CpuOptions& options) {
  auto device = make_cpu_device(options);
  return device ? (*device)->info().architecture : device.status().message();
}

TEST_F(IsaChoice, TheVariableChoosesEveryAvailableIsa) {
  for (const cpu::IsaInfo& isa : cpu::all_isas()) {
    setenv(kVariable, std::string(isa.name).c_str(), 1);
    auto device = make_cpu_device();
    if (isa.available) {
      ASSERT_OK(device);
      EXPECT_NE((*device)->info().architecture.find(isa.name), std::string::npos);
    } else {
      EXPECT_ERROR(device, StatusCode::kUnavailable, "which this machine does not have");
    }
  }
}

TEST_F(IsaChoice, AnUnknownNameIsRefusedWithWhatIsAllowed) {
  setenv(kVariable, "avx1024", 1);
  EXPECT_ERROR(make_cpu_device(), StatusCode::kInvalidArgument, "SEXTANT_CPU_ISA is \"avx1024\"; allowed here: scalar");
  setenv(kVariable, "avx51", 1);
  EXPECT_ERROR(make_cpu_device(), StatusCode::kInvalidArgument, "SEXTANT_CPU_ISA is \"avx51\" (did you mean avx512?)");
  unsetenv(kVariable);
  EXPECT_ERROR(make_cpu_device({.executor = nullptr, .isa = "avx1024"}), StatusCode::kInvalidArgument,
               "isa is \"avx1024\"; allowed here: scalar");
}

TEST_F(IsaChoice, TheOptionWinsOverTheVariable) {
  setenv(kVariable, "avx1024", 1);
  EXPECT_EQ(architecture_of({.executor = nullptr, .isa = "scalar"}), "scalar");
}

TEST_F(IsaChoice, AutomaticNeverTakesTheEmulation) {
  EXPECT_EQ(architecture_of({}).find("emulated"), std::string::npos);
}

TEST_F(IsaChoice, OnlyMachinesWithPairProductsHaveTunedKernels) {
  auto device = make_cpu_device({.executor = nullptr, .isa = "scalar"});
  ASSERT_OK(device);
  EXPECT_FALSE((*device)->info().has_tuned_kernels);
}

}  // namespace
}  // namespace sextant
