// Two HIP runtimes at hand, as when PyTorch's wheel brings one and ROCm is installed as well: the one that the process
// already uses is taken, and the other is not loaded beside it.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "devices/hip/runtime/hip_library.h"

namespace sextant::hip {
namespace {

constexpr const char* kNames[] = {SEXTANT_STAND_IN_7, SEXTANT_STAND_IN_6};

int version_of(const HipLibraryPtr& hip) {
  int version = 0;
  hip->runtime_get_version(&version);
  return version;
}

// In processes of their own: a runtime stays loaded.
[[noreturn]] void choose(const char* loaded_before, int expected, const char* not_loaded) {
  if (loaded_before != nullptr && dlopen(loaded_before, RTLD_NOW | RTLD_LOCAL) == nullptr) std::_Exit(2);
  const auto hip = load_hip_library(kNames);
  if (!hip || version_of(*hip) != expected) std::_Exit(3);
  if (not_loaded != nullptr && dlopen(not_loaded, RTLD_NOW | RTLD_NOLOAD) != nullptr) std::_Exit(4);
  std::_Exit(0);
}

TEST(HipRuntimeChoice, TakesWhatTheProcessHas) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(choose(SEXTANT_STAND_IN_6, 6, SEXTANT_STAND_IN_7), ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(choose(SEXTANT_STAND_IN_7, 7, SEXTANT_STAND_IN_6), ::testing::ExitedWithCode(0), "");
}

TEST(HipRuntimeChoice, TakesTheFirstNameWhereThereIsNone) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(choose(nullptr, 7, SEXTANT_STAND_IN_6), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace sextant::hip
