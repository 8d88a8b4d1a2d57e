// Faults that users met in other implementations, one test each, through every backend that could have them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/cases.h"

namespace sextant {
namespace {

using testing::cpu;
using testing::expect_right_everywhere;
using testing::make_case;
using testing::mha_spec;
using testing::mla_spec;
using verify::Case;

// 1. The window was one key short, and W = 1 switched it off.
TEST(PeerFaults, WindowKeepsExactlyWKeys) {
  for (int32_t window : {1, 2, 3, 17}) {
    Case c = make_case(mha_spec(4, 2, 64, DType::kF32), {{1, 40}, {6, 30}, {9, 9}});
    c.spec.sliding_window = window;
    expect_right_everywhere(c);
  }
}

// 2. Softcap was applied in decode but not in prefill and extend.
TEST(PeerFaults, SoftcapOnEveryPath) {
  for (const verify::RequestShape request : {verify::RequestShape{1, 50}, {8, 50}, {20, 20}}) {
    Case c = make_case(mha_spec(4, 2, 64, DType::kF32), {request});
    c.spec.logits_soft_cap = 2;
    c.magnitude = 4;
    expect_right_everywhere(c);
  }
}

// 3. ALiBi in context chunks lacked the position offset.
TEST(PeerFaults, AlibiInContextChunks) {
  Case c = make_case(mha_spec(8, 2, 64, DType::kF32), {{5, 200}, {3, 77}});
  c.spec.has_alibi = true;
  c.options.chunk_workspace_rows = 64;
  expect_right_everywhere(c);
}

// 4. Sinks were counted once a chunk.
TEST(PeerFaults, SinksCountOnce) {
  Case c = make_case(mha_spec(8, 2, 64, DType::kF32), {{5, 200}, {3, 77}, {1, 90}, {1, 600}});
  c.spec.has_sinks = true;
  c.options.chunk_workspace_rows = 40;
  expect_right_everywhere(c);
}

// 5. Merging two empty states gave NaN.
TEST(PeerFaults, MergingTwoEmptyStates) {
  for (KernelFamily family : {KernelFamily::kPortable, KernelFamily::kTuned})
    for (const float empty : {-std::numeric_limits<float>::infinity(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> prefix(2 * 8, NAN), suffix(2 * 8, NAN), out(2 * 8, 5), prefix_lse(2, empty),
          suffix_lse(2, empty), lse(2, 5);
      MergeAttnStatesArgs args;
      args.prefix_out = make_view(prefix.data(), DType::kF32, {1, 2, 8});
      args.suffix_out = make_view(suffix.data(), DType::kF32, {1, 2, 8});
      args.out = make_view(out.data(), DType::kF32, {1, 2, 8});
      args.prefix_lse = make_view(prefix_lse.data(), DType::kF32, {2, 1});
      args.suffix_lse = make_view(suffix_lse.data(), DType::kF32, {2, 1});
      args.lse = make_view(lse.data(), DType::kF32, {2, 1});
      ASSERT_OK(cpu()->ops(family).merge_attn_states(args, {}));
      for (float x : out) EXPECT_EQ(x, 0.0F);
      for (float x : lse) EXPECT_EQ(x, -std::numeric_limits<float>::infinity());
    }
}

// 6. A chunk that starts inside a block was gathered from the block's start.
TEST(PeerFaults, GatherFromTheMiddleOfABlock) {
  KvCacheSpec spec;
  spec.dtype = DType::kF32;
  spec.num_blocks = 1400;
  spec.block_size = 16;
  spec.num_kv_heads = 1;
  spec.head_dim = spec.head_dim_v = 8;
  std::vector<float> k(static_cast<size_t>(k_elements(spec))), v(k.size());
  for (size_t i = 0; i < k.size(); ++i) v[i] = -(k[i] = static_cast<float>(i));
  std::vector<int32_t> table(1400);
  for (int32_t i = 0; i < 1400; ++i) table[static_cast<size_t>(i)] = 1399 - i;
  const int64_t begin = 65536 / 3, rows = 40;
  const int32_t key_start_loc[] = {0, static_cast<int32_t>(rows)};
  std::vector<float> k_out(rows * 8), v_out(rows * 8);
  GatherCacheArgs args;
  args.cache = make_kv_cache_view(spec, k.data(), v.data());
  args.block_table = table.data();
  args.block_table_stride = 1400;
  args.num_requests = 1;
  args.key_start_loc = key_start_loc;
  args.chunk_begin = begin;
  args.max_rows = rows;
  args.k = make_view(k_out.data(), DType::kF32, {rows, 1, 8});
  args.v = make_view(v_out.data(), DType::kF32, {rows, 1, 8});
  for (KernelFamily family : {KernelFamily::kPortable, KernelFamily::kTuned}) {
    ASSERT_OK(cpu()->ops(family).gather_cache(args, {}));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t d = 0; d < 8; ++d) {
        const int64_t position = begin + r;
        const auto expected = static_cast<float>(((1399 - position / 16) * 16 + position % 16) * 8 + d);
        ASSERT_EQ(k_out[static_cast<size_t>(r * 8 + d)], expected);
        ASSERT_EQ(v_out[static_cast<size_t>(r * 8 + d)], -expected);
      }
  }
}

// 7. An fp8 cache was gathered without its scale.
TEST(PeerFaults, Fp8ExtendUsesTheScale) {
  for (int32_t scales : {1, 2}) {
    Case c = make_case(mha_spec(8, 2, 64), {{7, 120}, {1, 33}, {12, 12}});
    c.cache_dtype = DType::kF8E4M3FN;
    c.num_scales = scales;
    c.options.chunk_workspace_rows = 50;
    expect_right_everywhere(c);
  }
}

// 8. NaN in the unwritten tail of a block reached the output. Every case poisons its cache; here most of it is tail.
TEST(PeerFaults, PoisonedTailsStayOutside) {
  for (int32_t block_size : {64, 544}) {
    Case c = make_case(mha_spec(4, 2, 128), {{1, 65}, {1, 1}, {3, 67}, {2, 2}});
    c.block_size = block_size;
    expect_right_everywhere(c);
  }
}

// 9. reshape_and_cache dropped heads when Hkv * D / x passed 512.
TEST(PeerFaults, ManyHeadsAreAllWritten) {
  Case c = make_case(mha_spec(128, 128, 64), {{3, 20}, {1, 9}});
  expect_right_everywhere(c);
}

// 10. Block ids past 65,535, unusual block sizes and head sizes, few MLA heads.
TEST(PeerFaults, LargeBlockIds) {
  Case c = make_case(mha_spec(2, 1, 8), {{1, 150}, {5, 60}});
  c.block_size = 1;
  c.spare_blocks = 400'000;
  expect_right_everywhere(c);
}

TEST(PeerFaults, UnusualBlockSizesAndHeadSizes) {
  for (int32_t block_size : {544, 1056, 7}) {
    Case c = make_case(mha_spec(4, 2, 80), {{1, 1100}, {5, 600}});
    c.block_size = block_size;
    expect_right_everywhere(c);
  }
}

TEST(PeerFaults, MlaWithFewHeads) {
  for (int32_t heads : {1, 8, 12, 20}) expect_right_everywhere(make_case(mla_spec(heads), {{1, 70}, {4, 40}, {1, 1}}));
}

// 11. The LSE of a split was kept in bf16.
TEST(PeerFaults, LseIsFp32) {
  Case c = make_case(mha_spec(4, 1, 64), {{1, 900}, {4, 400}});
  c.magnitude = 6;  // an lse of about 100, where bf16 would be off by 0.5
  expect_right_everywhere(c);
}

// 12. Explicit choices that were silently overridden: tests/select/selector_test.cpp.

}  // namespace
}  // namespace sextant
