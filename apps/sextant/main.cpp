// sextant: attention backends compared, chosen, measured and checked from the command line.
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <mutex>
#include <string>

#include "arguments.h"
#include "parse_errors.h"
#include "sextant/log.h"
#include "verbs.h"

namespace {

using namespace sextant::cli;

constexpr char kFooter[] =
    "Examples:\n"
    "  sextant doctor                                 what this machine has and what is missing\n"
    "  sextant select --model Llama-3.1-8B            which backend, and why not the others\n"
    "  sextant size --model gpt-oss-20b --memory 80G  how many tokens and requests fit\n"
    "  sextant bench --batch q3616s20000,32q1s1k      how fast each backend is here\n"
    "  sextant replay                                 real traffic shapes through every backend\n"
    "Every verb takes --json (docs/json.md). Exit status: 0 success, 1 failure, 2 wrong usage or input.";

// Each line is whole: it is written at once, under a lock.
sextant::Status write_log_to(const std::string& path) {
  std::FILE* file = path == "-" ? stderr : std::fopen(path.c_str(), "w");
  if (file == nullptr)
    return {sextant::StatusCode::kInvalidArgument,
            fmt::format("--log is \"{}\"; allowed: a file that can be written, or -", path)};
  sextant::set_log([file, mutex = std::make_shared<std::mutex>()](const sextant::LogEvent& event) {
    const std::string line = sextant::to_json(event) + "\n";
    const std::lock_guard lock(*mutex);
    std::fputs(line.c_str(), file);
    std::fflush(file);
  });
  return sextant::Status::ok();
}

int run(int argc, char** argv) {
  CLI::App app{"Six attention backends over one paged KV cache: compared, chosen, measured, checked.", "sextant"};
  app.set_version_flag("--version", std::string("sextant ") + SEXTANT_VERSION);
  app.require_subcommand(1);
  app.footer(kFooter);
  std::string log;
  app.add_option("--log", log,
                 "Before the verb: a line of JSON for each plan and run, into this file (-: standard error)");
  Action action;
  add_backends_verb(app, action);
  add_select_verb(app, action);
  add_size_verb(app, action);
  add_bench_verb(app, action);
  add_replay_verb(app, action);
  add_verify_verb(app, action);
  add_doctor_verb(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return report_parse_error(app, error, argc, argv);
  }
  if (!log.empty()) {
    const auto opened = write_log_to(log);
    if (!opened.is_ok()) return report(opened);
  }
  return action();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {  // out of memory, or a fault of a library below
    fmt::print(stderr, "sextant: {}\n", error.what());
    return kFailure;
  }
}
