#include "sextant/scheduler.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <array>
#include <filesystem>
#include <map>
#include <set>
#include <string>

namespace sextant {
namespace {

TraceRequest request_of(int32_t input, int32_t output, std::vector<int64_t> ids = {}) {
  TraceRequest request;
  request.input_length = input;
  request.output_length = output;
  request.hash_ids = std::move(ids);
  return request;
}

Trace trace_of(std::vector<TraceRequest> requests, int32_t hash_block_size = 4) {
  Trace trace;
  trace.hash_block_size = hash_block_size;
  trace.requests = std::move(requests);
  return trace;
}

std::vector<std::array<int32_t, 3>> flat(const Step& step) {
  std::vector<std::array<int32_t, 3>> all;
  for (const ScheduledRequest& r : step.requests) all.push_back({r.request, r.query_len, r.context_len});
  return all;
}

TEST(Scheduler, ChunksAPrefillAndMixesDecodes) {
  const Trace trace = trace_of({request_of(10, 3), request_of(5, 2)});
  Scheduler scheduler = Scheduler::make(trace, {.max_num_batched_tokens = 8, .block_size = 4}).value();
  std::vector<std::vector<std::array<int32_t, 3>>> steps;
  Step step;
  while (scheduler.next(step).value()) steps.push_back(flat(step));
  // request, query_len, context_len
  const std::vector<std::vector<std::array<int32_t, 3>>> expected = {
      {{0, 8, 0}}, {{0, 2, 8}, {1, 5, 0}}, {{0, 1, 10}, {1, 1, 5}}, {{0, 1, 11}}};
  EXPECT_EQ(steps, expected);
  EXPECT_EQ(scheduler.stats().generated_tokens, 5);
  EXPECT_EQ(scheduler.stats().decode.requests, 3);
  EXPECT_EQ(scheduler.stats().extend.tokens, 2);
  EXPECT_EQ(scheduler.stats().prefill.tokens, 13);
  EXPECT_EQ(scheduler.stats().finished_requests, 2);
  EXPECT_EQ(scheduler.allocator().num_used(), 0);
}

TEST(Scheduler, ReusesASharedPrefix) {
  const Trace trace = trace_of({request_of(9, 1, {1, 2, 3}), request_of(12, 1, {1, 2, 4}), request_of(8, 1, {1, 2})});
  Scheduler scheduler = Scheduler::make(trace, {.max_num_batched_tokens = 64, .block_size = 2}).value();
  Step step;
  ASSERT_TRUE(scheduler.next(step).value());
  // All in one step: blocks are findable as soon as the step that fills them is made. The third prompt is wholly
  // cached, so its last block runs again.
  const std::vector<std::array<int32_t, 3>> expected = {{1, 4, 8}, {2, 2, 6}, {0, 9, 0}};
  EXPECT_EQ(flat(step), expected);
  BatchArrays batch;
  scheduler.fill_batch(step, batch);
  const int64_t columns = batch.max_blocks_per_request;
  for (int64_t column = 0; column < 3; ++column)
    EXPECT_EQ(batch.block_table[static_cast<size_t>(column)],
              batch.block_table[static_cast<size_t>(2 * columns + column)]);
  EXPECT_EQ(scheduler.stats().trace_blocks, 8);
  EXPECT_EQ(scheduler.stats().trace_block_hits, 4);
  EXPECT_EQ(scheduler.stats().cached_prompt_tokens, 14);
}

TEST(Scheduler, NeverSharesAcrossDifferentPrefixes) {
  const Trace trace = trace_of({request_of(8, 1, {1, 2}), request_of(8, 1, {3, 2})});
  Scheduler scheduler = Scheduler::make(trace, {.block_size = 4}).value();
  Step step;
  while (scheduler.next(step).value()) {
  }
  EXPECT_EQ(scheduler.stats().cached_prompt_tokens, 0);
  EXPECT_EQ(scheduler.stats().trace_block_hits, 0);
}

TEST(Scheduler, WithoutPrefixCachingNothingHits) {
  const Trace trace = trace_of({request_of(8, 2, {1, 2}), request_of(8, 2, {1, 2})});
  Scheduler scheduler = Scheduler::make(trace, {.block_size = 4, .prefix_caching = false}).value();
  Step step;
  while (scheduler.next(step).value()) {
  }
  EXPECT_EQ(scheduler.stats().block_hit_rate(), 0);
  EXPECT_EQ(scheduler.stats().token_hit_rate(), 0);
}

TEST(Scheduler, PreemptsTheYoungestWhenBlocksRunOut) {
  const Trace trace = trace_of({request_of(4, 8), request_of(4, 8)});
  Scheduler scheduler = Scheduler::make(trace, {.block_size = 1, .num_blocks = 12}).value();
  Step step;
  while (scheduler.next(step).value()) {
  }
  EXPECT_GT(scheduler.stats().preemptions, 0);
  EXPECT_EQ(scheduler.stats().finished_requests, 2);
  EXPECT_EQ(scheduler.stats().generated_tokens, 16);
}

TEST(Scheduler, RefusesWhatCanNeverRun) {
  const Trace trace = trace_of({request_of(4, 1), request_of(100, 8)});
  EXPECT_EQ(Scheduler::make(trace, {.block_size = 16, .num_blocks = 6}).status().message(),
            "num_blocks is 6; request 1 of the trace alone needs 7 blocks of 16 tokens; allowed: >= 7, or 0 for an "
            "unbounded cache");
  EXPECT_EQ(Scheduler::make(trace, {.max_num_batched_tokens = 0}).status().message(),
            "max_num_batched_tokens is 0; allowed: >= 1");
  EXPECT_EQ(Scheduler::make(trace, {.max_num_seqs = 0}).status().message(), "max_num_seqs is 0; allowed: >= 1");
  EXPECT_FALSE(Scheduler::make(trace, {.block_size = 0}).is_ok());
}

// What a token at a position is: the same for two requests only if everything up to its trace block is the same.
std::string token_of(const Trace& trace, int32_t request, int32_t position) {
  const TraceRequest& r = trace.requests[static_cast<size_t>(request)];
  if (position >= r.input_length) return "generated by " + std::to_string(request) + " at " + std::to_string(position);
  std::string token = std::to_string(position) + " after";
  for (int32_t b = 0; b <= position / trace.hash_block_size; ++b)
    token += " " + std::to_string(r.hash_ids[static_cast<size_t>(b)]);
  return token;
}

// Writes the step's tokens into the model of the cache, then checks that every request finds its own whole sequence.
bool writes_and_reads_right(const Trace& trace, const Step& step, const BatchArrays& batch, int32_t block_size,
                            std::map<int64_t, std::string>& cache) {
  for (size_t i = 0; i < step.requests.size(); ++i)
    for (int32_t t = 0; t < step.requests[i].query_len; ++t)
      cache[batch.slot_mapping[static_cast<size_t>(batch.query_start_loc[i] + t)]] =
          token_of(trace, step.requests[i].request, step.requests[i].context_len + t);
  for (size_t i = 0; i < step.requests.size(); ++i)
    for (int32_t position = 0; position < batch.seq_lens[i]; ++position) {
      const size_t entry =
          i * static_cast<size_t>(batch.max_blocks_per_request) + static_cast<size_t>(position / block_size);
      const int64_t slot = int64_t{batch.block_table[entry]} * block_size + position % block_size;
      if (cache[slot] != token_of(trace, step.requests[i].request, position)) return false;
    }
  return true;
}

// Whatever the sizes: every step is a valid batch, nobody's unshared slots are written by another, every token of every
// request is written before it is read, and all requests finish.
RC_GTEST_PROP(SchedulerProperty, EveryStepIsAValidBatch, ()) {
  const int count = *rc::gen::inRange(1, 8);
  const int32_t block_size = *rc::gen::elementOf(std::vector<int32_t>{1, 3, 4, 7});
  std::vector<TraceRequest> requests;
  int64_t most = 1;
  for (int i = 0; i < count; ++i) {
    TraceRequest request = request_of(*rc::gen::inRange(1, 40), *rc::gen::inRange(0, 12));
    for (int32_t b = 0; b * 4 < request.input_length; ++b)
      request.hash_ids.push_back(b == 0 ? 0 : *rc::gen::inRange(0, 3) + 10 * b);
    most = std::max<int64_t>(most, (request.input_length + request.output_length + block_size - 1) / block_size);
    requests.push_back(request);
  }
  const Trace trace = trace_of(requests);
  SchedulerOptions options;
  options.block_size = block_size;
  options.max_num_batched_tokens = *rc::gen::inRange(1, 30);
  options.max_num_seqs = *rc::gen::inRange(1, 5);
  options.num_blocks = *rc::gen::elementOf(std::vector<int64_t>{0, most, most + 3});
  options.prefix_caching = *rc::gen::arbitrary<bool>();
  Scheduler scheduler = Scheduler::make(trace, options).value();
  Step step;
  BatchArrays batch;
  int64_t steps = 0;
  std::map<int64_t, std::string> contents;
  while (scheduler.next(step).value()) {
    RC_ASSERT(++steps < 100000);
    RC_ASSERT(step.num_tokens() <= options.max_num_batched_tokens);
    scheduler.fill_batch(step, batch);
    const KvCacheSpec cache{.num_blocks = scheduler.allocator().num_blocks(),
                            .block_size = block_size,
                            .num_kv_heads = 1,
                            .head_dim = 8,
                            .head_dim_v = 8};
    const Status valid = validate(batch.metadata(), cache);
    RC_ASSERT(valid.is_ok());
    RC_ASSERT(std::set<int64_t>(batch.slot_mapping.begin(), batch.slot_mapping.end()).size() ==
              batch.slot_mapping.size());
    RC_ASSERT(writes_and_reads_right(trace, step, batch, block_size, contents));
  }
  RC_ASSERT(scheduler.stats().finished_requests == count);
  RC_ASSERT(scheduler.allocator().num_used() == 0);
  RC_ASSERT(scheduler.stats().prompt_tokens <=
            scheduler.stats().cached_prompt_tokens + scheduler.stats().scheduled_tokens);
}

TEST(Scheduler, ReproducesTheHitRateOfTheMooncakeTrace) {
  const std::string path = SEXTANT_SHARED_DATA "/traces/mooncake/conversation_trace.jsonl";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there: the whole trace is not replayed";
  const auto trace = read_trace(path);
  ASSERT_TRUE(trace.is_ok()) << trace.status().message();
  Scheduler scheduler =
      Scheduler::make(*trace, {.max_num_batched_tokens = 8192, .max_num_seqs = 256, .block_size = 128}).value();
  Step step;
  while (scheduler.next(step).value()) {
  }
  EXPECT_EQ(scheduler.stats().trace_blocks, 288500);
  EXPECT_EQ(scheduler.stats().trace_block_hits, 105710);  // 36.6 %
  EXPECT_NEAR(scheduler.stats().block_hit_rate(), 0.366, 0.0005);
}

TEST(Scheduler, WindowsGiveTheirBlocksBack) {
  const Trace trace = trace_of({request_of(64, 5)});
  Scheduler scheduler =
      Scheduler::make(trace, {.max_num_batched_tokens = 16, .block_size = 4, .windows = {0, 8}}).value();
  Step step;
  BatchArrays full, window;
  int64_t most = 0;
  while (scheduler.next(step).value()) {
    scheduler.fill_batch(step, full, 0);
    scheduler.fill_batch(step, window, 1);
    EXPECT_EQ(full.seq_lens, window.seq_lens);
    most = std::max(most, scheduler.allocator().num_used());
  }
  // The last chunk of the prompt: 64 tokens in 16 blocks; the window's 16 new ones and the 7 before them, in 6.
  EXPECT_EQ(most, 16 + 6);
  EXPECT_EQ(scheduler.stats().window_blocks_freed, 15);
  EXPECT_EQ(scheduler.allocator().num_used(), 0);
  EXPECT_FALSE(Scheduler::make(trace, {.windows = {}}).is_ok());
  EXPECT_FALSE(Scheduler::make(trace, {.windows = {-1}}).is_ok());
}

// Whatever the traffic: a token's window never reaches into a block that was given back, no two requests write one
// block, and everything is free at the end.
RC_GTEST_PROP(Scheduler, KeepsWhatEveryGroupStillSees, ()) {
  const auto in = [](int low, int high) { return *rc::gen::inRange(low, high); };
  std::vector<TraceRequest> requests;
  for (int i = in(1, 8); i > 0; --i) {
    const int32_t input = in(1, 60);
    TraceRequest request = request_of(input, in(0, 8));
    for (int32_t id = 0; id * 4 < input; ++id) request.hash_ids.push_back(in(0, 3) == 0 ? 1000 + i : id);
    requests.push_back(request);
  }
  const Trace trace = trace_of(std::move(requests));
  const int32_t block = in(1, 6), window = in(1, 20);
  SchedulerOptions options{.max_num_batched_tokens = in(1, 20),
                           .max_num_seqs = in(1, 5),
                           .block_size = block,
                           .num_blocks = in(0, 2) * 200,
                           .windows = {0, window, in(0, 2) * 5}};
  auto scheduler = Scheduler::make(trace, options);
  RC_PRE(scheduler.is_ok());
  Step step;
  BatchArrays batch;
  while (true) {
    auto more = scheduler->next(step);
    RC_ASSERT(more.is_ok());
    if (!*more) break;
    std::set<int64_t> slots;  // of all groups: they draw on one pool
    for (size_t group = 0; group < options.windows.size(); ++group) {
      scheduler->fill_batch(step, batch, group);
      for (const int64_t slot : batch.slot_mapping) RC_ASSERT(slots.insert(slot).second);
      for (size_t r = 0; r < step.requests.size(); ++r) {
        const int32_t w = options.windows[group], context = step.requests[r].context_len;
        const int32_t from = w == 0 ? 0 : std::max(context - w + 1, 0);
        std::set<int32_t> mine;
        for (int32_t b = from / block; b * block < batch.seq_lens[r]; ++b)
          RC_ASSERT(
              mine.insert(
                      batch.block_table[r * static_cast<size_t>(batch.max_blocks_per_request) + static_cast<size_t>(b)])
                  .second);
      }
    }
  }
  RC_ASSERT(scheduler->allocator().num_used() == 0);
  RC_ASSERT(scheduler->stats().finished_requests == static_cast<int64_t>(trace.requests.size()));
}

}  // namespace
}  // namespace sextant
