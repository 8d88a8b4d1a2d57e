#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <set>

#include "sextant/workload.h"

namespace sextant {
namespace {

using Lengths = std::vector<RequestLengths>;

std::string message_of(const char* text) { return parse_batch(text).status().message(); }

TEST(BatchGrammar, ReadsTheArticlesCase) { EXPECT_EQ(parse_batch("q3616s20000").value(), (Lengths{{3616, 20000}})); }

TEST(BatchGrammar, ReadsCountsAndKibi) {
  const Lengths requests = parse_batch("2q2k_32q1s1k").value();
  ASSERT_EQ(requests.size(), 34u);
  EXPECT_EQ(requests[0], (RequestLengths{2048, 2048}));
  EXPECT_EQ(requests[1], (RequestLengths{2048, 2048}));
  EXPECT_EQ(requests[33], (RequestLengths{1, 1024}));
}

TEST(BatchGrammar, NamesThePositionOfAnError) {
  EXPECT_EQ(message_of(""),
            "batch \"\": found the end at position 1; allowed: \"q\" (a segment is [count]q<len>[k][s<kvlen>[k]])");
  EXPECT_EQ(message_of("2x"),
            "batch \"2x\": found \"x\" at position 2; allowed: \"q\" (a segment is [count]q<len>[k][s<kvlen>[k]])");
  EXPECT_EQ(message_of("q"), "batch \"q\": found the end at position 2; allowed: a digit (query length)");
  EXPECT_EQ(message_of("q1s"), "batch \"q1s\": found the end at position 4; allowed: a digit (KV length)");
  EXPECT_EQ(message_of("q1_"),
            "batch \"q1_\": found the end at position 4; allowed: \"q\" (a segment is [count]q<len>[k][s<kvlen>[k]])");
  EXPECT_EQ(message_of("q1m"), "batch \"q1m\": found \"m\" at position 3; allowed: \"_\" or the end");
  EXPECT_EQ(message_of("q 1"), "batch \"q 1\": found \" \" at position 2; allowed: a digit (query length)");
}

TEST(BatchGrammar, NamesValuesOutOfRange) {
  EXPECT_EQ(message_of("q2ks1k"),
            "batch \"q2ks1k\": KV length at position 5 is 1024; allowed: >= 2048 (the query length)");
  EXPECT_EQ(message_of("0q1"), "batch \"0q1\": count at position 1 is 0; allowed: 1..1048576");
  EXPECT_EQ(message_of("q0"), "batch \"q0\": query length at position 2 is 0; allowed: 1..2147483647");
  EXPECT_EQ(
      message_of("q1s99999999999999999999"),
      "batch \"q1s99999999999999999999\": KV length at position 4 is 99999999999999999999; allowed: 1..2147483647");
  EXPECT_EQ(message_of("q2097152k"),
            "batch \"q2097152k\": query length at position 2 is 2097152k; allowed: 1..2147483647");
  EXPECT_FALSE(parse_batch("1048576q1_q1").is_ok());
}

RC_GTEST_PROP(BatchGrammarProperty, NeverCrashes, ()) {
  const auto text = *rc::gen::container<std::string>(rc::gen::elementOf(std::string("0123459qsk_x ")));
  const auto requests = parse_batch(text);
  if (!requests.is_ok()) RC_SUCCEED("refused");
  for (const RequestLengths& request : *requests)
    RC_ASSERT(request.query_len >= 1 && request.seq_len >= request.query_len);
}

TEST(BatchLayout, GivesEveryRequestItsOwnBlocks) {
  const Lengths requests = {{3, 10}, {1, 1}, {8, 8}};
  ASSERT_EQ(blocks_needed(requests, 4), 3 + 1 + 2);
  const BatchArrays batch = lay_out_batch(requests, 4, 6).value();
  EXPECT_TRUE(validate(batch.metadata(),
                       KvCacheSpec{.num_blocks = 6, .block_size = 4, .num_kv_heads = 1, .head_dim = 8, .head_dim_v = 8})
                  .is_ok());
  EXPECT_EQ(batch.query_start_loc, (std::vector<int32_t>{0, 3, 4, 12}));
  EXPECT_EQ(batch.max_blocks_per_request, 3);
  EXPECT_EQ(std::set<int64_t>(batch.slot_mapping.begin(), batch.slot_mapping.end()).size(), 12u);
  EXPECT_EQ(batch.slot_mapping[0], batch.block_table[1] * 4 + 3);  // the first new token of request 0 is position 7
}

TEST(BatchLayout, RefusesWhatCannotFit) {
  EXPECT_EQ(lay_out_batch({{1, 100}}, 16, 6).status().message(),
            "num_blocks is 6; allowed: 7..2147483647 for this batch");
  EXPECT_EQ(lay_out_batch(Lengths(1 << 12, {1 << 20, 1 << 20}), 128, 1 << 25).status().message(),
            "the batch has 4294967296 query tokens; allowed: at most 2147483647");
  Lengths short_ones(1 << 20, {1, 1});
  short_ones.push_back({1, 1 << 20});
  EXPECT_EQ(lay_out_batch(short_ones, 16, 1 << 21).status().message(),
            "the block_table of 1048577 requests is 65536 blocks wide; allowed: at most 2147483647 entries");
  EXPECT_FALSE(lay_out_batch({{1, 1}}, 0, 6).is_ok());
}

}  // namespace
}  // namespace sextant
