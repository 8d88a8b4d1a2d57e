// sextant bench: how fast each backend is on a batch, next to what the machine could do.
#include <fmt/format.h>

#include <map>

#include "arguments.h"
#include "bench_measure.h"
#include "ceilings.h"
#include "machine.h"
#include "parse_errors.h"
#include "progress.h"
#include "quiet.h"
#include "sextant/selector.h"
#include "table.h"
#include "verbs.h"

namespace sextant::cli {
namespace {

constexpr char kFooter[] =
    "A batch is segments [count]q<len>[k][s<kvlen>[k]] joined by _ (k = x 1024, s defaults to q).\n"
    "Examples:\n"
    "  sextant bench --model Llama-3.1-8B --batch q3616s20000,2q2k_32q1s1k --backends all\n"
    "  sextant bench --model DeepSeek-V3 --batch 8q1s8k --backends ROCM_AITER_MLA,TRITON_MLA\n"
    "  sextant bench --batch 8q1s8k --kv-cache-dtype fp8 --json > decode.json";

struct BenchArguments {
  std::vector<std::string> models = {"Llama-3.1-8B"}, batches = {"q2k", "q3616s20000", "8q1s8k"}, backends = {"all"};
  std::string device = "auto";
  ModelArguments shape;
  MeasureOptions measure;
  double wait = 5;
  bool all_layer_kinds = false, no_check = false, json = false;
};

struct BenchResult {
  const Backend* backend;
  std::string model, batch;
  std::vector<int32_t> layers;
  Measurement measured;
  double tflops = 0, gbs = 0, fraction = 0;
  Ceilings ceilings = {};  // of its dtype
  bool of_read = false;    // which of the two is nearer
  double others = 0;       // share of the cores that others used meanwhile
  bool selected = false;   // by `sextant select`, for a general mix of traffic
};

struct BenchReport {
  Ceilings ceilings;  // of the first dtype
  std::map<DType, Ceilings> ceilings_of;
  double waited = 0;  // seconds, for a quiet moment
  std::vector<BenchResult> results;
  struct Skipped {
    std::string backend, model, batch, reason;
  };
  std::vector<Skipped> skipped;
};

// Checked before anything is measured, so that a slip in the last batch does not cost the first ones.
struct BenchPlan {
  std::vector<LoadedModel> models;
  std::vector<std::pair<std::string, std::vector<RequestLengths>>> batches;
  std::vector<const Backend*> backends;
};

Status check_memory(const BenchPlan& plan, const BenchArguments& arguments, const DeviceInfo& device) {
  const bool own_memory = device.kind == DeviceKind::kCuda || device.kind == DeviceKind::kHip;
  const int64_t memory = own_memory ? device.memory_bytes : this_machine().available_bytes;
  for (const LoadedModel& model : plan.models)
    for (const auto& [text, requests] : plan.batches) {
      const double bytes =
          bytes_needed(model.kinds.front().spec, model.kv_format, arguments.shape.block_size, requests);
      if (bytes > static_cast<double>(memory))
        return Status(StatusCode::kResourceExhausted,
                      fmt::format("batch \"{}\" of {} needs {:.1f} GiB for one layer; allowed: what fits {} of memory",
                                  text, model.shape.name, bytes / 0x1p30, bytes_text(memory)));
    }
  return Status::ok();
}

Result<BenchPlan> plan_bench(const BenchArguments& arguments, const DeviceInfo& device) {
  BenchPlan plan;
  auto backends = parse_backends(arguments.backends);
  if (!backends) return backends.status();
  plan.backends = *backends;
  for (const std::string& text : arguments.batches) {
    auto requests = parse_batch(text);
    if (!requests) return requests.status();
    plan.batches.emplace_back(text, std::move(*requests));
  }
  for (const std::string& name : arguments.models) {
    auto model = load_model_with(name, arguments.shape, device);
    if (!model) return model.status();
    if (model->kinds.empty())
      return unsupported(fmt::format("{}: no layer has attention that is served here", model->shape.name));
    for (const UnservedKind& kind : model->unserved)
      report_warning(fmt::format("{}: {}", model->shape.name, describe(kind, model->shape.layers.size())));
    plan.models.push_back(std::move(*model));
  }
  SEXTANT_RETURN_IF_ERROR(check_memory(plan, arguments, device));
  return plan;
}

// Layers with a window or chunks do little of a long context: by default the kind that sees most is measured.
std::vector<LayerKind> kinds_to_measure(const LoadedModel& model, bool all) {
  if (all) return model.kinds;
  for (const LayerKind& kind : model.kinds)
    if (kind.spec.mask().most_left() == AttentionMask::kUnlimited) return {kind};
  return {model.kinds.front()};
}

// Bytes of the cache's own format against the speed of reading, products against that of the dtype's unit.
void rate(const BenchCase& bench, BenchResult& result) {
  if (!result.measured.timing) return;
  const double seconds = result.measured.timing->ms_median / 1000;
  result.tflops = attention_flops(bench.spec, bench.requests) / seconds * 1e-12;
  result.gbs = kv_bytes(bench.spec, bench.kv_format, bench.requests) / seconds * 1e-9;
  const Ceilings& ceilings = result.ceilings;
  if (ceilings.tflops <= 0) return;
  const double products = result.tflops / ceilings.tflops, read = result.gbs / ceilings.gbs;
  result.of_read = read > products;
  result.fraction = std::max(products, read);
}

// Others at work lengthen times, and ceilings as well. The seconds that may be waited are those of the whole run.
void find_quiet_moment(const Device& device, const BenchArguments& arguments, BenchReport& bench_report) {
  if (device.info().kind == DeviceKind::kCpu)
    bench_report.waited += wait_for_quiet(arguments.wait - bench_report.waited);
}

const Ceilings& ceilings_for(Device& device, DType dtype, BenchReport& bench_report) {
  const auto found = bench_report.ceilings_of.find(dtype);
  if (found != bench_report.ceilings_of.end()) return found->second;
  return bench_report.ceilings_of.emplace(dtype, measure_ceilings(device, dtype)).first->second;
}

// The automatic choice, as `sextant select` shows it; none where nothing serves.
const Backend* selected_backend(const Device& device, const BenchCase& bench) {
  SelectRequest request;
  request.spec = bench.spec;
  request.cache = kv_cache_for(bench.spec, bench.kv_format, bench.block_size, 1024);
  request.read_environment = false;
  const auto selection = select_backend(device, request);
  return selection ? selection->backend : nullptr;
}

Status bench_one(Device& device, const BenchPlan& plan, const LoadedModel& model, const LayerKind& kind, size_t batch,
                 const BenchArguments& arguments, Progress& progress, int64_t& done, BenchReport& bench_report) {
  const auto& [text, requests] = plan.batches[batch];
  if (const Status valid = validate(kind.spec); !valid.is_ok()) {
    bench_report.skipped.push_back({"all", model.shape.name, text, valid.message()});
    return Status::ok();
  }
  auto bench = make_bench_case(kind.spec, model.kv_format, arguments.shape.block_size, requests);
  if (!bench) return bench.status();
  auto inputs = AttentionInputs::make(device, kind.spec, bench->batch.query_start_loc.back(), arguments.measure.seed);
  if (!inputs) return inputs.status();
  const Backend* selected = selected_backend(device, *bench);
  for (const Backend* backend : plan.backends) {
    if ((backend->info().category == BackendCategory::kMla) != kind.spec.mla.enabled()) continue;
    progress.update(done++, fmt::format("{} {} {}", model.shape.name, text, backend->info().name));
    find_quiet_moment(device, arguments, bench_report);
    const OthersMeter meter;
    auto measured = measure(device, *backend, *bench, *inputs, arguments.measure);
    if (!measured && measured.status().code() == StatusCode::kUnsupported) {
      bench_report.skipped.push_back({backend->info().name, model.shape.name, text, measured.status().message()});
      continue;
    }
    if (!measured) return measured.status();
    BenchResult result{backend, model.shape.name, text, kind.layers, std::move(*measured)};
    result.others = meter.share().value_or(0);
    result.selected = backend == selected;
    result.ceilings = ceilings_for(device, kind.spec.dtype, bench_report);
    rate(*bench, result);
    bench_report.results.push_back(std::move(result));
  }
  return Status::ok();
}

Result<BenchReport> bench_all(Device& device, const BenchPlan& plan, const BenchArguments& arguments) {
  BenchReport bench_report;
  find_quiet_moment(device, arguments, bench_report);
  bench_report.ceilings = ceilings_for(device, plan.models.front().kinds.front().spec.dtype, bench_report);
  int64_t total = 0, done = 0;
  for (const LoadedModel& model : plan.models)
    for (const LayerKind& kind : kinds_to_measure(model, arguments.all_layer_kinds))
      for (const Backend* backend : plan.backends)
        total += (backend->info().category == BackendCategory::kMla) == kind.spec.mla.enabled()
                     ? static_cast<int64_t>(plan.batches.size())
                     : 0;
  Progress progress("bench", total);
  for (const LoadedModel& model : plan.models)
    for (const LayerKind& kind : kinds_to_measure(model, arguments.all_layer_kinds))
      for (size_t batch = 0; batch < plan.batches.size(); ++batch)
        SEXTANT_RETURN_IF_ERROR(bench_one(device, plan, model, kind, batch, arguments, progress, done, bench_report));
  return bench_report;
}

std::string ceiling_name(const BenchResult& b) { return b.of_read ? "read" : b.ceilings.matrix_unit; }

double others_at_most(const BenchReport& r) {
  double most = 0;
  for (const BenchResult& b : r.results) most = std::max(most, b.others);
  return most;
}

Json to_json(const BenchReport& r, const DeviceInfo& device) {
  Json results = Json::array(), skipped = Json::array();
  for (const BenchResult& b : r.results) {
    const Timing timing = b.measured.timing.value_or(Timing{});
    const auto measured = [&b](double value) { return b.measured.timing ? Json(value) : Json(nullptr); };
    results.push_back({{"backend", b.backend->info().name},
                       {"device", device_name(device)},
                       {"model", b.model},
                       {"layers", b.layers},
                       {"batch", b.batch},
                       {"ms_median", measured(timing.ms_median)},
                       {"ms_min", measured(timing.ms_min)},
                       {"ms_p10", measured(timing.ms_p10)},
                       {"ms_p90", measured(timing.ms_p90)},
                       {"samples", timing.samples},
                       {"plan_ms", b.measured.plan_ms},
                       {"workspace_bytes", b.measured.workspace_bytes},
                       {"tflops", measured(b.tflops)},
                       {"gbs", measured(b.gbs)},
                       {"fraction_of_ceiling", b.fraction > 0 ? Json(b.fraction) : Json(nullptr)},
                       {"ceiling", b.fraction > 0 ? Json(ceiling_name(b)) : Json(nullptr)},
                       {"ceiling_tflops", b.ceilings.tflops},
                       {"others_busy", b.others},
                       {"selected", b.selected},
                       {"error", std::isfinite(b.measured.check.error) ? Json(b.measured.check.error) : Json("nan")},
                       {"error_allowed", b.measured.check.allowed},
                       {"checked_rows", b.measured.check.rows},
                       {"steps", b.measured.steps}});
  }
  for (const BenchReport::Skipped& s : r.skipped)
    skipped.push_back({{"backend", s.backend}, {"model", s.model}, {"batch", s.batch}, {"reason", s.reason}});
  Json machine = to_json(this_machine());
  machine["device"] = device_name(device);
  machine["device_name"] = device.name;
  machine["architecture"] = device.architecture;
  return {{"machine", machine},         {"ceilings", to_json(r.ceilings)},
          {"waited_seconds", r.waited}, {"others_busy", others_at_most(r)},
          {"results", results},         {"skipped", skipped}};
}

void print_as_text(const BenchReport& r, const DeviceInfo& device) {
  fmt::print("on {} ({}, {}, {} units)\n", device_name(device), device.name, device.architecture, device.compute_units);
  if (r.ceilings.tflops > 0)
    fmt::print("ceilings measured now: {:.2f} TFLOP/s ({}), {:.1f} GB/s read\n\n", r.ceilings.tflops,
               r.ceilings.matrix_unit, r.ceilings.gbs);
  else
    fmt::print("{}\n\n", r.ceilings.note);
  constexpr auto kRight = Table::Align::kRight;
  Table table({{"model"},
               {"batch"},
               {"backend"},
               {"ms", kRight},
               {"p10..p90", kRight},
               {"TFLOP/s", kRight},
               {"GB/s", kRight},
               {"of ceiling", kRight},
               {"error / allowed", kRight}});
  for (const BenchResult& b : r.results) {
    const std::string error = b.measured.check.rows == 0
                                  ? "not checked"
                                  : fmt::format("{:.1e} / {:.1e}", b.measured.check.error, b.measured.check.allowed);
    if (!b.measured.timing) {
      table.add_row({b.model, b.batch, b.backend->info().name, "wrong", "", "", "", "", error});
      continue;
    }
    const Timing& t = *b.measured.timing;
    table.add_row({b.model, b.batch, b.backend->info().name, fmt::format("{:.3f}", t.ms_median),
                   fmt::format("{:.3f}..{:.3f}", t.ms_p10, t.ms_p90), fmt::format("{:.3f}", b.tflops),
                   fmt::format("{:.2f}", b.gbs),
                   b.fraction > 0 ? fmt::format("{:.0f} % of {}", 100 * b.fraction, ceiling_name(b)) : "", error});
  }
  table.print();
  for (const BenchReport::Skipped& s : r.skipped) fmt::print("{} {} {}: {}\n", s.model, s.batch, s.backend, s.reason);
}

int run_bench(BenchArguments arguments) {
  auto device = open_device_named(arguments.device);
  if (!device) return report(device.status());
  auto plan = plan_bench(arguments, (*device)->info());
  if (!plan) return report(plan.status());
  arguments.measure.check = !arguments.no_check;
  auto result = bench_all(**device, *plan, arguments);
  if (!result) return report(result.status());
  if (arguments.json)
    print_json(to_json(*result, (*device)->info()));
  else
    print_as_text(*result, (*device)->info());
  if (const double others = others_at_most(*result); (*device)->info().kind == DeviceKind::kCpu && others > kQuietShare)
    report_warning(fmt::format("others used up to {:.0f} % of the cores meanwhile: times are longer than they need be",
                               100 * others));
  if (result->results.empty()) return report(unsupported("none of the backends serves this"));
  int exit_code = kSuccess;
  for (const BenchResult& b : result->results)
    if (!b.measured.timing)
      exit_code =
          report(Status(StatusCode::kInternal, fmt::format("{} on {}: error {:.3g} against the oracle; allowed: {:.3g}",
                                                           b.backend->info().name, b.batch, b.measured.check.error,
                                                           b.measured.check.allowed)));
  return exit_code;
}

}  // namespace

void add_bench_verb(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand("bench", "Time each backend on batches, checked against the oracle first");
  auto a = std::make_shared<BenchArguments>();
  add_list(*verb, "--model", a->models, "Built-in names or config.json files");
  add_list(*verb, "--batch", a->batches, "Batches, comma-separated");
  add_list(*verb, "--backends", a->backends, "all, or names");
  verb->add_option("--device", a->device, kDeviceNames)->capture_default_str();
  verb->add_option("--dtype", a->shape.dtype, "Of queries, keys, values and output: auto, fp32, fp16, bf16")
      ->capture_default_str();
  verb->add_option("--query-dtype", a->shape.query_dtype, kFp8Names)->capture_default_str();
  verb->add_option("--kv-cache-dtype", a->shape.kv_cache_dtype, kKvFormatNames)->capture_default_str();
  verb->add_option("--block-size", a->shape.block_size, "Tokens a KV block")->capture_default_str();
  verb->add_option("--warm-up", a->measure.warm_up, "Runs before timing")
      ->check(between(1, 1000))
      ->capture_default_str();
  verb->add_option("--repeats", a->measure.repeats, "Timed runs; 0: what fits --seconds, at least 5")
      ->check(between(0, 100000))
      ->capture_default_str();
  verb->add_option("--seconds", a->measure.seconds, "Time for one backend on one batch")
      ->check(between(0, 3600))
      ->capture_default_str();
  verb->add_option("--wait", a->wait, "Seconds in all to wait for others to leave the CPU's cores alone")
      ->check(between(0, 86400))
      ->capture_default_str();
  verb->add_option("--seed", a->measure.seed, "Of the random data")->capture_default_str();
  verb->add_flag("--all-layer-kinds", a->all_layer_kinds, "Also the layers with a window, where a model has both");
  verb->add_flag("--no-check", a->no_check, "Skip the oracle");
  verb->add_flag("--json", a->json, "Print JSON");
  verb->footer(kFooter);
  verb->callback([a, &action] { action = [a] { return run_bench(*a); }; });
}

}  // namespace sextant::cli
