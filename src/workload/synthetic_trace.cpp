// The built-in trace. Its figures were taken from the Mooncake conversation trace (12,031 requests in 59 minutes,
// Apache-2.0, https://github.com/kvcache-ai/Mooncake, FAST'25 traces):
//
//   arrivals                      3.4 requests a second
//   shared by every request       the first block (the system prompt)
//   requests that continue one    38.7 % (they share more than the system prompt with an earlier request)
//   input tokens                  mean 12,035, median 6,909, 99 % 85,401
//   output tokens                 mean 343, median 350, 99 % 1,120
//   blocks seen before            36.6 %
//
// make_synthetic_trace(12031) gives: mean input 12,211, median 6,547, mean output 339, 36.8 % of the blocks seen
// before.
#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <span>

#include "sextant/trace.h"
#include "types/ceil_div.h"

namespace sextant {
namespace {

struct Quantile {
  double share;
  double tokens;
};

// Prompts that begin a conversation.
constexpr std::array<Quantile, 10> kFirstInput = {{{0, 891},
                                                   {0.05, 897},
                                                   {0.1, 905},
                                                   {0.25, 1336},
                                                   {0.5, 5264},
                                                   {0.75, 13056},
                                                   {0.9, 25561},
                                                   {0.95, 38538},
                                                   {0.99, 89869},
                                                   {1, 126195}}};
// Tokens of a next turn after the prefix that it shares.
constexpr std::array<Quantile, 10> kTurnInput = {{{0, 16},
                                                  {0.05, 163},
                                                  {0.1, 304},
                                                  {0.25, 534},
                                                  {0.5, 829},
                                                  {0.75, 3503},
                                                  {0.9, 9741},
                                                  {0.95, 14768},
                                                  {0.99, 26773},
                                                  {1, 94968}}};
constexpr std::array<Quantile, 10> kOutput = {{{0, 1},
                                               {0.01, 3},
                                               {0.05, 10},
                                               {0.1, 24},
                                               {0.25, 156},
                                               {0.5, 350},
                                               {0.75, 472},
                                               {0.9, 597},
                                               {0.99, 1120},
                                               {1, 2000}}};
constexpr double kContinues = 0.387;
constexpr double kKeepsWholePrefix = 0.85;  // of the continuing ones; the others branch off earlier
constexpr double kArrivalGapMs = 294;
constexpr double kLongestReach = 4000;  // requests back to the previous turn
constexpr int32_t kMaxInput = 126195;

// The standard fixes mt19937_64's bits but not the distributions', so those are ours.
class Dice {
 public:
  explicit Dice(uint64_t seed) : bits_(seed) {}
  double share() { return static_cast<double>(bits_() >> 11) * 0x1p-53; }  // [0, 1)
  // Inverse of the distribution function, log-linear between the quantiles.
  double tokens(std::span<const Quantile> quantiles) {
    const double at = share();
    size_t i = 1;
    while (i + 1 < quantiles.size() && quantiles[i].share < at) ++i;
    const Quantile &a = quantiles[i - 1], &b = quantiles[i];
    return a.tokens * std::pow(b.tokens / a.tokens, (at - a.share) / (b.share - a.share));
  }
  // Log-uniform in 1..most: most next turns come soon, some late.
  int64_t reach(double most) { return static_cast<int64_t>(std::pow(most, share())); }

 private:
  std::mt19937_64 bits_;
};

// Leading blocks that a next turn shares with the earlier request: full ones only, and always the system prompt.
size_t shared_blocks(const TraceRequest& earlier, int32_t block, Dice& dice) {
  const int32_t full_blocks = earlier.input_length / block;
  const auto full = static_cast<double>(full_blocks);
  const double kept = dice.share() < kKeepsWholePrefix ? full : full * dice.share();
  return static_cast<size_t>(std::max(kept, 1.0));
}

}  // namespace

Trace make_synthetic_trace(int64_t num_requests, uint64_t seed) {
  Trace trace;
  trace.name = "built-in";
  trace.format = "built in";
  Dice dice(seed);
  int64_t next_id = 1;  // 0 is the system prompt
  double now = 0;
  for (int64_t i = 0; i < num_requests; ++i) {
    TraceRequest request;
    request.arrival_ms = static_cast<int64_t>(now);
    now += -kArrivalGapMs * std::log(1 - dice.share());  // Poisson arrivals
    double input = 0;
    request.hash_ids = {0};
    if (i > 0 && dice.share() < kContinues) {
      const int64_t back = std::min(i, dice.reach(std::min(static_cast<double>(i), kLongestReach)));
      const TraceRequest& earlier = trace.requests[static_cast<size_t>(i - back)];
      const size_t shared = std::min(shared_blocks(earlier, trace.hash_block_size, dice), earlier.hash_ids.size());
      request.hash_ids.assign(earlier.hash_ids.begin(), earlier.hash_ids.begin() + static_cast<int64_t>(shared));
      input = static_cast<double>(shared) * trace.hash_block_size + dice.tokens(kTurnInput);
    } else {
      input = dice.tokens(kFirstInput);
    }
    request.input_length = static_cast<int32_t>(std::min(input, static_cast<double>(kMaxInput)));
    request.output_length = static_cast<int32_t>(dice.tokens(kOutput));
    const size_t blocks = static_cast<size_t>(ceil_div(request.input_length, trace.hash_block_size));
    request.hash_ids.resize(std::min(request.hash_ids.size(), blocks));
    while (request.hash_ids.size() < blocks) request.hash_ids.push_back(next_id++);
    trace.requests.push_back(std::move(request));
  }
  return trace;
}

}  // namespace sextant
