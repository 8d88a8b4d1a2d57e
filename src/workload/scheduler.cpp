// Continuous batching: which requests run in a step, and who is preempted.
#include "sextant/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "types/ceil_div.h"

namespace sextant {
namespace {

int64_t blocks_of(int64_t tokens, int32_t block_size) { return ceil_div(tokens, block_size); }
double ratio(int64_t part, int64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

// 0 decode, 1 extend, 2 prefill.
int kind_of(const ScheduledRequest& r) { return r.context_len == 0 ? 2 : r.query_len == 1 ? 0 : 1; }

Status check_options(const SchedulerOptions& options) {
  if (options.max_num_batched_tokens < 1)
    return invalid_argument(fmt::format("max_num_batched_tokens is {}; allowed: >= 1", options.max_num_batched_tokens));
  if (options.max_num_seqs < 1)
    return invalid_argument(fmt::format("max_num_seqs is {}; allowed: >= 1", options.max_num_seqs));
  if (options.windows.empty())
    return invalid_argument("windows is empty; allowed: one entry a group of layers, 0 or a window");
  for (const int32_t window : options.windows)
    if (window < 0) return invalid_argument(fmt::format("windows has {}; allowed: 0 or a window of >= 1", window));
  return Status::ok();
}

// The last generated token is never run, so its key needs no place.
int64_t longest_length(const TraceRequest& request) {
  return static_cast<int64_t>(request.input_length) + std::max(request.output_length - 1, 0);
}

// What a request can hold at once: all of it, or a window and the step's own tokens.
int64_t most_blocks(const TraceRequest& request, const SchedulerOptions& options) {
  int64_t blocks = 0;
  for (const int32_t window : options.windows) {
    const int64_t held = window == 0
                             ? longest_length(request)
                             : std::min<int64_t>(longest_length(request),
                                                 int64_t{window} + options.max_num_batched_tokens + options.block_size);
    blocks += blocks_of(held, options.block_size);
  }
  return blocks;
}

}  // namespace

int64_t Step::num_tokens() const {
  int64_t tokens = 0;
  for (const ScheduledRequest& request : requests) tokens += request.query_len;
  return tokens;
}

double SchedulerStats::block_hit_rate() const { return ratio(trace_block_hits, trace_blocks); }
double SchedulerStats::token_hit_rate() const { return ratio(cached_prompt_tokens, prompt_tokens); }

Result<Scheduler> Scheduler::make(const Trace& trace, const SchedulerOptions& options) {
  SEXTANT_RETURN_IF_ERROR(check_options(options));
  auto allocator = BlockAllocator::make({.num_blocks = options.num_blocks, .block_size = options.block_size});
  if (!allocator) return allocator.status();
  for (size_t i = 0; i < trace.requests.size() && options.num_blocks > 0; ++i) {
    const int64_t needed = most_blocks(trace.requests[i], options);
    if (needed > options.num_blocks)
      return Status(
          StatusCode::kResourceExhausted,
          fmt::format("num_blocks is {}; request {} of the trace alone needs {} blocks of {} tokens; allowed: >= {}, "
                      "or 0 for an unbounded cache",
                      options.num_blocks, i, needed, options.block_size, needed));
  }
  return Scheduler(trace, options, std::move(*allocator));
}

Scheduler::Scheduler(const Trace& trace, const SchedulerOptions& options, BlockAllocator allocator)
    : trace_(&trace), options_(options), allocator_(std::move(allocator)), sequence_of_(trace.requests.size(), -1) {
  for (size_t i = 0; i < trace.requests.size(); ++i) {
    Sequence sequence;
    sequence.request = static_cast<int32_t>(i);
    sequence.blocks.resize(options.windows.size());
    waiting_.push_back(std::move(sequence));
  }
}

// The step has run: its tokens are in the cache, and whoever ran all known tokens has one more.
void Scheduler::finish_step() {
  size_t kept = 0;
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& s = running_[i];
    s.computed += s.scheduled;
    const bool sampled = s.scheduled > 0 && s.computed == known_tokens(s) && request_of(s).output_length > 0;
    s.scheduled = 0;
    if (sampled) ++s.generated, ++stats_.generated_tokens;
    if (s.computed >= request_of(s).input_length && s.generated >= request_of(s).output_length) {
      release(s);
      sequence_of_[static_cast<size_t>(s.request)] = -1;
      ++stats_.finished_requests;
      continue;
    }
    free_passed_blocks(s);
    if (kept != i) running_[kept] = std::move(s);
    sequence_of_[static_cast<size_t>(running_[kept].request)] = static_cast<int32_t>(kept);
    ++kept;
  }
  running_.erase(running_.begin() + static_cast<int64_t>(kept), running_.end());
}

Result<bool> Scheduler::next(Step& step) {
  step.requests.clear();
  finish_step();
  if (running_.empty() && waiting_.empty()) return false;
  int32_t budget = options_.max_num_batched_tokens;
  const int64_t preemptions = stats_.preemptions;
  SEXTANT_RETURN_IF_ERROR(schedule_running(budget, step));
  if (stats_.preemptions == preemptions) admit(budget, step);  // whoever was put back comes first, next time
  if (step.requests.empty()) return Status(StatusCode::kInternal, "the scheduler found nothing to run");
  std::stable_sort(step.requests.begin(), step.requests.end(),
                   [](const ScheduledRequest& a, const ScheduledRequest& b) { return kind_of(a) < kind_of(b); });
  const std::array<StepShare*, 3> shares = {&stats_.decode, &stats_.extend, &stats_.prefill};
  for (const ScheduledRequest& r : step.requests) {
    StepShare& share = *shares[static_cast<size_t>(kind_of(r))];
    ++share.requests;
    share.tokens += r.query_len;
    stats_.scheduled_tokens += r.query_len;
  }
  ++stats_.steps;
  stats_.peak_used_blocks = std::max(stats_.peak_used_blocks, allocator_.num_used());
  return true;
}

// Blocks for the sequence's first `tokens` tokens, in every group. What one group got stays when another gets nothing:
// the caller tries again or releases all.
bool Scheduler::reserve(Sequence& sequence, int32_t tokens) {
  for (std::vector<int32_t>& blocks : sequence.blocks) {
    const int64_t missing = blocks_of(tokens, options_.block_size) - static_cast<int64_t>(blocks.size());
    if (missing > 0 && !allocator_.allocate(missing, blocks).is_ok()) return false;
  }
  return true;
}

void Scheduler::schedule(Sequence& s, int32_t tokens, Step& step) {
  s.scheduled = tokens;
  publish_full_blocks(s);
  step.requests.push_back({s.request, tokens, s.computed});
}

Status Scheduler::schedule_running(int32_t& budget, Step& step) {
  for (size_t i = 0; i < running_.size() && budget > 0; ++i) {
    const int32_t tokens = std::min(known_tokens(running_[i]) - running_[i].computed, budget);
    while (i < running_.size() && !reserve(running_[i], running_[i].computed + tokens)) preempt_last();
    if (i == running_.size()) break;  // it had to give up its own place
    schedule(running_[i], tokens, step);
    budget -= tokens;
  }
  return Status::ok();
}

// The youngest goes back to the front of the queue and starts over, from whatever of it is still cached by then.
void Scheduler::preempt_last() {
  Sequence victim = std::move(running_.back());
  running_.pop_back();
  release(victim);
  victim.computed = 0;
  victim.published = 0;
  ++victim.preempted;
  ++stats_.preemptions;
  sequence_of_[static_cast<size_t>(victim.request)] = -1;
  waiting_.push_front(std::move(victim));
}

void Scheduler::admit(int32_t& budget, Step& step) {
  while (!waiting_.empty() && budget > 0 && num_running() < options_.max_num_seqs) {
    Sequence& sequence = waiting_.front();
    if (!start(sequence, budget, step)) return;
    budget -= sequence.scheduled;
    sequence_of_[static_cast<size_t>(sequence.request)] = static_cast<int32_t>(running_.size());
    running_.push_back(std::move(sequence));
    waiting_.pop_front();
  }
}

// Takes what the cache has and room for a first chunk, or nothing.
bool Scheduler::start(Sequence& s, int32_t budget, Step& step) {
  const int64_t cached_blocks = options_.prefix_caching ? acquire_cached(s) : 0;
  s.computed = static_cast<int32_t>(s.blocks.front().size()) * options_.block_size;
  s.published = s.blocks.front().size();
  const int32_t tokens = std::min(known_tokens(s) - s.computed, budget);
  if (!reserve(s, s.computed + tokens)) {
    release(s);
    s.computed = 0;
    return false;
  }
  if (s.preempted == 0) count_admission(s, s.computed, cached_blocks);
  schedule(s, tokens, step);
  return true;
}

}  // namespace sextant
