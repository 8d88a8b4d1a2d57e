// Matrix products on the stand-in runtime: by hipBLASLt where the process has it or finds it beside the runtime, by our
// own kernel where there is none and where the library is not asked.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "devices/hip/runtime/hip_blas_lt.h"
#include "devices/hip/runtime/hip_device.h"
#include "hip/fake_runtime.h"
#include "support/cases.h"
#include "support/sanitizers.h"

namespace sextant::hip {
namespace {

using sextant::testing::make_case;
using sextant::testing::mla_spec;

constexpr const char* kLibrary = SEXTANT_STAND_IN_BLAS_LT;

int64_t products() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return -1;
  return reinterpret_cast<int64_t (*)()>(dlsym(library, "sextant_stand_in_products"))();
}
bool launched_gemm() {
  for (const std::string& kernel : fake_gpu().launched)
    if (kernel.starts_with("sextant_gemm")) return true;
  return false;
}

// A decode and a prefill of an MLA backend, with projections of every shape; the process ends with what went wrong.
[[noreturn]] void run(const char* loaded_before, const std::string& runtime, DType dtype, bool deterministic,
                      bool by_library) {
  if (loaded_before != nullptr && dlopen(loaded_before, RTLD_NOW | RTLD_LOCAL) == nullptr) std::_Exit(2);
  auto hip = std::make_shared<HipLibrary>(*fake_runtime());
  hip->path = runtime;
  auto device = open(0, HipLibraryPtr(hip));
  if (!device) std::_Exit(3);
  verify::Case test = make_case(mla_spec(3, dtype), {{20, 50}, {1, 77}, {1, 3}});
  test.options.deterministic = deterministic;
  const verify::Verdict verdict =
      verify::run_case(**device, *find_backend("ROCM_AITER_MLA").value(), verify::prepare(test, 11, 16), 11);
  if (verdict.kind != verify::Verdict::Kind::kPassed) {
    std::fprintf(stderr, "%s\n", verdict.message.c_str());
    std::_Exit(4);
  }
  if (launched_gemm() == by_library) std::_Exit(5);
  std::_Exit((products() > 0) == by_library ? 0 : 6);
}

// In processes of their own: a library stays loaded.
class HipBlasLt : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_UNDER_SANITIZERS();
    if (code_objects().empty()) GTEST_SKIP() << "no compiler for AMD GPUs was found: no code objects";
    GTEST_FLAG_SET(death_test_style, "threadsafe");
  }
  const std::string beside_ = std::string(kLibrary).substr(0, std::string(kLibrary).rfind('/')) + "/libamdhip64.so";
};

TEST_F(HipBlasLt, TakesWhatTheProcessHas) {
  EXPECT_EXIT(run(kLibrary, "/nowhere/libamdhip64.so", DType::kBF16, false, true), ::testing::ExitedWithCode(0), "");
}
TEST_F(HipBlasLt, FindsItBesideTheRuntime) {
  EXPECT_EXIT(run(nullptr, beside_, DType::kF16, false, true), ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(run(nullptr, beside_, DType::kF32, false, true), ::testing::ExitedWithCode(0), "");
}
TEST_F(HipBlasLt, OwnKernelWithoutIt) {
  EXPECT_EXIT(run(nullptr, "/nowhere/libamdhip64.so", DType::kBF16, false, false), ::testing::ExitedWithCode(0), "");
}
TEST_F(HipBlasLt, OwnKernelInDeterministicMode) {
  EXPECT_EXIT(run(kLibrary, beside_, DType::kBF16, true, false), ::testing::ExitedWithCode(0), "");
}

// One from another folder would bring a second runtime.
TEST(HipBlasLtNames, StandBesideTheRuntime) {
  EXPECT_EQ(blas_lt_names("libamdhip64.so.6").front(), "libhipblaslt.so.1");
  for (const std::string& name : blas_lt_names("/torch/lib/libamdhip64.so"))
    EXPECT_TRUE(name.starts_with("/torch/lib/libhipblaslt.so")) << name;
}

}  // namespace
}  // namespace sextant::hip
