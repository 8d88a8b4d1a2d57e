// Whether the planner chooses well: a case by every plan that the planner could have made.
//
// What it chooses follows from its table of rates (chip_rates.h). So the other plans are those that it makes when some
// of the rates are said to be far higher or lower: all its kernels, divisions and copies come up, and nothing else.
#include "cuda_bench_choices.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "cuda_bench_problem.h"
#include "devices/cuda/attention_plan.h"
#include "devices/cuda/cuda_device.h"
#include "sextant/device.h"

namespace sextant::cuda_bench {
namespace {

std::vector<double*> rates_of(cuda::ChipRates& r) {
  auto& f = r.forward;
  auto& c = r.cluster;
  auto& l = r.list;
  auto& copy = r.copy;
  std::vector<double*> all = {&r.memory,
                              &f.sm,
                              &f.products,
                              &f.start,
                              &f.item,
                              &f.split_item,
                              &f.merge,
                              &f.merge_bytes,
                              &f.reduce,
                              &f.tile,
                              &f.converted_tile,
                              &f.cold_rows,
                              &f.beside,
                              &f.tall,
                              &f.tall_wide,
                              &f.convert,
                              &f.rows,
                              &f.padded_rows,
                              &f.exact_rows,
                              &f.byte_rows,
                              &c.sm,
                              &c.sm_fp8,
                              &c.sm_fp8_narrow,
                              &c.row_key,
                              &c.row_key_fp8,
                              &c.start,
                              &c.start_alone,
                              &c.block,
                              &c.next_block,
                              &c.next_cluster,
                              &c.next_alone,
                              &c.next_cluster_alone,
                              &c.merge,
                              &c.segment,
                              &c.segment_alone,
                              &c.list_memory_part,
                              &l.start,
                              &l.segment,
                              &l.sm,
                              &l.sm_fp8,
                              &l.rows_32,
                              &l.wide,
                              &l.row_tile,
                              &l.merge_part,
                              &copy.start,
                              &copy.bytes,
                              &copy.decode_start,
                              &copy.convert_queries,
                              &copy.converted_item,
                              &copy.portable_products,
                              &copy.tile_products,
                              &copy.tile_converted};
  for (auto* mla : {&r.mla, &r.mla_bytes})
    for (double* rate : {&mla->start, &mla->tile, &mla->merge, &mla->part, &mla->partial_bytes, &mla->cluster})
      all.push_back(rate);
  return all;
}

// By what it says it will do; the chosen one first.
std::vector<AttentionPlanPtr> plan_every_way(const AttentionPlanArgs& args, const cuda::ChipLimits& chip) {
  constexpr int kDraws = 250;
  constexpr size_t kMost = 24;
  std::vector<AttentionPlanPtr> plans;
  const auto add = [&](const cuda::ChipLimits& of) {
    auto plan = cuda::plan_attention(args, of, KernelFamily::kTuned);
    check(plan.status(), "plan");
    const std::string text = (*plan)->describe();
    const bool known = std::any_of(plans.begin(), plans.end(), [&](const auto& p) { return p->describe() == text; });
    if (!known && plans.size() < kMost) plans.push_back(std::move(plan).value());
  };
  add(chip);
  cuda::ChipRates rates;
  for (size_t i = 0; i < rates_of(rates).size(); ++i)
    for (const double factor : {0.1, 10.0}) {
      cuda::ChipLimits other = chip;
      *rates_of(other.rates)[i] *= factor;
      add(other);
    }
  std::mt19937 random(1);
  for (int draw = 0; draw < kDraws; ++draw) {
    cuda::ChipLimits other = chip;
    for (double* rate : rates_of(other.rates)) {
      const int kind = static_cast<int>(random() % 6);
      *rate *= kind == 0 ? 0.1 : kind == 1 ? 10.0 : kind == 2 ? 0.5 : kind == 3 ? 2.0 : 1.0;
    }
    add(other);
  }
  return plans;
}

}  // namespace

int run_choices(const std::vector<Case>& cases, int replays, double seconds, const std::string& json) {
  const auto device = open_device(DeviceKind::kCuda, 0);
  check(device.status(), "open_device");
  const auto chip = cuda::find_chip_limits(0);
  check(chip.status(), "find_chip_limits");
  const Ops& ops = (*device)->ops(KernelFamily::kTuned).unchecked();
  const auto start = std::chrono::steady_clock::now();
  nlohmann::json all = nlohmann::json::array();
  double logs = 0, worst = 1;
  int count = 0, wrong = 0, within = 0;
  for (const Case& c : cases) {
    if (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() > seconds) {
      std::printf("out of time after %d cases\n", count);
      break;
    }
    Problem problem(c);
    if (is_fp8(c.q) && !ops.takes_fp8_queries(problem.plan_args())) continue;
    const auto plans = plan_every_way(problem.plan_args(), *chip);
    nlohmann::json rows = nlohmann::json::array();
    double chosen = 0, best = INFINITY, roughly = INFINITY;
    std::string best_text;
    for (const AttentionPlanPtr& plan : plans) {
      problem.use(ops, plan);
      if (cases.size() == 1) {  // before it runs, in case that it does not end
        std::printf("  %s", plan->describe().c_str());
        std::fflush(stdout);
      }
      const double error = problem.error(), first = time_once(nullptr, [&] { problem.launch(1, nullptr); });
      const bool is_wrong = !(error < problem.allowed_error());
      if (is_wrong) std::printf("WRONG (%.1e) %s: %s\n", error, c.name.c_str(), plan->describe().c_str());
      wrong += is_wrong ? 1 : 0;
      // A plan that takes twice the time of another at once cannot be the best.
      if (cases.size() == 1) std::printf(": %.1f us at first\n", first);
      if (chosen > 0 && first > 2 * roughly + 20) continue;
      roughly = std::min(roughly, first);
      const double us =
          time_graph([&](int i, cudaStream_t stream) { problem.launch(i, stream); }, problem.launches(), replays);
      if (chosen == 0) chosen = us;
      if (us < best) {
        best = us;
        best_text = plan->describe();
      }
      rows.push_back({{"plan", plan->describe()}, {"us", us}, {"error", error}});
    }
    const double ratio = best / chosen;
    all.push_back({{"case", c.name}, {"ratio", ratio}, {"plans", rows}});
    logs += std::log(ratio);
    worst = std::min(worst, ratio);
    within += ratio >= 0.95 ? 1 : 0;
    ++count;
    std::printf("%4.2f %9.1f us of %2zu plans  %s  [%s]", ratio, chosen, plans.size(), c.name.c_str(),
                plans[0]->describe().c_str());
    std::printf(ratio < 0.95 ? "  best: %.1f us [%s]\n" : "\n", best, best_text.c_str());
    std::fflush(stdout);
  }
  if (count > 0)
    std::printf(
        "%d cases, %d wrong; the best plan takes %.3f of the chosen one's time in the mean, %.2f at worst; "
        "%d within 5 %%\n",
        count, wrong, std::exp(logs / count), worst, within);
  if (!json.empty()) std::ofstream(json) << all.dump(1) << '\n';
  return wrong;
}

}  // namespace sextant::cuda_bench
