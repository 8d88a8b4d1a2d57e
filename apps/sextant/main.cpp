// sextant: attention backends compared, chosen, measured and checked from the command line.
#include <fmt/format.h>

#include <cstdio>
#include <exception>

#include "arguments.h"
#include "parse_errors.h"
#include "verbs.h"

namespace {

using namespace sextant::cli;

constexpr char kFooter[] =
    "Examples:\n"
    "  sextant doctor                                 what this machine has and what is missing\n"
    "  sextant select --model Llama-3.1-8B            which backend, and why not the others\n"
    "  sextant bench --batch q3616s20000,32q1s1k      how fast each backend is here\n"
    "  sextant replay                                 real traffic shapes through every backend\n"
    "Every verb takes --json (docs/json.md). Exit status: 0 success, 1 failure, 2 wrong usage or input.";

int run(int argc, char** argv) {
  CLI::App app{"Six attention backends over one paged KV cache: compared, chosen, measured, checked.", "sextant"};
  app.set_version_flag("--version", std::string("sextant ") + SEXTANT_VERSION);
  app.require_subcommand(1);
  app.footer(kFooter);
  Action action;
  add_backends_verb(app, action);
  add_select_verb(app, action);
  add_bench_verb(app, action);
  add_replay_verb(app, action);
  add_verify_verb(app, action);
  add_doctor_verb(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return report_parse_error(app, error, argc, argv);
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
