// What the planner chooses for an H100. Planning is host work: these run on every machine.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "cuda_plan/plan_facts.h"
#include "devices/cuda/attention_plan.h"
#include "devices/cuda/kernel_table.h"
#include "support/matchers.h"

namespace sextant {
namespace {

cuda::ChipLimits h100() {
  cuda::ChipLimits chip;
  chip.sms = 132;
  chip.compute_capability = 90;
  chip.shared_bytes = 232448;
  chip.clusters_at_once[2] = 66;
  chip.clusters_at_once[4] = 32;
  chip.clusters_at_once[8] = 16;
  chip.clusters_at_once[16] = 7;
  return chip;
}

// A batch of requests, every one with `query_len` new tokens but the last, which has `last_query_len`.
struct Batch {
  std::vector<int32_t> seq_lens;
  int32_t query_len = 1, last_query_len = 1;
  int32_t block_size = 16;
  bool deterministic = false;
  KernelFamily family = KernelFamily::kTuned;
  cuda::ChipLimits chip = h100();
};

AttentionPlanArgs decode_args(const Batch& batch) {
  AttentionPlanArgs args;
  args.op = AttentionOp::kUnified;
  args.spec.num_heads = 32;
  args.spec.num_kv_heads = 8;
  args.spec.head_dim = args.spec.head_dim_v = 128;
  args.spec.softmax_scale = 0.1f;
  args.cache.num_kv_heads = 8;
  args.cache.head_dim = args.cache.head_dim_v = 128;
  args.cache.block_size = batch.block_size;
  args.cache.num_blocks = 1 << 20;
  args.deterministic = batch.deterministic;
  return args;
}

AttentionPlanArgs mla_args(const Batch& batch, int32_t heads) {
  AttentionPlanArgs args = decode_args(batch);
  args.op = AttentionOp::kMlaDecode;
  args.spec.num_heads = heads;
  args.spec.num_kv_heads = 1;
  args.spec.head_dim = 576;
  args.spec.head_dim_v = 512;
  args.cache.layout = KvLayout::kLatent;
  args.cache.num_kv_heads = 1;
  args.cache.head_dim = 576;
  args.cache.head_dim_v = 512;
  args.cache.block_size = 64;
  return args;
}

AttentionPlanPtr plan(AttentionPlanArgs args, const Batch& batch) {
  std::vector<int32_t> starts = {0};
  for (size_t b = 0; b < batch.seq_lens.size(); ++b)
    starts.push_back(starts.back() + (b + 1 == batch.seq_lens.size() ? batch.last_query_len : batch.query_len));
  args.query_start_loc = starts;
  args.seq_lens = batch.seq_lens;
  auto made = cuda::plan_attention(args, batch.chip, batch.family);
  EXPECT_TRUE(made.is_ok()) << made.status().message();
  return made.is_ok() ? *made : nullptr;
}
using Facts = std::vector<cuda::PartFacts>;
Facts facts(const AttentionPlanArgs& args, const Batch& batch) { return cuda::facts_of(plan(args, batch)); }
Facts chosen(const Batch& batch) { return facts(decode_args(batch), batch); }

// The part of the cluster kernel.
cuda::PartFacts clusters(const Facts& plan) { return cuda::part_of(plan, "cluster_decode"); }

std::vector<int32_t> requests(int count, int32_t len) { return std::vector<int32_t>(static_cast<size_t>(count), len); }

TEST(CudaPlan, FewRequestsShareTheChipInClusters) {
  EXPECT_EQ(clusters(chosen({requests(1, 1024)})).cluster_size, 8);
  EXPECT_TRUE(clusters(chosen({requests(1, 1024)})).one_an_sm);
  EXPECT_EQ(clusters(chosen({requests(1, 131072)})).cluster_size, 8);
  EXPECT_TRUE(clusters(chosen({requests(1, 131072)})).one_an_sm);
  EXPECT_EQ(clusters(chosen({requests(8, 1024)})).cluster_size, 2);
  EXPECT_TRUE(clusters(chosen({requests(8, 1024)})).one_an_sm);
}

TEST(CudaPlan, ManyEqualRequestsTakeABlockEach) {
  EXPECT_EQ(clusters(chosen({requests(16, 8192)})).cluster_size, 1);
  EXPECT_TRUE(clusters(chosen({requests(16, 8192)})).one_an_sm);
  EXPECT_EQ(clusters(chosen({requests(64, 4096)})).cluster_size, 1);
  EXPECT_FALSE(clusters(chosen({requests(64, 4096)})).one_an_sm);
  EXPECT_EQ(clusters(chosen({requests(256, 1024)})).cluster_size, 1);
  EXPECT_FALSE(clusters(chosen({requests(256, 1024)})).one_an_sm);
}

TEST(CudaPlan, OneLongRequestAmongManyIsBalanced) {
  std::vector<int32_t> lens = requests(200, 100);
  lens[7] = 131072;
  EXPECT_TRUE(cuda::is_balanced(chosen({lens})));
}

TEST(CudaPlan, ClustersTakeAnyPageAndNeedAFreeChoice) {
  EXPECT_TRUE(
      cuda::has_kernel(chosen({.seq_lens = requests(1, 512), .block_size = 1}), "cluster_decode"));  // row by row
  EXPECT_TRUE(cuda::has_kernel(chosen({.seq_lens = requests(1, 8192), .block_size = 24}), "cluster_decode"));
  EXPECT_TRUE(
      cuda::has_kernel(chosen({.seq_lens = requests(1, 8192), .family = KernelFamily::kPortable}), "stream_attention"));
  const Facts fixed = chosen({.seq_lens = requests(1, 8192), .deterministic = true});
  EXPECT_EQ(fixed.at(0).partitions, 8);  // of 1024 keys, whatever the chip
  EXPECT_FALSE(cuda::is_balanced(fixed));
}

TEST(CudaPlan, DecodesRunBesideAPrefillInOneLaunch) {
  const Facts mixed = chosen({.seq_lens = requests(33, 8192), .last_query_len = 2048});
  EXPECT_TRUE(cuda::part_of(mixed, "forward").beside_prefills);
  EXPECT_FALSE(cuda::has_kernel(mixed, "cluster_decode"));
}

TEST(CudaPlan, ALongDecodeGetsItsOwnKernelInAMixedBatch) {
  const Facts mixed = chosen({.seq_lens = {131072, 2048}, .last_query_len = 2048});
  EXPECT_TRUE(cuda::has_kernel(mixed, "forward"));
  EXPECT_TRUE(cuda::has_kernel(mixed, "cluster_decode"));
}

TEST(CudaPlan, ManyQueryTokensOfADecodeFillTheForwardKernelsRows) {
  const auto of = [](int32_t tokens) {
    return chosen({.seq_lens = requests(16, 8192), .query_len = tokens, .last_query_len = tokens});
  };
  EXPECT_TRUE(cuda::has_kernel(of(8), "forward"));
  EXPECT_TRUE(cuda::has_kernel(of(4), "cluster_decode"));
}

TEST(CudaPlan, FewRequestsOfSeveralTokensAreRowTilesOfClusters) {
  Batch batch = {.seq_lens = {592, 592}, .query_len = 8, .last_query_len = 8};
  EXPECT_EQ(clusters(chosen(batch)).cluster_size, 4);
  EXPECT_TRUE(clusters(chosen(batch)).one_an_sm);
  EXPECT_EQ(clusters(chosen(batch)).row_tiles, 2);
  batch.query_len = 3;  // of requests of different lengths, the longest decides how many
  EXPECT_EQ(clusters(chosen(batch)).row_tiles, 2);
  batch.seq_lens.assign(256, 8192);  // keys that are read twice would be missed
  batch.query_len = 8;
  EXPECT_LE(clusters(chosen(batch)).row_tiles, 1);
  batch.seq_lens = {592, 592};
  batch.deterministic = true;
  EXPECT_LE(clusters(chosen(batch)).row_tiles, 1);
}

TEST(CudaPlan, ManyShortDecodesOfWideHeadsFillTheForwardKernel) {
  const Batch batch = {.seq_lens = std::vector<int32_t>(459, 77)};
  AttentionPlanArgs args = decode_args(batch);
  args.spec.head_dim = args.spec.head_dim_v = args.cache.head_dim = args.cache.head_dim_v = 160;
  EXPECT_TRUE(cuda::has_kernel(facts(args, batch), "forward"));
  const Batch few = {.seq_lens = std::vector<int32_t>(8, 4096)};
  EXPECT_GT(clusters(facts(args, few)).cluster_size, 0);
}

TEST(CudaPlan, ManyShortPromptsOverAnFp8CacheReadACopyOfTheirKeys) {
  const Batch batch = {.seq_lens = requests(44, 282), .query_len = 282, .last_query_len = 282, .block_size = 256};
  AttentionPlanArgs args = decode_args(batch);
  args.spec.num_kv_heads = args.cache.num_kv_heads = 32;
  args.spec.head_dim = args.spec.head_dim_v = args.cache.head_dim = args.cache.head_dim_v = 80;
  args.cache.dtype = DType::kF8E4M3FN;
  EXPECT_GT(cuda::copied_blocks(facts(args, batch)), 0);
}

AttentionPlanArgs fp8_window_args(const Batch& batch, int32_t window) {
  AttentionPlanArgs args = decode_args(batch);
  args.spec.num_heads = 16;
  args.spec.num_kv_heads = args.cache.num_kv_heads = 2;
  args.spec.head_dim = args.spec.head_dim_v = args.cache.head_dim = args.cache.head_dim_v = 256;
  args.spec.sliding_window = window;
  args.cache.dtype = DType::kF8E4M3FN;
  return args;
}

TEST(CudaPlan, ACopyHasRoomForTheBlocksThatKeysTouch) {
  Batch batch = {.seq_lens = requests(336, 40), .query_len = 6, .last_query_len = 6, .block_size = 8};
  EXPECT_EQ(cuda::copied_blocks(facts(fp8_window_args(batch, 32), batch)), 336);
  batch.seq_lens = requests(336, 150);  // keys 113 .. 149
  EXPECT_EQ(cuda::copied_blocks(facts(fp8_window_args(batch, 32), batch)), 672);
  batch.seq_lens = requests(336, 300);  // 263 .. 299
  EXPECT_EQ(cuda::copied_blocks(facts(fp8_window_args(batch, 32), batch)), 336);
}

// Of a graph's requests any may be the one of the long query, and its keys may begin anywhere in a block.
TEST(CudaPlan, ACopyForLengthsToComeHasRoomForAllOfThem) {
  const Batch batch = {.seq_lens = requests(8, 3000), .query_len = 64, .last_query_len = 64};
  AttentionPlanArgs args = fp8_window_args(batch, 1000);
  EXPECT_EQ(cuda::copied_blocks(facts(args, batch)), 72);  // keys 1937 .. 2999 touch 9
  args.bounds = {.max_query_len = 505, .max_seq_len = 4096};
  EXPECT_EQ(cuda::copied_blocks(facts(args, batch)), 104);  // 1504 keys touch 13 at most
  args.bounds.max_seq_len = 1200;
  std::vector<int32_t> short_lens = requests(8, 1100);
  const Batch shorter = {.seq_lens = short_lens, .query_len = 64, .last_query_len = 64};
  EXPECT_EQ(cuda::copied_blocks(facts(args, shorter)), 80);  // positions below 1200
}

TEST(CudaPlan, MlaSplitsNoRowWhereRequestsFillTheChip) {
  const Batch batch = {requests(64, 8192)};
  const auto made = plan(mla_args(batch, 128), batch);
  EXPECT_FALSE(cuda::facts_of(made).at(0).reduces);
  EXPECT_EQ(made->workspace_bytes(), 0U);
}

TEST(CudaPlan, MlaPairsRowTilesOfTheSameKeys) {
  const auto tiles = [](int32_t heads, int32_t query_len, bool deterministic) {
    const Batch batch = {.seq_lens = requests(66, 8192),
                         .query_len = query_len,
                         .last_query_len = query_len,
                         .deterministic = deterministic};
    const auto made = std::dynamic_pointer_cast<const cuda::CudaAttentionPlan>(plan(mla_args(batch, heads), batch));
    return std::get<cuda::RowTiles>(made->parts[0].division).group;
  };
  EXPECT_EQ(tiles(128, 1, false), 2);
  EXPECT_EQ(tiles(64, 2, false), 2);
  EXPECT_EQ(tiles(64, 2, true), 1);  // bits must not depend on the other requests' tokens
}

TEST(CudaPlan, MlaOfFewHeadsMergesInClusters) {
  const Batch many = {requests(64, 4096)}, one = {requests(1, 65536)};
  const cuda::PartFacts each = facts(mla_args(many, 16), many).at(0), split = facts(mla_args(one, 16), one).at(0);
  EXPECT_EQ(each.clusters, 64);
  EXPECT_EQ(each.cluster_size, 2);
  EXPECT_EQ(split.clusters, 16);
  EXPECT_EQ(split.cluster_size, 8);
  EXPECT_EQ(split.tile_keys, 64);
  EXPECT_TRUE(split.reduces);
}

TEST(CudaPlan, RequestsOfUnequalLengthShareAList) {
  std::vector<int32_t> lens = requests(60, 2000);
  lens[7] = 60000;
  const cuda::PartFacts list = chosen({lens}).at(0);
  EXPECT_EQ(list.balanced_blocks, 264);
  EXPECT_EQ(list.tile_keys, 64);
  EXPECT_TRUE(list.reduces);
}

TEST(CudaPlan, LengthsToComeShareTheListOfTheClusterKernel) {
  const auto open = [](int count) {
    const Batch batch = {requests(count, 1024)};
    AttentionPlanArgs args = decode_args(batch);
    args.bounds.max_seq_len = 131072;
    return clusters(facts(args, batch));
  };
  EXPECT_EQ(open(64).rows, 16);
  EXPECT_GT(open(64).balanced_blocks, 0);
  EXPECT_EQ(open(1).cluster_size, 8);
}

TEST(CudaPlan, Fp8LatentsOfFewRowsStayBytes) {
  const auto of = [](const Batch& batch, int32_t heads) {
    AttentionPlanArgs args = mla_args(batch, heads);
    args.cache.dtype = DType::kF8E4M3FN;
    return facts(args, batch).at(0);
  };
  EXPECT_EQ(of({requests(64, 8192)}, 16).kernel, "mla_bytes");
  const cuda::PartFacts two = of({.seq_lens = requests(8, 4096), .query_len = 2, .last_query_len = 2}, 16);
  EXPECT_EQ(two.kernel, "mla_bytes");
  EXPECT_EQ(two.rows, 32);
  const Batch longer = {.seq_lens = requests(64, 8192), .query_len = 2, .last_query_len = 2};  // many tiles a block
  EXPECT_EQ(of(longer, 16).kernel, "mla_wgmma");
  Batch fixed = longer;
  fixed.deterministic = true;  // no choice by lengths
  EXPECT_EQ(of(fixed, 16).kernel, "mla_bytes");
  EXPECT_GT(of({requests(64, 1024)}, 16).cluster_size, 0);
  const cuda::PartFacts portable = of({.seq_lens = requests(1, 4096), .family = KernelFamily::kPortable}, 16);
  EXPECT_EQ(portable.kernel, "mla_bytes");
  EXPECT_EQ(portable.cluster_size, 0);
  EXPECT_EQ(of({requests(8, 4096)}, 128).kernel, "mla_wgmma");
}

// Else a request's bits would depend on the longest of the batch.
TEST(CudaPlan, DeterministicLatentsOfFewRowsAreAPartOfTheirOwn) {
  const Batch mixed = {.seq_lens = requests(8, 4096), .last_query_len = 4, .deterministic = true};
  const auto parts = [&](const Batch& batch) {
    const auto made = std::dynamic_pointer_cast<const cuda::CudaAttentionPlan>(plan(mla_args(batch, 16), batch));
    std::vector<std::string> names;
    for (const cuda::PlanPart& part : made->parts) names.emplace_back(part.kernel->name);
    return names;
  };
  EXPECT_EQ(parts(mixed), (std::vector<std::string>{"mla_transposed", "mla_wgmma"}));
  Batch free = mixed;
  free.deterministic = false;
  EXPECT_EQ(parts(free), std::vector<std::string>{"mla_wgmma"});
}

// A part's division of work is one that its kernel knows, and the portable kernels know no clusters: whatever the
// family, the cache's type, the lengths, the split that was asked for, and with or without bounds for graph replays.
void expect_known_divisions(const AttentionPlanArgs& args, const Batch& batch) {
  const auto made = std::dynamic_pointer_cast<const cuda::CudaAttentionPlan>(plan(args, batch));
  ASSERT_NE(made, nullptr);
  for (const auto* parts : {&made->parts, &made->unaligned_parts})
    for (const cuda::PlanPart& part : *parts) {
      EXPECT_TRUE(part.kernel->knows(part.division)) << made->describe();
      EXPECT_TRUE(part.kernel->tuned || !std::holds_alternative<cuda::Clusters>(part.division)) << made->describe();
      EXPECT_TRUE(batch.family == KernelFamily::kTuned || !part.kernel->tuned) << made->describe();
    }
}

void expect_known_divisions_of_all_splits(AttentionPlanArgs args, Batch batch) {
  using Kind = SplitPolicy::Kind;
  for (const KernelFamily family : {KernelFamily::kTuned, KernelFamily::kPortable})
    for (const bool deterministic : {false, true})
      for (const SplitPolicy split : {SplitPolicy{}, SplitPolicy{Kind::kNone, 0}, SplitPolicy{Kind::kSegments, 3},
                                      SplitPolicy{Kind::kPartition, 256}})
        for (const PlanBounds bounds : {PlanBounds{}, PlanBounds{batch.query_len, 131072}}) {
          batch.family = family;
          args.deterministic = deterministic;
          args.split = split;
          args.bounds = bounds;
          expect_known_divisions(args, batch);
        }
}

std::vector<std::vector<int32_t>> many_lengths() {
  std::vector<std::vector<int32_t>> all;
  for (const int count : {1, 2, 8, 16, 33, 64, 66, 132, 256})
    for (const int32_t len : {1, 64, 512, 1004, 1024, 1101, 8192, 65536}) all.push_back(requests(count, len));
  std::vector<int32_t> ragged, one_long = requests(64, 100);
  for (int32_t b = 0; b < 64; ++b) ragged.push_back(32 + 251 * b);
  one_long[9] = 100000;
  all.push_back(ragged);
  all.push_back(one_long);
  return all;
}

TEST(CudaPlan, MlaKernelsKnowTheirDivision) {
  for (const DType cache : {DType::kBF16, DType::kF8E4M3FN, DType::kF8E4M3FNUZ, DType::kF8E5M2})
    for (const int32_t heads : {1, 8, 16, 32, 64, 128})
      for (const int32_t query_len : {1, 2}) {
        for (const auto& lens : many_lengths()) {
          const Batch batch = {.seq_lens = lens, .query_len = query_len, .last_query_len = query_len};
          AttentionPlanArgs args = mla_args(batch, heads);
          args.cache.dtype = cache;
          expect_known_divisions_of_all_splits(args, batch);
        }
      }
}

TEST(CudaPlan, GroupedKernelsKnowTheirDivision) {
  for (const DType cache : {DType::kBF16, DType::kF8E4M3FN, DType::kF8E4M3FNUZ})
    for (const int32_t dim : {40, 64, 96, 128, 192, 256})
      for (const int32_t query_len : {1, 4, 600}) {
        for (const auto& lens : many_lengths()) {
          Batch batch = {.seq_lens = lens, .query_len = query_len, .last_query_len = query_len};
          for (int32_t& len : batch.seq_lens) len = std::max(len, query_len);
          AttentionPlanArgs args = decode_args(batch);
          args.spec.head_dim = args.spec.head_dim_v = args.cache.head_dim = args.cache.head_dim_v = dim;
          args.cache.dtype = cache;
          expect_known_divisions_of_all_splits(args, batch);
        }
      }
}

// Batches with bounds are those of captured graphs.
constexpr PlanBounds kToCome{.max_query_len = 600, .max_seq_len = 131072};

std::vector<AttentionPlanArgs> problems_of_all_kernels(const Batch& batch) {
  std::vector<AttentionPlanArgs> all;
  for (const DType cache : {DType::kBF16, DType::kF8E4M3FN}) {
    for (const int32_t heads : {16, 64, 128}) {
      all.push_back(mla_args(batch, heads));
      all.back().cache.dtype = cache;
      all.push_back(all.back());
      all.back().spec.query_dtype = DType::kF8E4M3FN;
    }
    for (const int32_t dim : {64, 128, 256}) {
      all.push_back(decode_args(batch));
      all.back().cache.dtype = cache;
      all.back().spec.head_dim = all.back().spec.head_dim_v = all.back().cache.head_dim = all.back().cache.head_dim_v =
          dim;
    }
  }
  return all;
}

// How many parts of a plan take requests of so many new tokens.
int64_t takers(const std::vector<cuda::PlanPart>& parts, int32_t query_len) {
  return std::count_if(parts.begin(), parts.end(), [&](const cuda::PlanPart& part) {
    return query_len >= part.min_query_len && query_len <= part.max_query_len;
  });
}

TEST(CudaPlan, EveryQueryLengthWithinTheBoundsHasOnePart) {
  for (const bool deterministic : {false, true}) {
    const Batch batch = {.seq_lens = requests(33, 8192), .deterministic = deterministic};
    for (AttentionPlanArgs args : problems_of_all_kernels(batch)) {
      args.bounds = kToCome;
      const auto made = std::dynamic_pointer_cast<const cuda::CudaAttentionPlan>(plan(args, batch));
      ASSERT_NE(made, nullptr);
      for (const int32_t query_len : {1, 2, 3, 4, 8, 9, 16, 64, 599, 600}) {
        EXPECT_EQ(takers(made->parts, query_len), 1) << query_len << " tokens: " << made->describe();
        EXPECT_EQ(takers(made->unaligned_parts, query_len), 1) << query_len << " tokens: " << made->describe();
      }
    }
  }
}

// Rows of partial results that a part's kernel may write.
int64_t partial_rows(const cuda::PlanPart& part, int32_t num_heads) {
  if (const auto* list = std::get_if<cuda::BalancedList>(&part.division)) return int64_t{2} * list->blocks * part.rows;
  if (const auto* clusters = std::get_if<cuda::Clusters>(&part.division))
    return clusters->num_slots * num_heads * clusters->split.max_partitions;
  const auto& tiles = std::get<cuda::RowTiles>(part.division);
  return tiles.num_slots * num_heads * tiles.split.max_partitions;
}

TEST(CudaPlan, PartialResultsHaveTheirRoom) {
  int reducing = 0;
  for (const bool deterministic : {false, true})
    for (const auto& lens : many_lengths()) {
      const Batch batch = {.seq_lens = lens, .deterministic = deterministic};
      for (const AttentionPlanArgs& args : problems_of_all_kernels(batch)) {
        const auto made = std::dynamic_pointer_cast<const cuda::CudaAttentionPlan>(plan(args, batch));
        ASSERT_NE(made, nullptr);
        for (const auto* parts : {&made->parts, &made->unaligned_parts})
          for (const cuda::PlanPart& part : *parts) {
            EXPECT_LE(part.workspace_bytes, made->workspace_bytes()) << made->describe();
            if (!part.reduces) continue;
            ++reducing;
            const auto rows = static_cast<size_t>(partial_rows(part, args.spec.num_heads));
            const auto row_bytes = static_cast<size_t>(args.spec.head_dim_v) * sizeof(float);
            EXPECT_GT(rows, 0U) << made->describe();
            EXPECT_GE(part.partial_lse_offset, rows * row_bytes) << made->describe();
            EXPECT_GE(part.workspace_bytes, part.partial_lse_offset + rows * sizeof(float)) << made->describe();
          }
      }
    }
  EXPECT_GT(reducing, 100);
}

TEST(CudaPlan, DecodeKernelsGetNoLongQueriesOfAGraphToCome) {
  const Batch batch = {requests(33, 8192)};
  for (AttentionPlanArgs args : problems_of_all_kernels(batch)) {
    args.bounds = kToCome;
    const auto made = std::dynamic_pointer_cast<const cuda::CudaAttentionPlan>(plan(args, batch));
    ASSERT_NE(made, nullptr);
    for (const cuda::PlanPart& part : made->parts)
      if (part.kernel == &cuda::kClusterKernel || part.kernel == &cuda::kStreamKernel) {
        EXPECT_LE(part.max_query_len, 8) << made->describe();
      }
  }
}

TEST(CudaPlan, LengthsOfNowSayNothingAboutThoseToCome) {
  for (const PlanBounds bounds : {kToCome, PlanBounds{1, 131072}}) {
    const size_t problems = problems_of_all_kernels({}).size();
    for (size_t i = 0; i < problems; ++i) {
      const auto bounded = [&](int32_t len) {
        const Batch batch = {requests(33, len)};
        AttentionPlanArgs args = problems_of_all_kernels(batch)[i];
        args.bounds = bounds;
        return plan(args, batch);
      };
      const auto few = bounded(90), many = bounded(70000);
      EXPECT_EQ(few->describe(), many->describe());
      EXPECT_EQ(few->workspace_bytes(), many->workspace_bytes()) << few->describe();
    }
  }
}

bool converts(const AttentionPlanArgs& args, const Batch& batch) {
  return std::dynamic_pointer_cast<const cuda::CudaAttentionPlan>(plan(args, batch))->converts;
}

TEST(CudaPlan, Fp8QueriesGoToTheFp8KernelWhereTheyCan) {
  Batch batch;
  batch.seq_lens = {9000, 4000};
  batch.query_len = batch.last_query_len = 2000;
  AttentionPlanArgs args = decode_args(batch);
  args.spec.query_dtype = DType::kF8E4M3FN;
  EXPECT_FALSE(cuda::takes_fp8_queries(args, h100(), KernelFamily::kTuned));  // a bf16 cache
  args.cache.dtype = DType::kF8E4M3FN;
  EXPECT_FALSE(cuda::takes_fp8_queries(args, h100(), KernelFamily::kPortable));
  ASSERT_TRUE(cuda::takes_fp8_queries(args, h100(), KernelFamily::kTuned));
  EXPECT_EQ(facts(args, batch).at(0).kernel, "forward_fp8");
  EXPECT_FALSE(converts(args, batch));
  batch.query_len = 1;  // a decode: its kernel wants the queries converted
  EXPECT_TRUE(converts(args, batch));
  EXPECT_TRUE(cuda::has_kernel(facts(args, batch), "forward_fp8"));
  args.cache.layout = KvLayout::kSplitK;  // tokens of a dim together in V
  EXPECT_FALSE(cuda::takes_fp8_queries(args, h100(), KernelFamily::kTuned));
  args.cache.layout = KvLayout::kNHD;
  args.spec.head_dim = args.spec.head_dim_v = args.cache.head_dim = args.cache.head_dim_v = 256;
  EXPECT_FALSE(cuda::takes_fp8_queries(args, h100(), KernelFamily::kTuned));
}

// fp8 latents and queries.
AttentionPlanArgs fp8_mla_args(const Batch& batch, int32_t heads) {
  AttentionPlanArgs args = mla_args(batch, heads);
  args.cache.dtype = args.spec.query_dtype.emplace(DType::kF8E4M3FN);
  return args;
}

std::vector<std::string> kernels_of(const AttentionPlanArgs& args, const Batch& batch) {
  std::vector<std::string> names;
  for (const cuda::PartFacts& part : facts(args, batch)) names.push_back(part.kernel);
  return names;
}

TEST(CudaPlan, Fp8QueriesOfManyRowsAreMultipliedWithFp8Latents) {
  using Names = std::vector<std::string>;
  const Batch batch = {.seq_lens = requests(64, 8192)};
  for (const DType dtype : {DType::kBF16, DType::kF16})
    for (const bool deterministic : {false, true}) {
      Batch repeated = batch;
      repeated.deterministic = deterministic;
      for (const int32_t heads : {40, 64, 128}) {
        AttentionPlanArgs args = fp8_mla_args(repeated, heads);
        args.spec.dtype = args.out_dtype = dtype;
        EXPECT_EQ(kernels_of(args, repeated), Names{"mla_fp8"});
        EXPECT_FALSE(converts(args, repeated));
      }
    }
  // Without the kernel, or for few rows, queries are converted.
  EXPECT_EQ(kernels_of(fp8_mla_args(batch, 16), batch), Names{"mla_bytes"});
  EXPECT_TRUE(converts(fp8_mla_args(batch, 16), batch));
  Batch portable = batch;
  portable.family = KernelFamily::kPortable;
  EXPECT_EQ(kernels_of(fp8_mla_args(portable, 128), portable), Names{"mla_attention"});
  EXPECT_TRUE(converts(fp8_mla_args(portable, 128), portable));
  for (const DType other : {DType::kF8E5M2, DType::kF8E4M3FNUZ}) {
    AttentionPlanArgs queries = fp8_mla_args(batch, 128), cache = queries;
    queries.spec.query_dtype = other;
    cache.cache.dtype = other;
    for (const AttentionPlanArgs& args : {queries, cache}) {
      EXPECT_EQ(kernels_of(args, batch), Names{"mla_wgmma"});
      EXPECT_TRUE(converts(args, batch));
    }
  }
}

// Each part reads its queries as its kernel wants them, and the plan has room for those that are converted.
TEST(CudaPlan, LatentsOfFewAndOfManyRowsInOnePlan) {
  const Batch mixed = {.seq_lens = requests(8, 4096), .last_query_len = 4, .deterministic = true};
  const AttentionPlanArgs args = fp8_mla_args(mixed, 16);
  EXPECT_EQ(kernels_of(args, mixed), (std::vector<std::string>{"mla_bytes", "mla_fp8"}));
  const auto made = std::dynamic_pointer_cast<const cuda::CudaAttentionPlan>(plan(args, mixed));
  EXPECT_TRUE(made->converts);
  EXPECT_EQ(made->converted_tokens, 7);
  EXPECT_GE(made->workspace_bytes(), made->queries_offset + size_t{11} * 16 * 576 * 2);
}

TEST(CudaPlan, Fp8LatentsTakeFp8QueriesWhereSomeRowsAreMultipliedSo) {
  const std::vector<int32_t> starts = {0, 1, 2}, lens = {4096, 4096};
  const auto takes = [&](int32_t heads, KernelFamily family) {
    AttentionPlanArgs args = fp8_mla_args({}, heads);
    args.query_start_loc = starts;
    args.seq_lens = lens;
    return cuda::takes_fp8_queries(args, h100(), family);
  };
  EXPECT_TRUE(takes(128, KernelFamily::kTuned));
  EXPECT_FALSE(takes(128, KernelFamily::kPortable));
  EXPECT_FALSE(takes(16, KernelFamily::kTuned));
  EXPECT_FALSE(cuda::takes_fp8_queries(fp8_mla_args({}, 128), h100(), KernelFamily::kTuned));  // no batch
}

// An RTX 4090 has 99 KiB of shared memory for a block, an A100 163: the kernels with tensor cores have shapes for both.
TEST(CudaPlan, ChipsOfLessSharedMemoryKeepTheTensorCores) {
  for (const auto& [capability, kib, latent_rows] : {std::tuple{89, 99, 16}, std::tuple{80, 163, 32}}) {
    cuda::ChipLimits chip = h100();
    chip.compute_capability = capability;
    chip.shared_bytes = int64_t{1024} * kib;
    EXPECT_TRUE(cuda::has_kernel(chosen({.seq_lens = requests(64, 4096), .chip = chip}), "stream_attention"));
    for (const int32_t dim : {64, 128, 192, 256}) {
      const Batch prefill = {.seq_lens = requests(1, 4096), .last_query_len = 4096, .chip = chip};
      AttentionPlanArgs args = decode_args(prefill);
      args.spec.head_dim = args.spec.head_dim_v = args.cache.head_dim = args.cache.head_dim_v = dim;
      EXPECT_TRUE(cuda::has_kernel(facts(args, prefill), "tile_attention")) << dim;
    }
    const Batch latents = {.seq_lens = requests(5, 3000), .chip = chip};
    EXPECT_EQ(facts(mla_args(latents, 128), latents).at(0).kernel, "mla_attention");
    EXPECT_EQ(facts(mla_args(latents, 128), latents).at(0).rows, latent_rows);
  }
}

TEST(CudaPlan, PortableLongQueriesReadACopyOfWhatTheirTilesCannotCopy) {
  const Batch prefill = {.seq_lens = requests(1, 4096), .last_query_len = 4096, .family = KernelFamily::kPortable};
  AttentionPlanArgs args = decode_args(prefill);
  EXPECT_EQ(cuda::copied_blocks(facts(args, prefill)), 0);
  args.cache.dtype = DType::kF8E4M3FN;
  EXPECT_EQ(cuda::part_of(facts(args, prefill), "tile_attention").copied_blocks, 32);
  args.deterministic = true;
  EXPECT_EQ(cuda::copied_blocks(facts(args, prefill)), 0);
}

TEST(CudaPlan, RowTilesAreTallWhereTheyFillThreeConsumers) {
  const auto of_dim = [](int32_t dim, int32_t query_len, bool deterministic = false) {
    const Batch batch = {.seq_lens = requests(1, 4096), .last_query_len = query_len, .deterministic = deterministic};
    AttentionPlanArgs args = decode_args(batch);
    args.spec.head_dim = args.spec.head_dim_v = args.cache.head_dim = args.cache.head_dim_v = dim;
    return facts(args, batch).at(0).rows;
  };
  for (int32_t dim : {40, 64, 80, 96}) EXPECT_EQ(of_dim(dim, 4096), 192) << dim;
  EXPECT_NE(of_dim(128, 4096), 192);       // registers for two consumers only
  EXPECT_NE(of_dim(64, 24), 192);          // 96 rows
  EXPECT_NE(of_dim(64, 4096, true), 192);  // tiles of other keys have other bits
}

TEST(CudaPlan, PagesOfOneTokenAreCopiedForEveryHeadSize) {
  for (int32_t dim : {64, 96, 128, 192, 256}) {
    const Batch batch = {.seq_lens = requests(1, 4096), .last_query_len = 4096, .block_size = 1};
    AttentionPlanArgs args = decode_args(batch);
    args.spec.head_dim = args.spec.head_dim_v = args.cache.head_dim = args.cache.head_dim_v = dim;
    EXPECT_EQ(cuda::part_of(facts(args, batch), "forward").copied_blocks, 32) << dim;
  }
}

TEST(CudaPlan, ShortDecodesOverPagesOfOneTokenTakeTheListAndNotClusters) {
  const Batch batch = {.seq_lens = requests(9, 1562), .block_size = 1};
  AttentionPlanArgs args = decode_args(batch);
  args.spec.sliding_window = 128;
  args.spec.head_dim = args.spec.head_dim_v = args.cache.head_dim = args.cache.head_dim_v = 64;
  args.cache.dtype = DType::kF8E4M3FN;
  EXPECT_TRUE(cuda::has_kernel(facts(args, batch), "stream_attention"));
}

}  // namespace
}  // namespace sextant
