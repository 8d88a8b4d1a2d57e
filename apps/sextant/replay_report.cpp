#include "replay_report.h"

#include <fmt/format.h>

#include <cmath>

#include "table.h"

namespace sextant::cli {
namespace {

double ratio(int64_t part, int64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

Json share_json(const StepShare& share, int64_t tokens) {
  return {{"requests", share.requests}, {"tokens", share.tokens}, {"token_share", ratio(share.tokens, tokens)}};
}

// What the scheduler alone knows; the first keys are the documented ones.
Json stats_json(const Trace& trace, const SchedulerStats& s) {
  return {{"trace", trace.name},
          {"requests", trace.requests.size()},
          {"tokens", s.scheduled_tokens},
          {"block_hit_rate", s.block_hit_rate()},
          {"token_hit_rate", s.token_hit_rate()},
          {"trace_blocks", s.trace_blocks},
          {"trace_block_hits", s.trace_block_hits},
          {"trace_block_tokens", trace.hash_block_size},
          {"finished_requests", s.finished_requests},
          {"prompt_tokens", s.prompt_tokens},
          {"cached_prompt_tokens", s.cached_prompt_tokens},
          {"generated_tokens", s.generated_tokens},
          {"steps", s.steps},
          {"preemptions", s.preemptions},
          {"share",
           {{"decode", share_json(s.decode, s.scheduled_tokens)},
            {"extend", share_json(s.extend, s.scheduled_tokens)},
            {"prefill", share_json(s.prefill, s.scheduled_tokens)}}}};
}

Json step_ms_json(const BackendReplay& b) {
  return {{"mean", b.step_ms.empty() ? 0.0 : b.total_ms() / static_cast<double>(b.step_ms.size())},
          {"p50", b.quantile(0.5)},
          {"p90", b.quantile(0.9)},
          {"p99", b.quantile(0.99)},
          {"max", b.quantile(1)}};
}

double tokens_per_s(const ModelReplay& replay, const BackendReplay& b) {
  const double ms = b.total_ms();
  return ms > 0 ? static_cast<double>(replay.stats.scheduled_tokens) / ms * 1000 : 0;
}

Json finite(double value) { return std::isfinite(value) ? Json(value) : Json("nan"); }

Json agreement_json(const ModelReplay& replay) {
  const Agreement& a = replay.agreement;
  return {{"model", replay.model}, {"agrees", a.agrees()}, {"largest_difference", finite(a.largest)},
          {"allowed", a.allowed},  {"rows", a.rows},       {"where", a.where}};
}

void print_stats(const Trace& trace, const SchedulerStats& s) {
  constexpr auto kRight = Table::Align::kRight;
  Table table({{"kind of work"}, {"requests", kRight}, {"tokens", kRight}, {"of all tokens", kRight}});
  const auto add = [&](const char* name, const StepShare& share) {
    table.add_row({name, fmt::to_string(share.requests), fmt::to_string(share.tokens),
                   fmt::format("{:.1f} %", 100 * ratio(share.tokens, s.scheduled_tokens))});
  };
  add("decode", s.decode);
  add("extend", s.extend);
  add("prefill", s.prefill);
  table.print();
  fmt::print("\n{} steps, {} tokens run, {} generated, {} preemptions\n", s.steps, s.scheduled_tokens,
             s.generated_tokens, s.preemptions);
  fmt::print(
      "block hit rate {:.1f} % ({} of {} blocks of {} tokens), {:.1f} % of the prompt tokens came from the cache\n",
      100 * s.block_hit_rate(), s.trace_block_hits, s.trace_blocks, trace.hash_block_size, 100 * s.token_hit_rate());
}

}  // namespace

Json dry_run_json(const Trace& trace, const DryRun& run, const ReplayOptions& options) {
  Json json = stats_json(trace, run.stats);
  json["dry_run"] = true;
  json["seconds"] = run.seconds;
  json["block_size"] = options.scheduler.block_size;
  json["num_blocks"] = run.blocks_used;
  json["evictions"] = run.evictions;
  json["results"] = Json::array();
  json["agreement"] = nullptr;
  return json;
}

void print_dry_run(const Trace& trace, const DryRun& run, const ReplayOptions& options) {
  fmt::print("{}: {} requests, scheduler and prefix cache alone, {:.2f} s\n\n", trace.name, trace.requests.size(),
             run.seconds);
  print_stats(trace, run.stats);
  const bool unbounded = options.scheduler.num_blocks == 0;
  fmt::print("{} KV blocks of {} tokens{}, {} evictions\n", run.blocks_used, options.scheduler.block_size,
             unbounded ? " (unbounded cache)" : "", run.evictions);
}

Json replay_json(const Trace& trace, const std::vector<ModelReplay>& replays, const ReplayOptions& options,
                 const DeviceInfo& device) {
  // The traffic is the same for all models unless time ran out: the first one's figures stand at the top.
  Json json = stats_json(trace, replays.front().stats);
  Json results = Json::array(), models = Json::array(), agreements = Json::array();
  bool agree = true;
  for (const ModelReplay& replay : replays) {
    for (const BackendReplay& b : replay.backends)
      results.push_back(
          {{"model", replay.model},
           {"backend", b.backend->info().name},
           {"device", device_name(device)},
           {"tokens_per_s", tokens_per_s(replay, b)},
           {"step_ms", step_ms_json(b)},
           {"steps", b.step_ms.size()},
           {"plan_ms_mean", b.step_ms.empty() ? 0.0 : b.plan_ms / static_cast<double>(b.step_ms.size())}});
    Json skipped = Json::array();
    for (const auto& [backend, reason] : replay.skipped) skipped.push_back({{"backend", backend}, {"reason", reason}});
    Json model = stats_json(trace, replay.stats);
    model["model"] = replay.model;
    model["layers"] = replay.layers;
    model["block_size"] = options.scheduler.block_size;
    model["num_blocks"] = replay.num_blocks;
    model["stopped_by_time"] = replay.stopped_by_time;
    model["skipped"] = skipped;
    models.push_back(std::move(model));
    agreements.push_back(agreement_json(replay));
    agree = agree && replay.agreement.agrees();
  }
  json["dry_run"] = false;
  json["results"] = results;
  json["agreement"] = {{"agrees", agree}, {"models", agreements}};
  json["models"] = models;
  return json;
}

void print_replay(const Trace& trace, const std::vector<ModelReplay>& replays, const ReplayOptions& options,
                  const DeviceInfo& device) {
  fmt::print("{} trace, {} requests, on {} ({}, {}, {} units)\n", trace.name, trace.requests.size(),
             device_name(device), device.name, device.architecture, device.compute_units);
  constexpr auto kRight = Table::Align::kRight;
  for (const ModelReplay& replay : replays) {
    fmt::print("\n{}: {} layer{}, {} KV blocks of {} tokens\n\n", replay.model, replay.layers,
               replay.layers == 1 ? "" : "s", replay.num_blocks, options.scheduler.block_size);
    for (const auto& [backend, reason] : replay.skipped) fmt::print("{} skipped: {}\n", backend, reason);
    if (replay.backends.empty()) continue;
    print_stats(trace, replay.stats);
    if (replay.stopped_by_time)
      fmt::print("stopped when time was up, with {} of {} requests finished (--seconds 0 runs all)\n",
                 replay.stats.finished_requests, trace.requests.size());
    fmt::print("\n");
    Table table({{"backend"},
                 {"tokens/s", kRight},
                 {"step ms p50", kRight},
                 {"p90", kRight},
                 {"p99", kRight},
                 {"max", kRight},
                 {"of it plan", kRight}});
    for (const BackendReplay& b : replay.backends)
      table.add_row({b.backend->info().name, fmt::format("{:.0f}", tokens_per_s(replay, b)),
                     fmt::format("{:.2f}", b.quantile(0.5)), fmt::format("{:.2f}", b.quantile(0.9)),
                     fmt::format("{:.2f}", b.quantile(0.99)), fmt::format("{:.2f}", b.quantile(1)),
                     fmt::format("{:.1f} %", 100 * b.plan_ms / std::max(b.total_ms(), 1e-9))});
    table.print();
    const Agreement& a = replay.agreement;
    fmt::print(
        "\nall backends {}: largest difference {:.1e} of a row's root mean square over {} rows ({}), allowed {:.1e}\n",
        a.agrees() ? "agree" : "DO NOT agree", a.largest, a.rows, a.where.empty() ? "nowhere" : a.where, a.allowed);
  }
}

}  // namespace sextant::cli
