// sextant verify: conformance of every backend.
#include <fmt/format.h>

#include <filesystem>

#include "arguments.h"
#include "parse_errors.h"
#include "progress.h"
#include "random_verify.h"
#include "table.h"
#include "verbs.h"
#include "verify/verify.h"

namespace sextant::cli {
namespace {

constexpr char kFooter[] =
    "Examples:\n"
    "  sextant verify                                            the own sweep against the fp64 oracle\n"
    "  sextant verify --onnx ../shared/data/onnx-attention --goldens ../shared/data/goldens\n"
    "  sextant verify --backends TRITON_MLA,ROCM_AITER_MLA --json\n"
    "  sextant verify --random --seconds 120                     whole batches drawn at random, at serving sizes\n"
    "  sextant verify --case '{\"backend\":\"ROCM_ATTN\", ...}'     one of them again, as its failure printed it";

struct VerifyArguments {
  std::string device = "auto", onnx, goldens;
  std::vector<std::string> backends = {"all"};
  uint64_t seed = 1;
  bool reduced = false, json = false;
  RandomArguments random;
};

void print_results(const std::vector<verify::SuiteResult>& suites, const DeviceInfo& device, bool json) {
  if (json) {
    Json array = Json::array();
    for (const verify::SuiteResult& suite : suites)
      array.push_back({{"name", suite.name},
                       {"cases", suite.cases},
                       {"passed", suite.passed},
                       {"failed", suite.failed},
                       {"skipped", suite.skipped},
                       {"messages", suite.messages}});
    print_json({{"device", device_name(device)}, {"suites", array}});
    return;
  }
  constexpr auto kRight = Table::Align::kRight;
  Table table({{"suite"}, {"cases", kRight}, {"passed", kRight}, {"failed", kRight}, {"skipped", kRight}});
  for (const verify::SuiteResult& suite : suites)
    table.add_row({suite.name, fmt::to_string(suite.cases), fmt::to_string(suite.passed), fmt::to_string(suite.failed),
                   fmt::to_string(suite.skipped)});
  fmt::print("on {} ({}, {})\n\n", device_name(device), device.name, device.architecture);
  table.print();
  for (const verify::SuiteResult& suite : suites)
    for (const std::string& message : suite.messages) fmt::print("{}: {}\n", suite.name, message);
}

// Before the sweep, which takes a while.
Status check_folders(const VerifyArguments& arguments) {
  for (const auto& [option, folder] :
       {std::pair{"--onnx", arguments.onnx}, std::pair{"--goldens", arguments.goldens}}) {
    std::error_code error;
    if (!folder.empty() && !std::filesystem::is_directory(folder, error))
      return Status(StatusCode::kNotFound, fmt::format("{} is \"{}\"; allowed: a folder that exists", option, folder));
  }
  return Status::ok();
}

int run_verify(const VerifyArguments& arguments) {
  const Status folders = check_folders(arguments);
  if (!folders.is_ok()) return report(folders);
  auto backends = parse_backends(arguments.backends);
  if (!backends) return report(backends.status());
  auto device = open_device_named(arguments.device);
  if (!device) return report(device.status());
  if (arguments.random.random || !arguments.random.text.empty())
    return run_random_verify(**device, *backends, arguments.seed, arguments.random, arguments.json);
  verify::VerifyOptions options;
  options.backends = *backends;
  options.seed = arguments.seed;
  options.reduced = arguments.reduced;
  std::vector<verify::SuiteResult> suites;
  const auto with_progress = [&options](const std::string& label, auto run) {
    Progress progress(label, 1);
    options.progress = [&progress](int done, int total) {
      progress.set_total(total);
      progress.update(done);
    };
    return run();
  };
  suites.push_back(with_progress("oracle sweep", [&] { return verify::run_oracle_sweep(**device, options); }));
  if (!arguments.onnx.empty()) {
    auto suite = with_progress("ONNX", [&] { return verify::run_onnx_suite(**device, arguments.onnx, options); });
    if (!suite) return report(suite.status());
    suites.push_back(std::move(*suite));
  }
  if (!arguments.goldens.empty()) {
    auto suite =
        with_progress("goldens", [&] { return verify::run_goldens_suite(**device, arguments.goldens, options); });
    if (!suite) return report(suite.status());
    suites.push_back(std::move(*suite));
  }
  print_results(suites, (*device)->info(), arguments.json);
  for (const verify::SuiteResult& suite : suites)
    if (suite.failed > 0) return kFailure;
  return kSuccess;
}

}  // namespace

void add_verify_verb(CLI::App& app, Action& action) {
  CLI::App* verb = app.add_subcommand("verify", "Conformance: the fp64 oracle, ONNX node tests, golden tensors");
  auto arguments = std::make_shared<VerifyArguments>();
  verb->add_option("--onnx", arguments->onnx, "Folder of the ONNX Attention node tests (cases.json, node/)");
  verb->add_option("--goldens", arguments->goldens, "Folder of recorded attention tensors (*.safetensors)");
  verb->add_option("--device", arguments->device, kDeviceNames)->capture_default_str();
  add_list(*verb, "--backends", arguments->backends, "all, or names");
  CLI::Option* random = verb->add_flag("--random", arguments->random.random, "Random batches until the time is up");
  verb->add_option("--seconds", arguments->random.seconds, "Of --random")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 1e6))
      ->needs(random);
  verb->add_option("--cases", arguments->random.cases, "Of --random, at most; 0: as many as the time allows")
      ->check(CLI::NonNegativeNumber)
      ->needs(random);
  add_list(*verb, "--isa", arguments->random.isas, "Of --random on the CPU: all, or names")->needs(random);
  verb->add_flag("--small", arguments->random.small, "Smaller batches for --random, as sanitizers need")->needs(random);
  verb->add_option("--case", arguments->random.text, "Runs one random case, given by its text")->excludes(random);
  verb->add_option("--seed", arguments->seed, "Of the random data")->capture_default_str();
  verb->add_flag("--reduced", arguments->reduced, "A smaller sweep");
  verb->add_flag("--json", arguments->json, "Print JSON; exit status 1 if anything failed");
  verb->footer(kFooter);
  verb->callback([arguments, &action] { action = [arguments] { return run_verify(*arguments); }; });
}

}  // namespace sextant::cli
