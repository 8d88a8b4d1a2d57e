// sextant replay: real traffic through every backend.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "arguments.h"
#include "parse_errors.h"
#include "replay_report.h"
#include "replay_run.h"
#include "verbs.h"

namespace sextant::cli {
namespace {

constexpr char kFooter[] =
    "Without --trace, a built-in trace with the lengths and prefix sharing of the Mooncake conversation trace. "
    "Requests are\n"
    "taken as fast as they can be served; arrival times only order them.\n"
    "Examples:\n"
    "  sextant replay                                            both default models, all backends, under a minute\n"
    "  sextant replay --trace conversation_trace.jsonl --dry-run  scheduler and prefix cache alone, the whole trace\n"
    "  sextant replay --dry-run --model Gemma-3-27b               its groups of layers; windows free their blocks\n"
    "  sextant replay --trace AzureLLMInferenceTrace_conv.csv --model Qwen3-8B --requests 100 --layers 2\n"
    "  sextant replay --backends ROCM_AITER_FA,TRITON_ATTN --shrink 4 --seconds 0 --json";

// The built-in trace at full length is work for an accelerator; a sixteenth of every length suits two cores.
constexpr int32_t kBuiltInShrink = 16;
constexpr double kSeconds = 45;  // for all models: the default job stays under a minute wherever it runs
constexpr int64_t kRequests = 32, kDryRunRequests = 12031;

struct ReplayArguments {
  std::string trace, device = "auto";
  std::vector<std::string> models = {"Llama-3.1-8B", "DeepSeek-V3"}, backends = {"all"};
  ModelArguments shape;
  ReplayOptions options;
  TraceOptions trace_options;
  int64_t requests = -1;
  int32_t shrink = 0;
  bool dry = false, no_prefix_caching = false, json = false, layers_given = false, models_given = false;
};

Result<Trace> read_file(const ReplayArguments& a, int64_t requests) {
  TraceOptions options = a.trace_options;
  options.max_requests = requests;
  auto trace = read_trace(a.trace, options);
  // The library knows no options; the people who read this do.
  if (!trace && trace.status().message().find(": hash_ids is ") != std::string::npos)
    return Status(trace.status().code(), trace.status().message() + "; other blocks: --hash-block");
  return trace;
}

std::string format_help() {
  std::string text = "Of --trace, auto: by its first line;";
  for (const TraceFormat& format : trace_formats()) text += fmt::format(" {}: {};", format.name, format.summary);
  text.pop_back();
  return text;
}

Result<Trace> load_trace(const ReplayArguments& a) {
  const bool built_in = a.trace.empty();
  // A file's dry run takes all of it.
  const int64_t requests = a.requests >= 0 ? a.requests : !a.dry ? kRequests : built_in ? kDryRunRequests : 0;
  if (built_in && requests == 0) return invalid_argument("--requests is 0; allowed with the built-in trace: >= 1");
  auto trace = built_in ? Result<Trace>(make_synthetic_trace(requests)) : read_file(a, requests);
  if (!trace) return trace;
  const int32_t shrink = a.shrink > 0 ? a.shrink : built_in && !a.dry ? kBuiltInShrink : 1;
  SEXTANT_RETURN_IF_ERROR(shrink_trace(*trace, shrink));
  return trace;
}

// With the models that were asked for by name.
int run_dry_models(const Trace& trace, const ReplayArguments& a) {
  auto device = open_device_named(a.device);
  if (!device) return report(device.status());
  std::vector<ModelDryRun> runs;
  for (const std::string& name : a.models) {
    auto model = load_model_with(name, a.shape, (*device)->info());
    if (!model) return report(model.status());
    auto run = dry_run_model(*model, trace, a.options.scheduler);
    if (!run) return report(run.status());
    runs.push_back(std::move(*run));
  }
  if (a.json)
    print_json(dry_run_json(trace, runs, a.options));
  else
    print_dry_run(trace, runs, a.options);
  return kSuccess;
}

int run_dry(const Trace& trace, const ReplayArguments& a) {
  if (a.models_given) return run_dry_models(trace, a);
  auto result = dry_run(trace, a.options.scheduler, true);
  if (!result) return report(result.status());
  if (a.json)
    print_json(dry_run_json(trace, *result, a.options));
  else
    print_dry_run(trace, *result, a.options);
  return kSuccess;
}

int run_replay(ReplayArguments a) {
  a.options.scheduler.block_size = a.shape.block_size;
  a.options.scheduler.prefix_caching = !a.no_prefix_caching;
  if (a.options.layers < 0 || (a.layers_given && a.options.layers < 1))
    return report(invalid_argument(fmt::format("--layers is {}; allowed: >= 1", a.options.layers)));
  auto backends = parse_backends(a.backends);
  if (!backends) return report(backends.status());
  if (a.dry) {
    auto trace = load_trace(a);
    return trace ? run_dry(*trace, a) : report(trace.status());
  }
  auto device = open_device_named(a.device);
  if (!device) return report(device.status());
  std::vector<LoadedModel> models;
  for (const std::string& name : a.models) {
    auto model = load_model_with(name, a.shape, (*device)->info());
    if (!model) return report(model.status());
    models.push_back(std::move(*model));
  }
  auto trace = load_trace(a);
  if (!trace) return report(trace.status());
  std::vector<ModelReplay> replays;
  const auto start = std::chrono::steady_clock::now();
  for (const LoadedModel& model : models) {
    // What earlier models left over goes to the later ones.
    ReplayOptions options = a.options;
    const double spent = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (options.seconds > 0)
      options.seconds = std::max(options.seconds - spent, 1e-6) / static_cast<double>(models.size() - replays.size());
    auto replay = replay_model(**device, model, *backends, *trace, options);
    if (!replay) return report(replay.status());
    replays.push_back(std::move(*replay));
  }
  if (a.json)
    print_json(replay_json(*trace, replays, a.options, (*device)->info()));
  else
    print_replay(*trace, replays, a.options, (*device)->info());
  int exit_code = kSuccess;
  for (const ModelReplay& replay : replays) {
    for (const ReplayedKind& kind : replay.kinds)
      if (kind.refused)
        exit_code = report(unsupported(fmt::format("{}: {} not run: {}", replay.model,
                                                   layer_count(kind.kind.layers, kind.kind.part), kind.why_not)));
    if (replay.backends.empty())
      exit_code = report(unsupported(fmt::format("{}: none of the backends serves this", replay.model)));
    else if (!replay.agreement.agrees())
      exit_code =
          report(Status(StatusCode::kInternal,
                        fmt::format("{}: backends differ by {:.3g} ({}); allowed: {:.3g}", replay.model,
                                    replay.agreement.largest, replay.agreement.where, replay.agreement.allowed)));
  }
  return exit_code;
}

}  // namespace

void add_replay_verb(CLI::App& app, Action& action) {
  CLI::App* verb =
      app.add_subcommand("replay", "Real traffic through every backend: tokens/s, step times, hit rate, agreement");
  auto a = std::make_shared<ReplayArguments>();
  SchedulerOptions& s = a->options.scheduler;
  a->options.seconds = kSeconds;
  verb->add_option("--trace", a->trace, "A file of one of the formats below; none: the built-in trace");
  verb->add_option("--trace-format", a->trace_options.format, format_help())->capture_default_str();
  verb->add_option("--hash-block", a->trace_options.hash_block_size,
                   "Tokens that a hash id of the trace stands for; 0: what the format's publishers use")
      ->check(between(0, 1e9))
      ->capture_default_str();
  CLI::Option* models = add_list(*verb, "--model", a->models, "Built-in names or config.json files");
  add_list(*verb, "--backends", a->backends, "all, or names");
  verb->add_option("--requests", a->requests, "Requests of the trace, 0: all (default 32; a file's dry run: all)")
      ->check(between(0, 1e7));
  verb->add_option("--layers", a->options.layers, "Run the model's first served layers (default: one of each kind)")
      ->each([a](const std::string&) { a->layers_given = true; });
  verb->add_option("--shrink", a->shrink, "Divide all lengths by this (default 16 for the built-in trace, else 1)")
      ->check(between(1, 1e6));
  verb->add_option("--seconds", a->options.seconds, "Stop after this long, shared by the models; 0: never")
      ->check(between(0, 1e6))
      ->capture_default_str();
  verb->add_option("--device", a->device, kDeviceNames)->capture_default_str();
  verb->add_option("--dtype", a->shape.dtype, "Of queries, keys, values and output: auto, fp32, fp16, bf16")
      ->capture_default_str();
  verb->add_option("--query-dtype", a->shape.query_dtype, kFp8Names)->capture_default_str();
  verb->add_option("--kv-cache-dtype", a->shape.kv_cache_dtype, kKvFormatNames)->capture_default_str();
  verb->add_option("--block-size", a->shape.block_size, "Tokens a KV block")->capture_default_str();
  verb->add_option("--num-blocks", s.num_blocks, "KV blocks; 0: unbounded, as far as memory allows")
      ->check(between(0, 1e12))
      ->capture_default_str();
  verb->add_option("--max-num-batched-tokens", s.max_num_batched_tokens, "Token budget of a step")
      ->capture_default_str();
  verb->add_option("--max-num-seqs", s.max_num_seqs, "Requests running at once")->capture_default_str();
  verb->add_flag("--no-prefix-caching", a->no_prefix_caching, "Compute every prompt whole");
  verb->add_option("--seed", a->options.seed, "Of the random tensors")->capture_default_str();
  verb->add_flag("--dry-run", a->dry, "Scheduler and prefix cache alone, no tensors");
  verb->add_flag("--json", a->json, "Print JSON");
  verb->footer(kFooter);

  verb->callback([a, models, &action] {
    a->models_given = models->count() > 0;
    action = [a] { return run_replay(*a); };
  });
}

}  // namespace sextant::cli
