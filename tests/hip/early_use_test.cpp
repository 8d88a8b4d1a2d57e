// Which waits the analysis of paths takes for redundant, on a few lines of machine code.
#include "hip/isa/early_use.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <sstream>

namespace sextant::hip::isa {
namespace {

// A line an instruction, 8 bytes each; "-> n" says to which line a branch goes.
Program program_of(const std::string& body) {
  std::string text = "0000000000001000 <k>:\n";
  int64_t address = 0x1000;
  std::istringstream lines(body + "\ns_endpgm");
  for (std::string line; std::getline(lines, line); address += 8) {
    const size_t arrow = line.find(" -> ");
    char comment[64];
    std::snprintf(comment, sizeof(comment), " // %012llX: 0", static_cast<unsigned long long>(address));
    text += "\t" + line.substr(0, arrow) + comment;
    if (arrow != std::string::npos) {
      std::snprintf(comment, sizeof(comment), " <k+0x%x>", 8 * std::stoi(line.substr(arrow + 4)));
      text += comment;
    }
    text += "\n";
  }
  return parse_program(text, "k");
}

bool uses_early(const std::string& body, Counter counter = Counter::kVectorMemory) {
  const Program program = program_of(body);
  EXPECT_EQ(program.fault, "") << body;
  return may_use_early(program, counter);
}

const std::string kLoad = "global_load_dword v1, v[2:3], off\n";

TEST(EarlyUse, LoadsAreThereWhenTheirCounterSaysSo) {
  EXPECT_TRUE(uses_early(kLoad + "v_mov_b32_e32 v4, v1"));
  EXPECT_TRUE(uses_early(kLoad + "v_mov_b32_e32 v1, v4"));
  EXPECT_FALSE(uses_early(kLoad + "s_waitcnt vmcnt(0)\nv_mov_b32_e32 v4, v1"));
  EXPECT_TRUE(uses_early(kLoad + "s_waitcnt lgkmcnt(0)\nv_mov_b32_e32 v4, v1"));
  EXPECT_TRUE(uses_early(kLoad + "s_waitcnt vmcnt(1)\nv_mov_b32_e32 v4, v1"));
  EXPECT_FALSE(uses_early(kLoad + "global_load_dword v5, v[2:3], off\ns_waitcnt vmcnt(1)\nv_mov_b32_e32 v4, v1"));
}

TEST(EarlyUse, AHalfThatIsNotSelectedIsNotRead) {
  EXPECT_TRUE(uses_early(kLoad + "v_pk_mul_f32 v[4:5], v[6:7], v[0:1]"));
  EXPECT_FALSE(uses_early(kLoad + "v_pk_mul_f32 v[4:5], v[6:7], v[0:1] op_sel_hi:[1,0]"));
}

TEST(EarlyUse, SharedMemoryAndScalarLoads) {
  const std::string read = "ds_read_b32 v1, v2\n", scalar = "s_load_dword s4, s[0:1], 0x0\n";
  EXPECT_TRUE(uses_early(read + "v_mov_b32_e32 v4, v1", Counter::kLocal));
  EXPECT_FALSE(uses_early(read + "s_waitcnt lgkmcnt(0)\nv_mov_b32_e32 v4, v1", Counter::kLocal));
  EXPECT_TRUE(uses_early("ds_write_b32 v1, v2\ns_barrier", Counter::kLocal));
  EXPECT_FALSE(uses_early("ds_write_b32 v1, v2\ns_waitcnt lgkmcnt(0)\ns_barrier", Counter::kLocal));
  EXPECT_TRUE(uses_early(scalar + "s_mov_b32 s5, s4", Counter::kLocal));
  // With a scalar load on its way a count other than 0 says nothing.
  EXPECT_TRUE(uses_early(read + scalar + "s_waitcnt lgkmcnt(1)\nv_mov_b32_e32 v4, v1", Counter::kLocal));
  EXPECT_FALSE(uses_early(read + "ds_read_b32 v5, v2\ns_waitcnt lgkmcnt(1)\nv_mov_b32_e32 v4, v1", Counter::kLocal));
}

TEST(EarlyUse, BothWaysOfABranchCount) {
  EXPECT_TRUE(uses_early(kLoad + "s_cbranch_scc1 1 -> 3\ns_waitcnt vmcnt(0)\nv_mov_b32_e32 v4, v1"));
  EXPECT_FALSE(uses_early(kLoad + "s_cbranch_scc1 1 -> 3\ns_nop 0\ns_waitcnt vmcnt(0)\nv_mov_b32_e32 v4, v1"));
}

TEST(EarlyUse, AWaveHasActiveLanes) {
  // Nobody takes the first branch past the wait; somebody may take one past a part for some lanes.
  EXPECT_FALSE(uses_early(kLoad + "s_cbranch_execz 1 -> 3\ns_waitcnt vmcnt(0)\nv_mov_b32_e32 v4, v1"));
  const std::string some = kLoad + "s_and_saveexec_b64 s[4:5], vcc\n";
  EXPECT_TRUE(uses_early(some + "s_cbranch_execz 1 -> 4\ns_waitcnt vmcnt(0)\nv_mov_b32_e32 v4, v1"));
  // The mask from before brings lanes back, unless it is another.
  EXPECT_FALSE(uses_early(some + "s_or_b64 exec, exec, s[4:5]\ns_cbranch_execz 1 -> 5\ns_waitcnt vmcnt(0)\n"
                                 "v_mov_b32_e32 v4, v1"));
  EXPECT_TRUE(uses_early(some + "s_mov_b64 s[4:5], 0\ns_or_b64 exec, exec, s[4:5]\ns_cbranch_execz 1 -> 6\n"
                                "s_waitcnt vmcnt(0)\nv_mov_b32_e32 v4, v1"));
}

}  // namespace
}  // namespace sextant::hip::isa
