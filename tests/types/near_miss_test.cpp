#include "types/near_miss.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <vector>

namespace sextant {
namespace {

TEST(EditDistance, CountsSlips) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("abc", ""), 3u);
  EXPECT_EQ(edit_distance("abc", "ABC"), 0u);
  EXPECT_EQ(edit_distance("VLLM_ATTENTION_BACKND", "VLLM_ATTENTION_BACKEND"), 1u);  // the article's own slip
  EXPECT_EQ(edit_distance("TRITON_ATTN", "TRITON_ATNT"), 1u);                       // swapped neighbours
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
}

TEST(Nearest, SuggestsSlipsAndNothingElse) {
  const std::vector<std::string> names = {"TRITON_ATTN", "TRITON_MLA", "ROCM_ATTN"};
  EXPECT_EQ(nearest("TRITON_ATN", names), "TRITON_ATTN");
  EXPECT_EQ(nearest("rocm_attn", names), "ROCM_ATTN");
  EXPECT_EQ(nearest("FLASH_ATTN_VLLM_V1", names), std::nullopt);
  EXPECT_EQ(nearest("", names), std::nullopt);
  EXPECT_EQ(nearest("PATH", std::vector<std::string>{"VLLM_ATTENTION_BACKEND"}), std::nullopt);
  EXPECT_EQ(nearest("anything", {}), std::nullopt);
}

RC_GTEST_PROP(EditDistanceProperty, IsADistance, (const std::string& a, const std::string& b)) {
  RC_ASSERT(edit_distance(a, b) == edit_distance(b, a));
  RC_ASSERT(edit_distance(a, a) == 0u);
  RC_ASSERT(edit_distance(a, b) <= std::max(a.size(), b.size()));
}

}  // namespace
}  // namespace sextant
