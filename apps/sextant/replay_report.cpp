// Writes what a replay found.
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
          {"trace_format", trace.format},
          {"trace_notes", trace.notes},
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
  fmt::print("{} ({}): {} requests, scheduler and prefix cache alone, {:.2f} s\n", trace.name, trace.format,
             trace.requests.size(), run.seconds);
  for (const std::string& note : trace.notes) fmt::print("note: {}\n", note);
  fmt::print("\n");
  print_stats(trace, run.stats);
  const bool unbounded = options.scheduler.num_blocks == 0;
  fmt::print("{} KV blocks of {} tokens{}, {} evictions\n", run.blocks_used, options.scheduler.block_size,
             unbounded ? " (unbounded cache)" : "", run.evictions);
}

namespace {

std::string held(const CapacityKind& kind) {
  return kind.most_tokens > 0 ? fmt::format("the newest {} tokens", kind.most_tokens) : "all tokens";
}

}  // namespace

Json dry_run_json(const Trace& trace, const std::vector<ModelDryRun>& runs, const ReplayOptions& options) {
  Json json = dry_run_json(trace, runs.front().run, options);
  for (const ModelDryRun& dry : runs) {
    Json kinds = Json::array();
    for (const CapacityKind& kind : dry.capacity.kinds)
      kinds.push_back({{"count", kind.layers},
                       {"shared", kind.shared},
                       {"groups", kind.groups},
                       {"kept_tokens", kind.most_tokens},
                       {"served", kind.served},
                       {"why_not", kind.what},
                       {"attention", to_json(kind.spec)}});
    std::vector<std::string> notes = dry.model.shape.notes;
    notes.insert(notes.end(), dry.capacity.notes.begin(), dry.capacity.notes.end());
    Json model = dry_run_json(trace, dry.run, options);
    model["model"] = dry.model.shape.name;
    model["kinds"] = kinds;
    model["not_served"] = to_json(dry.model.unserved, dry.model.shape.layers.size());
    model["notes"] = notes;
    model["window_blocks_freed"] = dry.run.stats.window_blocks_freed;
    model["peak_used_blocks"] = dry.run.stats.peak_used_blocks;
    model["block_bytes"] = dry.block_bytes();
    json["models"].push_back(std::move(model));
  }
  return json;
}

void print_dry_run(const Trace& trace, const std::vector<ModelDryRun>& runs, const ReplayOptions& options) {
  for (const ModelDryRun& dry : runs) {
    fmt::print("{}\n", dry.model.shape.name);
    for (const CapacityKind& kind : dry.capacity.kinds)
      fmt::print("{} layer{}: {}: {} group{} of the pool, {}{}\n", kind.layers, kind.layers == 1 ? "" : "s",
                 describe(kind.spec), kind.groups, kind.groups == 1 ? "" : "s", held(kind),
                 kind.served ? "" : " (not served here: " + kind.what + ")");
    for (const UnservedKind& kind : dry.model.unserved)
      if (!kind.attends) fmt::print("{}: {}, no keys\n", layer_count(kind.layers, ""), kind.what);
    for (const std::string& note : dry.model.shape.notes) fmt::print("note: {}\n", note);
    for (const std::string& note : dry.capacity.notes) fmt::print("note: {}\n", note);
    print_dry_run(trace, dry.run, options);
    fmt::print("{} blocks used at most, {:.2f} GiB; windows gave back {} before their requests ended\n\n",
               dry.run.stats.peak_used_blocks,
               static_cast<double>(dry.run.stats.peak_used_blocks * dry.block_bytes()) / (1 << 30),
               dry.run.stats.window_blocks_freed);
  }
}

namespace {

Json kinds_json(const ModelReplay& replay) {
  Json kinds = Json::array();
  for (const ReplayedKind& kind : replay.kinds)
    kinds.push_back({{"count", kind.kind.layers.size()},
                     {"run", kind.run},
                     {"why_not", kind.why_not},
                     {"attention", to_json(kind.kind.spec)}});
  return kinds;
}

void print_kinds(const ModelReplay& replay) {
  for (const ReplayedKind& kind : replay.kinds) {
    const std::string what = kind.run > 0 ? fmt::format("{} of {} run", kind.run, layer_count(kind.kind.layers, ""))
                                          : layer_count(kind.kind.layers, "") + " not run (" + kind.why_not + ")";
    fmt::print("{}: {}\n", what, describe(kind.kind.spec));
  }
  for (const std::string& note : replay.notes) fmt::print("note: {}\n", note);
  if (replay.stats.window_blocks_freed > 0)
    fmt::print("windows gave back {} blocks before their requests ended\n", replay.stats.window_blocks_freed);
}

}  // namespace

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
    model["kinds"] = kinds_json(replay);
    model["not_served"] = to_json(replay.unserved, replay.model_layers);
    model["notes"] = replay.notes;
    model["window_blocks_freed"] = replay.stats.window_blocks_freed;
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
  fmt::print("{} trace ({}), {} requests, on {} ({}, {}, {} units)\n", trace.name, trace.format, trace.requests.size(),
             device_name(device), device.name, device.architecture, device.compute_units);
  for (const std::string& note : trace.notes) fmt::print("note: {}\n", note);
  constexpr auto kRight = Table::Align::kRight;
  for (const ModelReplay& replay : replays) {
    fmt::print("\n{}: {} layer{}, {} KV blocks of {} tokens\n\n", replay.model, replay.layers,
               replay.layers == 1 ? "" : "s", replay.num_blocks, options.scheduler.block_size);
    print_kinds(replay);
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
