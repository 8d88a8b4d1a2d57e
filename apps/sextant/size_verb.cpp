// sextant size: how many tokens and requests fit, and what share of a step attention will take.
#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "arguments.h"
#include "machine.h"
#include "measured_rates.h"
#include "parse_errors.h"
#include "sextant/capacity.h"
#include "table.h"
#include "verbs.h"

namespace sextant::cli {
namespace {

constexpr char kFooter[] =
    "Examples:\n"
    "  sextant size --model Llama-3.1-8B --memory 80G --weights 16G\n"
    "  sextant size --model ./gemma-3-27b/config.json --memory 141G --weights 55G --kv-cache-dtype fp8 --tp 2\n"
    "  sextant bench --batch 64q1s8k --json > here.json && sextant size --model Llama-3.1-8B --memory 40G --weights "
    "16G "
    "--measured here.json";

struct SizeArguments {
  std::string model, memory, weights = "0", measured;
  std::vector<std::string> lengths = {"1k", "8k", "32k", "128k"};
  ModelArguments shape;
  int32_t tp = 1, batched_tokens = 8192;
  bool json = false;
};

// "80G", "1.5T", "512M", "1024": powers of 1024, as memory is sold.
Result<int64_t> parse_bytes(const std::string& option, const std::string& text) {
  const std::string allowed = "a number with K, M, G or T (powers of 1024), up to 1024T";
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  std::string unit(stop, end);
  if (unit.size() > 1 && (unit.back() == 'B' || unit.back() == 'b')) unit.pop_back();
  if (unit.size() > 1 && unit.back() == 'i') unit.pop_back();
  const size_t power = unit.empty() ? 0 : std::string("kmgt").find(static_cast<char>(std::tolower(unit[0])));
  const bool fits = error == std::errc() && unit.size() <= 1 && power != std::string::npos && std::isfinite(number);
  const double bytes = fits ? number * std::pow(1024.0, unit.empty() ? 0 : power + 1.0) : -1;
  if (bytes < 0 || bytes > std::pow(1024.0, 5))
    return invalid_argument(fmt::format("{} is \"{}\"; allowed: {}", option, text, allowed));
  return static_cast<int64_t>(bytes);
}

Result<int64_t> parse_length(const std::string& text) {
  int64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  const std::string_view unit(stop, static_cast<size_t>(end - stop));
  if (error != std::errc() || number < 1 || number > (int64_t{1} << 30) || (!unit.empty() && unit != "k"))
    return invalid_argument(fmt::format("--lengths has \"{}\"; allowed: tokens, 1..2^30, k for x 1024", text));
  return unit.empty() ? number : number * 1024;
}

// What fits at one length.
struct Fit {
  int64_t length = 0, blocks = 0, requests = 0;
  double attention_ms = -1, other_ms = -1;  // of a decode step of that many requests; -1: not measured
  double share() const { return attention_ms / (attention_ms + other_ms); }
};

// A step of decodes reads every visible key and value once, and every weight once.
void rate(const Capacity& capacity, const CapacityRequest& request, int64_t weights, const MeasuredRates& rates,
          Fit& fit) {
  double bytes = 0;
  for (const CapacityKind& kind : capacity.kinds) {
    const int64_t seen = kind.most_tokens > 0 ? std::min(fit.length, kind.most_tokens) : fit.length;
    bytes += static_cast<double>(seen) * static_cast<double>(kind.bytes_a_token * (kind.layers + kind.shared));
  }
  (void)request;
  fit.attention_ms = bytes * static_cast<double>(fit.requests) / rates.attention_gbs * 1e-6;
  fit.other_ms = static_cast<double>(weights) / rates.memory_gbs * 1e-6;
}

Json to_json(const Capacity& capacity) {
  Json kinds = Json::array();
  for (const CapacityKind& kind : capacity.kinds)
    kinds.push_back({{"layers", kind.layers},
                     {"sharing", kind.shared},
                     {"bytes_a_token", kind.bytes_a_token},
                     {"bytes_a_token_all_layers", kind.bytes_a_token * kind.layers},
                     {"window", kind.most_tokens},
                     {"groups", kind.groups},
                     {"not_served", kind.what},
                     {"attention", cli::to_json(kind.spec)}});
  return kinds;
}

void print_as_json(const LoadedModel& model, const CapacityRequest& request, const Capacity& capacity,
                   const std::vector<Fit>& fits, int64_t weights, const std::vector<std::string>& notes) {
  Json lengths = Json::array();
  for (const Fit& fit : fits) {
    Json row = {{"tokens", fit.length}, {"blocks_a_request", fit.blocks}, {"requests", fit.requests}};
    row["attention_ms"] = fit.attention_ms < 0 ? Json(nullptr) : Json(fit.attention_ms);
    row["other_ms"] = fit.attention_ms < 0 ? Json(nullptr) : Json(fit.other_ms);
    row["attention_share"] = fit.attention_ms < 0 ? Json(nullptr) : Json(fit.share());
    lengths.push_back(std::move(row));
  }
  print_json({{"model", model.shape.name},
              {"kv_cache_dtype", to_string(model.kv_format)},
              {"tensor_parallel", request.tensor_parallel},
              {"cache_bytes", request.memory_bytes},
              {"weight_bytes", weights},
              {"block_size", request.block_size},
              {"bytes_a_token", capacity.bytes_a_token},
              {"kinds", to_json(capacity)},
              {"page_bytes", capacity.page_bytes},
              {"layers_a_group", capacity.group_layers},
              {"num_blocks", capacity.num_blocks},
              {"lengths", lengths},
              {"not_served", cli::to_json(model.unserved, model.shape.layers.size())},
              {"notes", notes}});
}

void print_as_text(const LoadedModel& model, const CapacityRequest& request, const Capacity& capacity,
                   const std::vector<Fit>& fits, const std::vector<std::string>& notes) {
  fmt::print("{} ({}): {} for keys and values in {}{}\n", model.shape.name, model.shape.source,
             bytes_text(request.memory_bytes), to_string(model.kv_format),
             request.tensor_parallel > 1 ? fmt::format(", on each of {} devices", request.tensor_parallel) : "");
  for (const std::string& note : notes) fmt::print("note: {}\n", note);
  fmt::print("\n");
  constexpr auto kRight = Table::Align::kRight;
  Table kinds({{"layers", kRight}, {"bytes a token and layer", kRight}, {"of all", kRight}, {"attention"}});
  for (const CapacityKind& kind : capacity.kinds)
    kinds.add_row({fmt::format("{}{}", kind.layers, kind.shared > 0 ? fmt::format(" (+{} sharing)", kind.shared) : ""),
                   fmt::format("{}", kind.bytes_a_token), fmt::format("{}", kind.bytes_a_token * kind.layers),
                   describe(kind.spec) + (kind.served ? "" : " [" + kind.what + "]")});
  kinds.print();
  fmt::print("\n{} bytes a token in all; {} blocks of {} tokens (a block: {} layers, {} bytes each)\n\n",
             capacity.bytes_a_token, capacity.num_blocks, request.block_size, capacity.group_layers,
             capacity.page_bytes);
  Table table({{"length", kRight},
               {"blocks a request", kRight},
               {"requests", kRight},
               {"tokens", kRight},
               {"attention's share of a decode step", kRight}});
  for (const Fit& fit : fits)
    table.add_row({fmt::format("{}", fit.length), fmt::format("{}", fit.blocks), fmt::format("{}", fit.requests),
                   fmt::format("{}", fit.requests * fit.length),
                   fit.attention_ms < 0 || fit.requests == 0
                       ? "not measured"
                       : fmt::format("{:.0f} % ({:.2f} of {:.2f} ms)", 100 * fit.share(), fit.attention_ms,
                                     fit.attention_ms + fit.other_ms)});
  table.print();
}

int run_size(const SizeArguments& a) {
  auto memory = parse_bytes("--memory", a.memory);
  if (!memory) return report(memory.status());
  auto weights = parse_bytes("--weights", a.weights);
  if (!weights) return report(weights.status());
  std::vector<Fit> fits;
  for (const std::string& text : a.lengths) {
    auto length = parse_length(text);
    if (!length) return report(length.status());
    fits.push_back({.length = *length});
  }
  DeviceInfo device;  // sizes are the same on every one
  auto model = load_model_with(a.model, a.shape, device);
  if (!model) return report(model.status());
  if (*weights >= *memory)
    return report(
        invalid_argument(fmt::format("--weights is {}; allowed: less than --memory ({})", a.weights, a.memory)));
  const CapacityRequest request{.memory_bytes = *memory - *weights,
                                .kv_format = model->kv_format,
                                .block_size = a.shape.block_size,
                                .tensor_parallel = a.tp,
                                .max_num_batched_tokens = a.batched_tokens};
  auto capacity = kv_capacity(model->shape, request);
  if (!capacity) return report(capacity.status());
  std::vector<std::string> notes = model->shape.notes;
  notes.insert(notes.end(), capacity->notes.begin(), capacity->notes.end());
  if (*weights == 0) notes.emplace_back("all of --memory is taken for keys and values: --weights SIZE leaves room");
  for (Fit& fit : fits) {
    fit.blocks = capacity->blocks_for(fit.length, request);
    fit.requests = capacity->num_blocks / fit.blocks;
  }
  if (a.measured.empty()) {
    notes.emplace_back("attention's share needs figures of this machine: sextant bench --json > FILE, --measured FILE");
  } else {
    auto rates = read_measured_rates(a.measured);
    if (!rates) return report(rates.status());
    for (Fit& fit : fits) rate(*capacity, request, *weights, *rates, fit);
    notes.push_back(fmt::format("measured on {}: decodes at {:.1f} GB/s by {}, memory at {:.1f} GB/s", rates->device,
                                rates->attention_gbs, rates->backend, rates->memory_gbs));
    if (*weights == 0) notes.emplace_back("without --weights the rest of a step is nothing: give them for a share");
  }
  if (a.json)
    print_as_json(*model, request, *capacity, fits, *weights, notes);
  else
    print_as_text(*model, request, *capacity, fits, notes);
  return kSuccess;
}

}  // namespace

void add_size_verb(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand("size", "How many tokens and requests fit into memory, kind of layer by kind");
  auto a = std::make_shared<SizeArguments>();
  verb->add_option("--model", a->model, "A built-in model's name, a config.json, or a folder that holds one")
      ->required();
  verb->add_option("--memory", a->memory, "Of each device: 80G, 1.5T; K, M, G, T are powers of 1024")->required();
  verb->add_option("--weights", a->weights, "Of --memory, on each device, what is not for keys and values")
      ->capture_default_str();
  verb->add_option("--tp", a->tp, "Devices that share the heads (tensor parallel)")->check(between(1, 65536));
  add_list(*verb, "--lengths", a->lengths, "Tokens of a request, k for x 1024");
  verb->add_option("--dtype", a->shape.dtype, "Of queries, keys, values and output: auto, fp32, fp16, bf16")
      ->capture_default_str();
  verb->add_option("--kv-cache-dtype", a->shape.kv_cache_dtype, kKvFormatNames)->capture_default_str();
  verb->add_option("--block-size", a->shape.block_size, "Tokens a KV block")->capture_default_str();
  verb->add_option("--max-num-batched-tokens", a->batched_tokens, "A step's tokens, which windows hold besides")
      ->check(between(1, 1e9))
      ->capture_default_str();
  verb->add_option("--measured", a->measured, "What sextant bench --json printed on this machine, with decodes");
  verb->add_flag("--json", a->json, "Print JSON");
  verb->footer(kFooter);
  verb->callback([a, &action] { action = [a] { return run_size(*a); }; });
}

}  // namespace sextant::cli
