#include <gtest/gtest.h>

#include <vector>

#include "sextant/batch.h"
#include "support/matchers.h"

namespace sextant {
namespace {

struct BatchTest : ::testing::Test {
  std::vector<int32_t> query_start_loc{0, 2, 3};
  std::vector<int32_t> seq_lens{20, 9};
  std::vector<int32_t> block_table{0, 1, 2, 3};
  std::vector<int64_t> slot_mapping{18, 19, 40};
  KvCacheSpec cache;
  int32_t shared_prefix_len = 0;

  BatchTest() {
    cache.num_blocks = 4;
    cache.block_size = 16;
    cache.num_kv_heads = 2;
    cache.head_dim = cache.head_dim_v = 64;
  }
  Status check() const {
    return validate({query_start_loc, seq_lens, block_table, 2, slot_mapping, shared_prefix_len}, cache);
  }
};

TEST_F(BatchTest, AcceptsAGoodBatch) { EXPECT_OK(check()); }

TEST_F(BatchTest, QueryStartLoc) {
  query_start_loc = {0, 2};
  EXPECT_ERROR(check(), StatusCode::kInvalidArgument, "query_start_loc has 2 entries; allowed: 3");
  query_start_loc = {1, 2, 3};
  EXPECT_ERROR(check(), StatusCode::kInvalidArgument, "query_start_loc[0] is 1; allowed: 0");
  query_start_loc = {0, 2, 1};
  EXPECT_ERROR(check(), StatusCode::kInvalidArgument, "query_start_loc[2] is 1; allowed: >= 2");
}

TEST_F(BatchTest, SeqLens) {
  seq_lens[0] = 1;
  EXPECT_ERROR(check(), StatusCode::kInvalidArgument, "seq_lens[0] is 1; allowed: >= 2");
  seq_lens[0] = 33;
  EXPECT_ERROR(check(), StatusCode::kInvalidArgument, "seq_lens[0] is 33; allowed: <= 32");
  seq_lens[0] = -5;
  EXPECT_ERROR(check(), StatusCode::kInvalidArgument, "seq_lens[0] is -5");
}

TEST_F(BatchTest, BlockIds) {
  block_table[1] = 4;
  EXPECT_ERROR(check(), StatusCode::kInvalidArgument, "block_table[0][1] is 4; allowed: 0..3 (num_blocks 4)");
  block_table[1] = -1;
  EXPECT_ERROR(check(), StatusCode::kInvalidArgument, "block_table[0][1] is -1");
  block_table = {0, 1, 2, -1};  // the last entry is beyond the sequence: anything goes
  EXPECT_OK(check());
}

TEST_F(BatchTest, Slots) {
  slot_mapping[1] = 64;
  EXPECT_ERROR(check(), StatusCode::kInvalidArgument, "slot_mapping[1] is 64; allowed: < 64");
  slot_mapping[1] = 18;
  EXPECT_ERROR(check(), StatusCode::kInvalidArgument,
               "slot_mapping[1] is 18; allowed: a slot of its own (slot_mapping[0]");
  slot_mapping = {-1, -1, 40};
  EXPECT_OK(check());
  slot_mapping = {18};
  EXPECT_ERROR(check(), StatusCode::kInvalidArgument, "slot_mapping has 1 entries; allowed: >= 3");
}

TEST_F(BatchTest, SharedPrefix) {
  shared_prefix_len = 5;
  EXPECT_ERROR(check(), StatusCode::kInvalidArgument, "shared_prefix_len is 5; allowed: a multiple of block_size (16)");
  shared_prefix_len = 16;
  EXPECT_ERROR(check(), StatusCode::kInvalidArgument, "shared_prefix_len is 16; allowed: <= 8 (context of request 1)");
  seq_lens[1] = 20;
  EXPECT_ERROR(check(), StatusCode::kInvalidArgument, "block_table[1][0] is 2");
  block_table[2] = 0;
  EXPECT_OK(check());
}

}  // namespace
}  // namespace sextant
