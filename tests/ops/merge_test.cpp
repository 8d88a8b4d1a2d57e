// Merging any split of a sequence equals the whole.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <random>

#include "reference/oracle.h"
#include "support/cases.h"

namespace sextant {
namespace {

struct State {
  std::vector<float> out;
  std::vector<float> lse;
};

constexpr int64_t kTokens = 3, kHeads = 2, kDim = 8;

MergeAttnStatesArgs merge_args(const State& prefix, const State& suffix, State& result) {
  const auto out = [](const State& s) {
    return make_view(const_cast<float*>(s.out.data()), DType::kF32, {kTokens, kHeads, kDim});
  };
  const auto lse = [](const State& s) {
    return make_view(const_cast<float*>(s.lse.data()), DType::kF32, {kHeads, kTokens});
  };
  MergeAttnStatesArgs args;
  args.prefix_out = out(prefix);
  args.prefix_lse = lse(prefix);
  args.suffix_out = out(suffix);
  args.suffix_lse = lse(suffix);
  args.out = out(result);
  args.lse = lse(result);
  return args;
}

// Attention over keys [begin, end) of random data, by the oracle.
State state_of(uint64_t seed, int64_t begin, int64_t end) {
  reference::OracleRequest r;
  r.spec = testing::mha_spec(kHeads, 1, kDim, DType::kF32);
  r.spec.causal = false;
  r.query_len = kTokens;
  r.seq_len = end - begin;
  const auto number = [seed](int64_t stream, int64_t a, int64_t b, int64_t c) {
    std::mt19937_64 engine(seed + 1000003 * static_cast<uint64_t>(stream) + 7919 * static_cast<uint64_t>(a) +
                           101 * static_cast<uint64_t>(b) + static_cast<uint64_t>(c));
    return std::normal_distribution<double>()(engine);
  };
  r.q = [=](int64_t t, int32_t h, int32_t d) { return 3 * number(1, t, h, d); };
  r.k = [=](int64_t p, int32_t h, int32_t d) { return number(2, begin + p, h, d); };
  r.v = [=](int64_t p, int32_t h, int32_t d) { return number(3, begin + p, h, d); };
  State state{std::vector<float>(kTokens * kHeads * kDim), std::vector<float>(kHeads * kTokens)};
  for (int64_t t = 0; t < kTokens; ++t)
    for (int32_t h = 0; h < kHeads; ++h) {
      const reference::OracleRow row = reference::attend_row(r, t, h);
      for (int64_t d = 0; d < kDim; ++d)
        state.out[static_cast<size_t>((t * kHeads + h) * kDim + d)] =
            static_cast<float>(row.out[static_cast<size_t>(d)]);
      state.lse[static_cast<size_t>(h * kTokens + t)] = static_cast<float>(row.lse);
    }
  return state;
}

void expect_close(const State& got, const State& expected) {
  for (size_t i = 0; i < got.out.size(); ++i) RC_ASSERT(std::fabs(got.out[i] - expected.out[i]) <= 1e-5F);
  for (size_t i = 0; i < got.lse.size(); ++i)
    RC_ASSERT(got.lse[i] == expected.lse[i] || std::fabs(got.lse[i] - expected.lse[i]) <= 1e-5F);
}

RC_GTEST_PROP(Merge, AnySplitEqualsTheWhole, ()) {
  const auto keys = *rc::gen::inRange<int64_t>(0, 24);
  const auto cut = *rc::gen::inRange<int64_t>(0, keys + 1);
  const auto seed = *rc::gen::arbitrary<uint32_t>();
  const auto family = *rc::gen::element(KernelFamily::kPortable, KernelFamily::kTuned);
  State merged = state_of(seed, 0, cut);
  const State suffix = state_of(seed, cut, keys);
  RC_ASSERT(testing::cpu()
                ->ops(family)
                .merge_attn_states(merge_args(merged, suffix, merged), {})
                .is_ok());  // out aliases prefix
  expect_close(merged, state_of(seed, 0, keys));
}

RC_GTEST_PROP(Merge, IsAssociative, ()) {
  const auto seed = *rc::gen::arbitrary<uint32_t>();
  const auto a = *rc::gen::inRange<int64_t>(0, 6), b = *rc::gen::inRange<int64_t>(0, 6),
             c = *rc::gen::inRange<int64_t>(0, 6);
  const State first = state_of(seed, 0, a), second = state_of(seed, a, a + b), third = state_of(seed, a + b, a + b + c);
  const Ops& ops = testing::cpu()->ops(KernelFamily::kPortable);
  State left = first, right = third, both = first;
  RC_ASSERT(ops.merge_attn_states(merge_args(first, second, left), {}).is_ok());
  RC_ASSERT(ops.merge_attn_states(merge_args(left, third, left), {}).is_ok());
  RC_ASSERT(ops.merge_attn_states(merge_args(second, third, right), {}).is_ok());
  RC_ASSERT(ops.merge_attn_states(merge_args(first, right, both), {}).is_ok());
  expect_close(left, both);
}

TEST(Merge, FilterLeavesOtherTokensAlone) {
  State prefix = state_of(1, 0, 4), suffix = state_of(1, 4, 9), out = prefix;
  std::fill(out.out.begin(), out.out.end(), 77.0F);
  MergeAttnStatesArgs args = merge_args(prefix, suffix, out);
  const int32_t query_start_loc[] = {0, 1, 3}, seq_lens[] = {9, 9};
  args.query_start_loc = query_start_loc;
  args.seq_lens = seq_lens;
  args.num_requests = 2;
  args.filter.min_query_len = 2;
  ASSERT_OK(testing::cpu()->ops(KernelFamily::kTuned).merge_attn_states(args, {}));
  for (int64_t i = 0; i < kHeads * kDim; ++i) EXPECT_EQ(out.out[static_cast<size_t>(i)], 77.0F);
  EXPECT_NE(out.out.back(), 77.0F);
}

}  // namespace
}  // namespace sextant
