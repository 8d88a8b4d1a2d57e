// Which keys a query sees: the interval against the rules spelled out key by key.
#include "sextant/attention_mask.h"

#include <gtest/gtest.h>

#include "sextant/spec.h"

namespace sextant {
namespace {

TEST(AttentionMask, IntervalsAreTheRules) {
  for (int32_t left : {0, 1, 5, AttentionMask::kUnlimited})
    for (int32_t right : {0, 3, AttentionMask::kUnlimited})
      for (int32_t chunk : {0, 1, 4, 7}) {
        const AttentionMask mask{left, right, chunk};
        for (int64_t query = -9; query < 20; ++query)
          for (int64_t key = 0; key < 30; ++key) {
            const bool near = query - key <= left && key - query <= right;
            const bool together = chunk == 0 || (query >= 0 && query / chunk == key / chunk);
            EXPECT_EQ(mask.visible(query, key), near && together) << query << " " << key << " chunk " << chunk;
          }
      }
}

TEST(AttentionMask, EndsNeverFall) {
  for (const AttentionMask mask : {AttentionMask{5, 0, 0}, AttentionMask{AttentionMask::kUnlimited, 0, 7},
                                   AttentionMask{3, 2, 4}, AttentionMask{}})
    for (int64_t query = -20; query < 50; ++query) {
      EXPECT_LE(mask.first_key(query), mask.first_key(query + 1));
      EXPECT_LE(mask.end_key(query), mask.end_key(query + 1));
      if (query >= 0 && mask.most_left() != AttentionMask::kUnlimited) {
        EXPECT_LE(query - mask.first_key(query), mask.most_left());
      }
    }
}

TEST(AttentionMask, SpansJoinTheInterval) {
  const TokenSpan span{4, 11};
  for (const AttentionMask mask :
       {AttentionMask{0, 0, 0, 7}, AttentionMask{2, 1, 0, 7}, AttentionMask{AttentionMask::kUnlimited, 0, 3, 7},
        AttentionMask{AttentionMask::kUnlimited, 0, 0, 7}})
    for (int64_t query = 0; query < 16; ++query) {
      const TokenSpan own = span.holds(query) ? span : TokenSpan{};
      for (int64_t key = 0; key < 16; ++key) {
        const bool together = span.holds(query) && span.holds(key);
        EXPECT_EQ(mask.visible(query, key, own), together || mask.visible(query, key)) << query << " " << key;
        EXPECT_TRUE(!mask.visible(query, key, own) || mask.widest().visible(query, key)) << query << " " << key;
      }
      const TokenSpan next = span.holds(query + 1) ? span : TokenSpan{};
      EXPECT_LE(mask.first_key(query, own), mask.first_key(query + 1, next));
      EXPECT_LE(mask.end_key(query, own), mask.end_key(query + 1, next));
    }
  // A span that does not hold the query is none.
  EXPECT_EQ((AttentionMask{2, 0, 0, 7}.first_key(20, span)), 18);
  EXPECT_EQ((AttentionMask{2, 0, 0, 7}.most_left()), 6);
  EXPECT_EQ((AttentionMask{9, 0, 0, 7}.most_left()), 9);
  EXPECT_EQ((AttentionMask{2, 0, 0, AttentionMask::kUnlimited}.most_right()), AttentionMask::kUnlimited);
  EXPECT_EQ((AttentionMask{9, 0, 16, 0}.widest()), (AttentionMask{9, 0, 16}));
}

TEST(AttentionMask, FollowsFromTheSpec) {
  AttentionSpec spec;
  EXPECT_EQ(spec.mask(), (AttentionMask{AttentionMask::kUnlimited, 0, 0}));
  spec.sliding_window = 8;
  spec.attention_chunk_size = 16;
  EXPECT_EQ(spec.mask(), (AttentionMask{7, 0, 16}));
  spec.max_span_len = 40;
  EXPECT_EQ(spec.mask(), (AttentionMask{7, 0, 16, 40}));
  spec = {};
  spec.causal = false;
  spec.window_left = 3;
  EXPECT_EQ(spec.mask(), (AttentionMask{3, AttentionMask::kUnlimited, 0}));
}

}  // namespace
}  // namespace sextant
