// The kernels' machine code for each chip, executed by an interpreter, as part of whole backends and judged by the
// oracle: a sample that takes seconds (sextant_machine_code runs the rest). And the interpreter's own watchfulness, on
// programs that are wrong.
#include <gtest/gtest.h>

#include <cstdio>
#include <set>
#include <sstream>

#include "hip/isa/case_list.h"
#include "hip/isa/coverage.h"
#include "hip/isa/runner.h"
#include "support/cases.h"
#include "support/matchers.h"
#include "support/sanitizers.h"
#include "verify/random/random_suite.h"

namespace sextant::hip {
namespace {

using isa::MachineCode;
using sextant::testing::make_case;
using sextant::testing::mha_spec;
using sextant::testing::mla_spec;

void expect_right(Device& device, const char* backend, const verify::Case& test) {
  const verify::CaseData data = verify::prepare(test, 11, 16);
  const verify::Verdict verdict = verify::run_case(device, *find_backend(backend).value(), data, 11);
  EXPECT_EQ(verdict.kind, verify::Verdict::Kind::kPassed) << backend << ": " << verdict.message;
}

verify::Case with_features(DType dtype, std::vector<verify::RequestShape> requests) {
  verify::Case features = make_case(mha_spec(4, 2, 72, dtype), std::move(requests));
  features.spec.sliding_window = 50;
  features.spec.logits_soft_cap = 8;
  features.spec.has_sinks = features.spec.has_alibi = true;
  return features;
}

class MachineCodeTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    SKIP_UNDER_SANITIZERS();
    code_ = std::make_unique<MachineCode>(GetParam());
    if (!code_->available()) GTEST_SKIP() << "no code object for " << GetParam() << " or no llvm-objdump";
    device_ = code_->device();
  }
  std::set<std::string> executed() const {
    std::set<std::string> names;
    for (const auto& [name, kernel] : code_->kernels()) names.insert(name);
    return names;
  }

  std::unique_ptr<MachineCode> code_;
  std::shared_ptr<Device> device_;
};

TEST_P(MachineCodeTest, Decode) {
  const DType fp8 = std::string(GetParam()) == "gfx942" ? DType::kF8E4M3FNUZ : DType::kF8E4M3FN;
  for (DType cache : {DType::kBF16, fp8}) {  // the chip's own fp8, converted by its own instructions
    verify::Case test = make_case(mha_spec(4, 2, 128), {{1, 150}, {1, 1}, {1, 61}});
    test.cache_dtype = cache;
    expect_right(*device_, "ROCM_AITER_UNIFIED_ATTN", test);  // dims together
    expect_right(*device_, "ROCM_ATTN", test);                // tokens together: the split-K layout
  }
  expect_right(*device_, "ROCM_AITER_UNIFIED_ATTN", with_features(DType::kF16, {{1, 90}, {1, 333}}));
  EXPECT_GE(executed().size(), 6U);
}

TEST_P(MachineCodeTest, Forward) {
  expect_right(*device_, "ROCM_AITER_UNIFIED_ATTN", make_case(mha_spec(2, 1, 128), {{43, 150}, {9, 9}}));
  expect_right(*device_, "ROCM_AITER_FA", with_features(DType::kBF16, {{43, 90}, {5, 133}}));
  expect_right(*device_, "ROCM_AITER_FA", make_case(mha_spec(2, 1, 64, DType::kF16), {{70, 150}, {5, 5}}));
  EXPECT_GE(executed().size(), 3U);
}

TEST_P(MachineCodeTest, Mla) {
  expect_right(*device_, "ROCM_AITER_MLA", make_case(mla_spec(2), {{20, 50}, {1, 77}, {1, 3}}));
  expect_right(*device_, "TRITON_MLA", make_case(mla_spec(2, DType::kF16), {{3, 40}, {1, 77}}));
  EXPECT_GE(executed().size(), 4U);
}

TEST_P(MachineCodeTest, Tiles) {
  for (DType dtype : {DType::kF32, DType::kBF16})
    expect_right(*device_, "TRITON_ATTN", make_case(mha_spec(2, 1, 40, dtype), {{5, 50}, {1, 37}, {33, 33}}));
  EXPECT_GE(executed().size(), 3U);
}

// Nearly all of the code, each case judged. Cases chosen for other code than this would leave more.
TEST_P(MachineCodeTest, CasesExecuteTheCode) {
  const auto cases = isa::read_case_list(isa::case_list_path(GetParam()));
  ASSERT_OK(cases);
  code_->read_all();
  for (const verify::RandomCase& test : *cases)
    for (const verify::RandomFailure& failure : verify::run_random_text(*device_, test).failures)
      ADD_FAILURE() << failure.message << "\n" << failure.text;
  for (const verify::Case& test : isa::scaled_write_cases()) expect_right(*device_, "TRITON_ATTN", test);
  isa::Covered covered;
  isa::add_executed(*code_, covered);
  EXPECT_GE(isa::total_share(covered).percent(), 95);
  for (const auto& [kernel, flags] : covered) EXPECT_GE(isa::share_of(flags).percent(), 70) << kernel;
}

INSTANTIATE_TEST_SUITE_P(Chips, MachineCodeTest, ::testing::Values("gfx90a", "gfx942", "gfx950"),
                         [](const auto& chip) { return std::string(chip.param); });

TEST(MachineCodeFaults, MissingWaitsAndBarriersShow) {
  SKIP_UNDER_SANITIZERS();
  for (const auto& [kernels, query_len] : {std::pair{"decode", 1}, std::pair{"forward", 43}})
    for (const auto& [removed, fault] :
         {std::pair{"s_waitcnt", "while a load is on its way"}, std::pair{"s_barrier", "with no barrier between"}}) {
      MachineCode code("gfx942", "", kernels);
      if (!code.available()) GTEST_SKIP() << "no code object for gfx942 or no llvm-objdump";
      code.change = [&removed = removed](isa::Program& program) {
        for (isa::Instruction& in : program.code)
          if (in.name == removed) isa::leave_out(in);
      };
      const auto device = code.device();
      const verify::CaseData data =
          verify::prepare(make_case(mha_spec(4, 2, 128), {{query_len, 150}, {query_len, 61}}), 11, 1);
      const verify::Verdict verdict =
          verify::run_case(*device, *find_backend("ROCM_AITER_UNIFIED_ATTN").value(), data, 11);
      EXPECT_NE(verdict.message.find(fault), std::string::npos)
          << kernels << " without " << removed << ": " << verdict.message;
    }
}

// ---- what the interpreter reports ----------------------------------------------------------------------------------

std::string run_text(const std::string& body, int threads = 64, const char* architecture = "gfx942") {
  std::string text = "0000000000001000 <k>:\n";
  int64_t address = 0x1000;
  std::istringstream lines(body + "\ns_endpgm");
  for (std::string line; std::getline(lines, line); address += 8) {
    if (line.empty()) continue;
    char comment[32];
    std::snprintf(comment, sizeof(comment), " // %012llX: 0", static_cast<unsigned long long>(address));
    text += "\t" + line + comment + "\n";
  }
  isa::Program program = isa::parse_program(text, "k", architecture);
  if (!program.fault.empty()) return program.fault;
  program.lds_bytes = 4096;
  static const uint32_t kArguments[64] = {};
  isa::Machine machine(program);
  return machine.run(kArguments, 0, threads);
}

void expect_fault(const std::string& body, const std::string& fault, int threads = 64, const char* chip = "gfx942") {
  EXPECT_NE(run_text(body, threads, chip).find(fault), std::string::npos) << run_text(body, threads, chip);
}

TEST(Interpreter, LoadsStayPendingUntilTheyAreWaitedFor) {
  const std::string load = "v_mov_b32_e32 v2, s0\nv_mov_b32_e32 v3, s1\nglobal_load_dword v1, v[2:3], off\n";
  expect_fault(load + "v_add_u32_e32 v4, v1, v1", "reads v1 while a load is on its way");
  expect_fault(load + "v_mov_b32_e32 v1, 0", "overwrites v1 while a load is on its way");
  EXPECT_EQ(run_text(load + "s_waitcnt vmcnt(0)\nv_add_u32_e32 v4, v1, v1"), "");
  expect_fault(load + "s_waitcnt lgkmcnt(0)\nv_add_u32_e32 v4, v1, v1", "reads v1");
  // Of two loads vmcnt(1) brings the first.
  const std::string two = load + "global_load_dword v5, v[2:3], off\ns_waitcnt vmcnt(1)\n";
  EXPECT_EQ(run_text(two + "v_mov_b32_e32 v6, v1"), "");
  expect_fault(two + "v_mov_b32_e32 v6, v5", "reads v5");
  // Loads to one register come in order; one from LDS may overtake.
  EXPECT_EQ(run_text(load + "global_load_dword v1, v[2:3], off\ns_waitcnt vmcnt(0)\nv_mov_b32_e32 v6, v1"), "");
  expect_fault(load + "v_mov_b32_e32 v9, 0\nds_read_b32 v1, v9", "overwrites v1");
  // Scalar loads come in any order: only a count of 0 says that one is there.
  const std::string scalar = "s_load_dword s4, s[0:1], 0x0\ns_load_dword s5, s[0:1], 0x4\n";
  expect_fault(scalar + "s_waitcnt lgkmcnt(1)\ns_mov_b32 s6, s4", "reads s4");
  EXPECT_EQ(run_text(scalar + "s_waitcnt lgkmcnt(0)\ns_mov_b32 s6, s4"), "");
}

TEST(Interpreter, SharedMemoryNeedsBarriersAndWaits) {
  // Each lane writes its own word and reads its neighbour's in the other wave.
  const std::string write = "v_lshlrev_b32_e32 v1, 2, v0\nds_write_b32 v1, v0\nv_xor_b32_e32 v2, 0x100, v1\n";
  const std::string read = "ds_read_b32 v3, v2\n", wait = "s_waitcnt lgkmcnt(0)\n", barrier = "s_barrier\n";
  EXPECT_EQ(run_text(write + wait + barrier + read + wait, 128), "");
  expect_fault(write + wait + read + wait, "with no barrier between", 128);
  expect_fault(write + barrier + read, "has written and not waited for", 128);
  // A word may be written again when who read it has the value and all have met.
  EXPECT_EQ(run_text(write + wait + barrier + read + wait + barrier + "ds_write_b32 v1, v0", 128), "");
  expect_fault(write + wait + barrier + read + barrier + "ds_write_b32 v1, v0", "has read and not waited for", 128);
  expect_fault(write + wait + barrier + read + wait + "ds_write_b32 v1, v0", "which wave 0 has written", 128);
}

TEST(Interpreter, LoadsToSharedMemoryAreWaitedFor) {
  const std::string load =
      "v_mov_b32_e32 v2, s0\nv_mov_b32_e32 v3, s1\ns_mov_b32 m0, 0\nv_lshlrev_b32_e32 v1, 2, v0\n"
      "global_load_lds_dword v[2:3], off\n";
  EXPECT_EQ(run_text(load + "s_waitcnt vmcnt(0)\nds_read_b32 v4, v1\ns_waitcnt lgkmcnt(0)"), "");
  expect_fault(load + "ds_read_b32 v4, v1", "its own load from memory has not been waited for");
  expect_fault(load + "s_waitcnt lgkmcnt(0)\nds_read_b32 v4, v1", "its own load from memory has not been waited for");
}

TEST(Interpreter, MatrixInstructionsNeedWaitStates) {
  const std::string product = "v_mfma_f32_16x16x16_bf16 v[8:11], v[0:1], v[2:3], 0\n";
  EXPECT_EQ(run_text(product + "s_nop 6\nv_mov_b32_e32 v20, v8"), "");  // 4 passes and 3
  expect_fault(product + "s_nop 5\nv_mov_b32_e32 v20, v8", "after 6 wait states; needed: 7");
  EXPECT_EQ(run_text(product + "s_nop 7\nv_mov_b32_e32 v20, v8", 64, "gfx950"), "");
  expect_fault(product + "s_nop 6\nv_mov_b32_e32 v20, v8", "needed: 8", 64, "gfx950");
  const std::string old = "v_mfma_f32_16x16x16bf16_1k v[8:11], v[0:1], v[2:3], 0\n";
  expect_fault(old + "s_nop 7\ns_nop 1\nv_mov_b32_e32 v20, v8", "needed: 11", 64, "gfx90a");
  // The next product may add to exactly this one at once; one that overlaps it may not.
  EXPECT_EQ(run_text(product + "v_mfma_f32_16x16x16_bf16 v[8:11], v[0:1], v[2:3], v[8:11]"), "");
  expect_fault(product + "v_mfma_f32_16x16x16_bf16 v[10:13], v[0:1], v[2:3], v[10:13]", "adds to");
  expect_fault("v_mov_b32_e32 v0, 0\n" + product, "multiplies v0 after 0 wait states; needed: 2");
}

TEST(Interpreter, ReportsWhatItDoesNotKnow) { expect_fault("v_fma_f64 v[0:1], v[2:3], v[4:5], v[6:7]", "not known"); }

}  // namespace
}  // namespace sextant::hip
