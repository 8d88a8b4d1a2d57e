// The oracle against closed forms.
#include "reference/oracle.h"

#include <gtest/gtest.h>

#include <cmath>

namespace sextant::reference {
namespace {

OracleRequest uniform_request(int64_t query_len, int64_t seq_len) {
  OracleRequest r;
  r.spec.num_heads = 2;
  r.spec.num_kv_heads = 1;
  r.spec.head_dim = 8;
  r.spec.softmax_scale = 1.0F;
  r.query_len = query_len;
  r.seq_len = seq_len;
  r.q = [](int64_t, int32_t, int32_t) { return 0.0; };
  r.k = [](int64_t, int32_t, int32_t) { return 1.0; };
  r.v = [](int64_t position, int32_t, int32_t) { return static_cast<double>(position); };
  return r;
}

TEST(Oracle, EqualScoresAverageTheVisibleValues) {
  OracleRequest r = uniform_request(4, 10);
  EXPECT_DOUBLE_EQ(attend_row(r, 0, 0).out[0], 3.0);  // keys 0..6
  EXPECT_DOUBLE_EQ(attend_row(r, 3, 1).out[7], 4.5);  // keys 0..9
  EXPECT_NEAR(attend_row(r, 3, 1).lse, std::log(10.0), 1e-12);
  r.spec.causal = false;
  EXPECT_DOUBLE_EQ(attend_row(r, 0, 0).out[0], 4.5);
}

TEST(Oracle, WindowKeepsTheNewestKeys) {
  OracleRequest r = uniform_request(1, 10);
  r.spec.sliding_window = 1;
  EXPECT_DOUBLE_EQ(attend_row(r, 0, 0).out[0], 9.0);
  r.spec.sliding_window = 3;
  EXPECT_DOUBLE_EQ(attend_row(r, 0, 0).out[0], 8.0);
}

TEST(Oracle, TokensOfASpanSeeAllOfIt) {
  OracleRequest r = uniform_request(4, 10);  // positions 6 to 9
  r.spec.sliding_window = 2;
  const TokenSpan spans[] = {{3, 8}, {3, 8}, {}, {9, 12}};
  r.spans = spans;
  EXPECT_DOUBLE_EQ(attend_row(r, 0, 0).out[0], 5.0);  // keys 3 to 7
  EXPECT_DOUBLE_EQ(attend_row(r, 1, 0).out[0], 5.0);
  EXPECT_DOUBLE_EQ(attend_row(r, 2, 0).out[0], 7.5);  // 7 and 8
  EXPECT_DOUBLE_EQ(attend_row(r, 3, 0).out[0], 8.5);  // its span goes on after the last key
}

TEST(Oracle, SinkJoinsTheDenominatorOnly) {
  OracleRequest r = uniform_request(1, 3);
  const float sinks[] = {0.0F, static_cast<float>(std::log(3.0))};
  r.sinks = sinks;
  EXPECT_NEAR(attend_row(r, 0, 0).out[0], 3.0 / 4.0, 1e-12);
  EXPECT_NEAR(attend_row(r, 0, 1).out[0], 3.0 / 6.0, 1e-6);
  EXPECT_NEAR(attend_row(r, 0, 0).lse, std::log(4.0), 1e-12);
}

TEST(Oracle, AlibiFavoursNearKeys) {
  OracleRequest r = uniform_request(1, 2);
  const float slopes[] = {static_cast<float>(std::log(3.0)), 0.0F};
  r.alibi_slopes = slopes;
  EXPECT_NEAR(attend_row(r, 0, 0).out[0], 3.0 / 4.0, 1e-7);
}

TEST(Oracle, NothingVisibleGivesZero) {
  OracleRequest r = uniform_request(1, 0);
  const OracleRow row = attend_row(r, 0, 0);
  EXPECT_EQ(row.out[0], 0.0);
  EXPECT_TRUE(std::isinf(row.lse) && row.lse < 0);
}

}  // namespace
}  // namespace sextant::reference
