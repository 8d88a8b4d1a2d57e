// sextant select: which backend for a model on a device, and why not the others.
#include <fmt/format.h>

#include "arguments.h"
#include "parse_errors.h"
#include "sextant/selector.h"
#include "table.h"
#include "verbs.h"

namespace sextant::cli {
namespace {

constexpr char kFooter[] =
    "Examples:\n"
    "  sextant select --model Llama-3.1-8B\n"
    "  sextant select --model ./my-model/config.json --kv-cache-dtype fp8 --block-size 32\n"
    "  VLLM_ATTENTION_BACKEND=ROCM_ATTN sextant select --model gpt-oss-20b --json";

struct SelectArguments {
  std::string model, device = "auto", backend;
  ModelArguments shape;
  int64_t typical_query_len = 0, typical_context_len = 0;
  bool json = false;
};

// The choice for one kind of layer.
struct KindChoice {
  LayerKind kind;
  std::string chosen;  // empty: none
  std::string source;
  std::vector<Candidate> candidates;
  Status refusal;  // when none
};

KindChoice choose(const Device& device, const LoadedModel& model, const LayerKind& kind,
                  const SelectArguments& arguments) {
  SelectRequest request;
  request.spec = kind.spec;
  request.cache = kv_cache_for(kind.spec, model.kv_format, arguments.shape.block_size, 1024);
  if (!arguments.backend.empty()) request.backend = arguments.backend;
  request.typical_query_len = arguments.typical_query_len;
  request.typical_context_len = arguments.typical_context_len;
  KindChoice choice;
  choice.kind = kind;
  if (const Status valid = validate(kind.spec); !valid.is_ok()) {  // a shape that nothing here serves
    choice.refusal = unsupported(fmt::format("{}: {}", layer_count(kind.layers, kind.part), valid.message()));
    for (const Backend* backend : all_backends())
      choice.candidates.push_back({backend->info().name, false, {valid.message()}});
    return choice;
  }
  auto selection = select_backend(device, request);
  if (selection) {
    choice.chosen = selection->backend->info().name;
    choice.source = selection->source;
    choice.candidates = std::move(selection->candidates);
  } else {
    choice.refusal = selection.status();
    choice.candidates = explain_candidates(device, request);
    for (Candidate& candidate : choice.candidates) candidate.chosen = false;
  }
  return choice;
}

Json to_json(const std::vector<Candidate>& candidates) {
  Json array = Json::array();
  for (const Candidate& candidate : candidates)
    array.push_back({{"name", candidate.name}, {"chosen", candidate.chosen}, {"reasons", candidate.reasons}});
  return array;
}

Json chosen_or_null(const std::string& name) { return name.empty() ? Json(nullptr) : Json(name); }

void print_as_json(const LoadedModel& model, const DeviceInfo& device, const std::vector<KindChoice>& choices,
                   const std::vector<std::string>& warnings) {
  Json kinds = Json::array();
  for (const KindChoice& choice : choices)
    kinds.push_back({{"layers", choice.kind.layers},
                     {"count", choice.kind.layers.size()},
                     {"part", choice.kind.part},
                     {"attention", cli::to_json(choice.kind.spec)},
                     {"chosen", chosen_or_null(choice.chosen)},
                     {"source", choice.source},
                     {"candidates", to_json(choice.candidates)}});
  print_json({{"model", model.shape.name},
              {"device", device_name(device)},
              {"kv_cache_dtype", to_string(model.kv_format)},
              {"chosen", choices.empty() ? Json(nullptr) : chosen_or_null(choices.front().chosen)},
              {"source", choices.empty() ? "" : choices.front().source},
              {"candidates", choices.empty() ? Json::array() : to_json(choices.front().candidates)},
              {"warnings", warnings},
              {"model_type", model.shape.model_type},
              {"num_layers", model.shape.layers.size()},
              {"layer_kinds", kinds},
              {"not_served", cli::to_json(model.unserved, model.shape.layers.size())},
              {"notes", model.shape.notes}});
}

void print_as_text(const LoadedModel& model, const DeviceInfo& device, const std::vector<KindChoice>& choices) {
  fmt::print("{} ({}), KV cache {}, on {} ({}, {})\n", model.shape.name, model.shape.source, to_string(model.kv_format),
             device_name(device), device.name, device.architecture);
  for (const std::string& note : model.shape.notes) fmt::print("note: {}\n", note);
  for (const KindChoice& choice : choices) {
    fmt::print("\n{}: {}\n", layer_count(choice.kind.layers, choice.kind.part), describe(choice.kind.spec));
    fmt::print("chosen: {}{}\n\n", choice.chosen.empty() ? "none" : choice.chosen,
               choice.source.empty() ? "" : fmt::format(" ({})", choice.source));
    Table table({{""}, {"backend"}, {"why"}});
    for (const Candidate& candidate : choice.candidates)
      table.add_row(
          {candidate.chosen ? "->" : "", candidate.name, fmt::format("{}", fmt::join(candidate.reasons, "\n"))});
    table.print();
  }
}

int run_select(const SelectArguments& arguments) {
  const std::vector<std::string> warnings = near_miss_warnings();
  for (const std::string& warning : warnings) report_warning(warning);
  if (!arguments.backend.empty()) {
    auto backend = find_backend(arguments.backend);
    if (!backend) return report(backend.status());
  }
  auto device = open_device_named(arguments.device);
  if (!device) return report(device.status());
  auto model = load_model_with(arguments.model, arguments.shape, (*device)->info());
  if (!model) return report(model.status());
  std::vector<KindChoice> choices;
  for (const LayerKind& kind : model->kinds) choices.push_back(choose(**device, *model, kind, arguments));
  if (arguments.json)
    print_as_json(*model, (*device)->info(), choices, warnings);
  else
    print_as_text(*model, (*device)->info(), choices);
  if (choices.empty())
    return report(unsupported(fmt::format("{}: no layer has attention that is served here", model->shape.name)));
  int exit_code = kSuccess;
  for (const KindChoice& choice : choices)
    if (choice.chosen.empty()) exit_code = std::max(exit_code, report(choice.refusal));
  return exit_code;
}

}  // namespace

void add_select_verb(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand("select", "Which backend for a model, and why not the others");
  auto arguments = std::make_shared<SelectArguments>();
  verb->add_option("--model", arguments->model, "A built-in model's name, a config.json, or a folder that holds one")
      ->required();
  verb->add_option("--device", arguments->device, kDeviceNames)->capture_default_str();
  verb->add_option("--dtype", arguments->shape.dtype, "Of queries, keys, values and output: auto, fp32, fp16, bf16")
      ->capture_default_str();
  verb->add_option("--query-dtype", arguments->shape.query_dtype, kFp8Names)->capture_default_str();
  verb->add_option("--kv-cache-dtype", arguments->shape.kv_cache_dtype, kKvFormatNames)->capture_default_str();
  verb->add_option("--block-size", arguments->shape.block_size, "Tokens a KV block")->capture_default_str();
  verb->add_option("--backend", arguments->backend, "Ask for this one; wins over VLLM_ATTENTION_BACKEND");
  verb->add_option("--query-len", arguments->typical_query_len, "Typical new tokens a request (0: a general mix)")
      ->check(between(0, 1e9));
  verb->add_option("--context-len", arguments->typical_context_len, "Typical tokens already cached (0: a general mix)")
      ->check(between(0, 1e9));
  verb->add_flag("--json", arguments->json, "Print JSON");
  verb->footer(kFooter);
  verb->callback([arguments, &action] { action = [arguments] { return run_select(*arguments); }; });
}

}  // namespace sextant::cli
