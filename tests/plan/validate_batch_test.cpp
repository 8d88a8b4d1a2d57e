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
  seq_lens[0] = 1;  // fewer keys than queries: the first query sees nothing
  EXPECT_OK(check());
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

TEST_F(BatchTest, IdsThatNoQuerySeesMayBeAnything) {
  AttentionSpec spec;
  spec.sliding_window = 3;
  block_table = {-1, 1, 99, 3};  // request 0's first query at 18 sees 16..18; request 1's at 8 sees 6..8
  EXPECT_ERROR(validate({query_start_loc, seq_lens, block_table, 2, slot_mapping}, cache, spec),
               StatusCode::kInvalidArgument, "block_table[1][0] is 99");
  block_table[2] = 2;
  EXPECT_OK(validate({query_start_loc, seq_lens, block_table, 2, slot_mapping}, cache, spec));
  EXPECT_ERROR(check(), StatusCode::kInvalidArgument, "block_table[0][0] is -1");
}

TEST_F(BatchTest, ManySlotsEachItsOwn) {
  cache.num_blocks = 1000;
  query_start_loc = {0, 2, 9000};
  slot_mapping.resize(9000);
  for (size_t t = 0; t < slot_mapping.size(); ++t) slot_mapping[t] = static_cast<int64_t>(t * 7919 % 16000);
  seq_lens[1] = 20;
  EXPECT_OK(check());
  slot_mapping[8999] = slot_mapping[17];
  EXPECT_ERROR(check(), StatusCode::kInvalidArgument, "(slot_mapping[17] is the same)");
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

TEST_F(BatchTest, TokenSpans) {
  AttentionSpec spec;
  spec.max_span_len = 8;
  std::vector<int32_t> spans;  // tokens at positions 18 and 19 of request 0, and 8 of request 1
  const auto checked = [&](std::vector<int32_t> now) {
    spans = std::move(now);
    BatchMetadata batch{query_start_loc, seq_lens, block_table, 2, slot_mapping};
    batch.token_spans = spans;
    return validate(batch, cache, spec);
  };
  EXPECT_OK(checked({0, 0, 5, 5, 9, 2}));       // none
  EXPECT_OK(checked({13, 20, 13, 20, 8, 9}));   // begun in the context
  EXPECT_OK(checked({18, 19, 19, 27, 8, 16}));  // side by side, and longer than the request is now
  EXPECT_OK(checked({15, 19, 0, 0, 8, 16}));
  EXPECT_ERROR(checked({0, 0, 0, 0}), StatusCode::kInvalidArgument, "token_spans has 4 entries; allowed: >= 6");
  EXPECT_ERROR(
      checked({0, 0, 12, 19, 0, 0}), StatusCode::kInvalidArgument,
      "token_spans[1] is [12, 19); allowed: begin >= end (none), or one from 0 on that holds the token's position "
      "19 in request 0");
  EXPECT_ERROR(checked({0, 0, 0, 0, -1, 9}), StatusCode::kInvalidArgument, "token_spans[2] is [-1, 9)");
  EXPECT_ERROR(checked({0, 0, 0, 0, 0, 9}), StatusCode::kInvalidArgument,
               "token_spans[2] is [0, 9), 9 long; allowed: <= 8 (spec.max_span_len)");
  EXPECT_ERROR(checked({13, 20, 0, 0, 0, 0}), StatusCode::kInvalidArgument,
               "token_spans[1] is [0, 0); allowed: what its span's tokens all have (token_spans[0] is [13, 20))");
  EXPECT_ERROR(checked({13, 20, 14, 20, 0, 0}), StatusCode::kInvalidArgument, "token_spans[1] is [14, 20)");
  EXPECT_ERROR(checked({0, 0, 17, 20, 0, 0}), StatusCode::kInvalidArgument, "token_spans[1] is [17, 20)");
  spec.max_span_len = 0;  // nobody reads them
  EXPECT_OK(checked({13, 20, 0, 0, 0, 0}));
}

// A span keeps blocks that the window has left behind.
TEST_F(BatchTest, SpansSeeMoreBlocks) {
  AttentionSpec spec;
  spec.sliding_window = 3;
  spec.max_span_len = 16;
  block_table = {-1, 1, 2, 3};
  std::vector<int32_t> spans = {16, 20, 16, 20, 0, 0};
  BatchMetadata batch{query_start_loc, seq_lens, block_table, 2, slot_mapping};
  batch.token_spans = spans;
  EXPECT_OK(validate(batch, cache, spec));
  spans = {15, 20, 15, 20, 0, 0};
  EXPECT_ERROR(validate(batch, cache, spec), StatusCode::kInvalidArgument, "block_table[0][0] is -1");
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
