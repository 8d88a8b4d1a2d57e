// The decode and forward kernels' gfx942 machine code, executed by an interpreter, as part of whole backends and judged
// by the oracle. And the interpreter's own watchfulness, on programs that are wrong.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <set>

#include "devices/hip/emulator/emulated_device.h"
#include "devices/hip/runtime/code_objects.h"
#include "hip/isa/machine.h"
#include "hip/sanitizers.h"
#include "support/cases.h"

namespace sextant::hip {
namespace {

// The disassembly of a kernel source's code object, or nothing where there is none or no llvm-objdump.
std::string disassemble(std::string_view kernels) {
  for (const CodeObject& object : code_objects()) {
    if (object.architecture != "gfx942" || object.kernels != kernels) continue;
    const std::string path =
        ::testing::TempDir() + "sextant_" + std::to_string(getpid()) + "_" + std::string(kernels) + ".co";
    std::ofstream(path, std::ios::binary)
        .write(static_cast<const char*>(object.data), static_cast<std::streamsize>(object.bytes));
    const std::string command = "d=$(command -v llvm-objdump-19 || command -v llvm-objdump-22) && $d -d " + path;
    std::string text;
    if (FILE* pipe = popen(command.c_str(), "r")) {
      char buffer[65536];
      for (size_t n; (n = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) text.append(buffer, n);
      pclose(pipe);
    }
    std::remove(path.c_str());
    return text;
  }
  return "";
}

// Runs the kernels of `kernels` from machine code, the others as ever.
class MachineCode {
 public:
  // `removed`: an instruction to leave out, to see that its absence shows.
  explicit MachineCode(std::string_view kernels, std::string removed = "")
      : text_(disassemble(kernels)), prefix_(kernels), removed_(std::move(removed)) {}
  bool available() const { return !text_.empty(); }

  std::shared_ptr<Device> device() {
    EmulatorOptions options;
    options.threads = 1;
    options.override_kernel = [this](std::string_view name, int64_t workgroups, int threads,
                                     const void* params) -> std::optional<std::string> {
      if (!name.starts_with(prefix_)) return std::nullopt;
      const std::string key(name);
      if (programs_.count(key) == 0) {
        programs_[key] = isa::parse_program(text_, key);
        for (isa::Instruction& instruction : programs_[key].code)
          if (instruction.name == removed_) instruction.name = "s_nop";
      }
      const isa::Program& program = programs_[key];
      if (!program.fault.empty()) return program.fault;
      isa::Machine machine(program);
      for (int64_t i = 0; i < workgroups; ++i)
        if (std::string fault = machine.run(params, static_cast<int>(i), threads); !fault.empty()) return fault;
      instructions_ += machine.instructions();
      executed_.insert(key);
      return "";
    };
    return make_emulated_device(options);
  }
  const std::set<std::string>& executed() const { return executed_; }

 private:
  std::string text_, prefix_, removed_;
  std::map<std::string, isa::Program> programs_;
  std::set<std::string> executed_;
  int64_t instructions_ = 0;
};

void expect_right(Device& device, const char* backend, const verify::Case& test) {
  const verify::CaseData data = verify::prepare(test, 11, 64);
  const verify::Verdict verdict = verify::run_case(device, *find_backend(backend).value(), data, 11);
  EXPECT_EQ(verdict.kind, verify::Verdict::Kind::kPassed) << backend << ": " << verdict.message;
}

std::vector<verify::Case> small_cases(DType dtype, int32_t query_len) {
  using sextant::testing::make_case;
  using sextant::testing::mha_spec;
  std::vector<verify::Case> cases;
  cases.push_back(make_case(mha_spec(4, 2, 128, dtype), {{query_len, 150}, {query_len, query_len}, {query_len, 61}}));
  verify::Case features = make_case(mha_spec(4, 2, 72, dtype), {{query_len, 90}, {query_len, 333}});
  features.spec.sliding_window = 50;
  features.spec.logits_soft_cap = 8;
  features.spec.has_sinks = features.spec.has_alibi = true;
  features.spec.head_dim = 72;
  cases.push_back(features);
  return cases;
}

TEST(MachineCodeTest, Decode) {
  SKIP_UNDER_SANITIZERS();
  MachineCode code("decode");
  if (!code.available()) GTEST_SKIP() << "no code object for gfx942 or no llvm-objdump";
  const auto device = code.device();
  for (DType dtype : {DType::kBF16, DType::kF16})
    for (const verify::Case& test : small_cases(dtype, 1)) {
      expect_right(*device, "ROCM_AITER_UNIFIED_ATTN", test);  // dims together
      expect_right(*device, "ROCM_ATTN", test);                // tokens together: the split-K layout
    }
  // The chip's own fp8, converted by its own instructions.
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    verify::Case fp8 = small_cases(dtype, 1)[0];
    fp8.cache_dtype = DType::kF8E4M3FNUZ;
    fp8.num_scales = 2;
    expect_right(*device, "ROCM_AITER_UNIFIED_ATTN", fp8);
    expect_right(*device, "ROCM_ATTN", fp8);
  }
  EXPECT_EQ(code.executed().size(), 8U);  // every decode kernel
}

TEST(MachineCodeTest, Forward) {
  SKIP_UNDER_SANITIZERS();
  MachineCode code("forward");
  if (!code.available()) GTEST_SKIP() << "no code object for gfx942 or no llvm-objdump";
  const auto device = code.device();
  for (DType dtype : {DType::kBF16, DType::kF16})
    for (const verify::Case& test : small_cases(dtype, 43)) {
      expect_right(*device, "ROCM_AITER_UNIFIED_ATTN", test);
      if (dtype == DType::kBF16) expect_right(*device, "ROCM_AITER_FA", test);
    }
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    expect_right(*device, "ROCM_AITER_FA",
                 sextant::testing::make_case(sextant::testing::mha_spec(2, 1, 64, dtype), {{70, 150}, {5, 5}}));
    expect_right(*device, "ROCM_AITER_MLA",
                 sextant::testing::make_case(sextant::testing::mla_spec(2, dtype), {{20, 50}, {33, 33}}));
  }
  EXPECT_EQ(code.executed().size(), 6U);  // every forward kernel
}

TEST(MachineCodeTest, MissingWaitsAndBarriersShow) {
  SKIP_UNDER_SANITIZERS();
  for (const auto& [kernels, query_len] : {std::pair{"decode", 1}, std::pair{"forward", 43}})
    for (const auto& [removed, fault] :
         {std::pair{"s_waitcnt", "while a load is on its way"}, std::pair{"s_barrier", "with no barrier between"}}) {
      MachineCode code(kernels, removed);
      if (!code.available()) GTEST_SKIP() << "no code object for gfx942 or no llvm-objdump";
      const auto device = code.device();
      const verify::CaseData data = verify::prepare(small_cases(DType::kBF16, query_len)[0], 11, 1);
      const verify::Verdict verdict =
          verify::run_case(*device, *find_backend("ROCM_AITER_UNIFIED_ATTN").value(), data, 11);
      EXPECT_NE(verdict.message.find(fault), std::string::npos)
          << kernels << " without " << removed << ": " << verdict.message;
    }
}

// ---- what the interpreter reports
// ------------------------------------------------------------------------------------

std::string run_text(const std::string& body, int threads = 64) {
  std::string text = "0000000000001000 <k>:\n";
  int64_t address = 0x1000;
  std::istringstream lines(body + "\ns_endpgm");
  for (std::string line; std::getline(lines, line); address += 8) {
    char comment[32];
    std::snprintf(comment, sizeof(comment), " // %012llX: 0", static_cast<unsigned long long>(address));
    text += "\t" + line + comment + "\n";
  }
  const isa::Program program = isa::parse_program(text, "k");
  if (!program.fault.empty()) return program.fault;
  static const uint32_t kArguments[64] = {};
  isa::Machine machine(program);
  return machine.run(kArguments, 0, threads);
}

TEST(Interpreter, LoadsStayPendingUntilTheyAreWaitedFor) {
  const std::string load = "v_mov_b32_e32 v2, s0\nv_mov_b32_e32 v3, s1\nglobal_load_dword v1, v[2:3], off\n";
  EXPECT_NE(run_text(load + "v_add_u32_e32 v4, v1, v1").find("reads v1 while a load is on its way"), std::string::npos);
  EXPECT_NE(run_text(load + "v_mov_b32_e32 v1, 0").find("overwrites v1 while a load is on its way"), std::string::npos);
  EXPECT_EQ(run_text(load + "s_waitcnt vmcnt(0)\nv_add_u32_e32 v4, v1, v1"), "");
  EXPECT_NE(run_text(load + "s_waitcnt lgkmcnt(0)\nv_add_u32_e32 v4, v1, v1").find("reads v1"), std::string::npos);
  // Of two loads vmcnt(1) brings the first.
  const std::string two = load + "global_load_dword v5, v[2:3], off\ns_waitcnt vmcnt(1)\n";
  EXPECT_EQ(run_text(two + "v_mov_b32_e32 v6, v1"), "");
  EXPECT_NE(run_text(two + "v_mov_b32_e32 v6, v5").find("reads v5"), std::string::npos);
  // Scalar loads come in any order: only a count of 0 says that one is there.
  const std::string scalar = "s_load_dword s4, s[0:1], 0x0\ns_load_dword s5, s[0:1], 0x4\n";
  EXPECT_NE(run_text(scalar + "s_waitcnt lgkmcnt(1)\ns_mov_b32 s6, s4").find("reads s4"), std::string::npos);
  EXPECT_EQ(run_text(scalar + "s_waitcnt lgkmcnt(0)\ns_mov_b32 s6, s4"), "");
}

TEST(Interpreter, SharedMemoryNeedsBarriers) {
  // Each lane writes its own word and reads its neighbour's in the other wave.
  const std::string write = "v_lshlrev_b32_e32 v1, 2, v0\nds_write_b32 v1, v0\nv_xor_b32_e32 v2, 0x100, v1\n";
  const std::string read = "ds_read_b32 v3, v2\ns_waitcnt lgkmcnt(0)";
  EXPECT_EQ(run_text(write + "s_waitcnt lgkmcnt(0)\ns_barrier\n" + read, 128), "");
  EXPECT_NE(run_text(write + "s_waitcnt lgkmcnt(0)\n" + read, 128).find("with no barrier between"), std::string::npos);
  EXPECT_NE(run_text(write + "s_barrier\n" + read, 128).find("an LDS write is still on its way"), std::string::npos);
}

TEST(Interpreter, ReportsWhatItDoesNotKnow) {
  EXPECT_NE(run_text("v_fma_f64 v[0:1], v[2:3], v[4:5], v[6:7]").find("not known"), std::string::npos);
}

}  // namespace
}  // namespace sextant::hip
